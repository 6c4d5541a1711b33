//! The parsers, each as a function that must never panic, hang or allocate without bound.

use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::{console, generation, ids, inventory, netplan, plan, seed, settings};

/// Every target by name.
pub const ALL: &[(&str, fn(&[u8]))] = &[
    ("plan", |data| with_text(data, |text| drop(plan::Plan::parse(text)))),
    ("size", |data| with_text(data, |text| drop(text.parse::<plan::Size>()))),
    ("seed", |data| drop(seed::open(data, Sha256Digest([0; 32])))),
    ("settings", |data| drop(settings::parse(data))),
    ("generation", |data| drop(generation::parse(data))),
    ("inventory", |data| drop(serde_json::from_slice::<inventory::Inventory>(data))),
    ("console-line", |data| with_text(data, |text| drop(console::Line::parse(text)))),
    ("spiffe", |data| with_text(data, |text| drop(ids::parse_spiffe("cairn.lab", text)))),
    ("manifest", cairn_bundle::manifest::fuzz),
    ("index", cairn_bundle::caibx::fuzz),
    ("chunk", cairn_bundle::chunk::fuzz),
    ("tuf", cairn_bundle::tuf::fuzz),
    ("netplan", |data| with_text(data, |text| drop(netplan::Netplan::parse_yaml(text)))),
    ("dhcp", |data| drop(cairn_net::dhcp::message::parse(data))),
    ("frame", |data| {
        let _ = cairn_net::dhcp::frame::unwrap(data, false);
        let _ = cairn_net::dhcp::frame::arp_conflict(data, [2; 6], std::net::Ipv4Addr::LOCALHOST);
    }),
    ("domain-search", |data| drop(cairn_net::dhcp::names::parse_search(data))),
    ("uevent", |data| drop(cairn_sys::uevent::parse(data))),
    ("partition-table", cairn_disk::fuzz::partition_table),
    ("signatures", cairn_disk::fuzz::signatures),
    ("uki", cairn_disk::fuzz::uki),
    ("boot-files", cairn_disk::fuzz::boot_files),
    ("install-record", cairn_disk::fuzz::install_record),
    ("bootstrap", cairn_bootstrap::fuzz),
];

fn with_text(data: &[u8], run: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        run(text);
    }
}

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
    ("agent-spool", cairn_agent::fuzz::spool),
    ("agent-modules", cairn_agent::fuzz::modules),
    ("agent-kernel", cairn_agent::fuzz::kernel),
    ("agent-files", cairn_agent::fuzz::files),
    ("agent-answers", cairn_agent::fuzz::answers),
    ("controller-requests", cairn_controller::http::fuzz::requests),
    ("controller-uploads", cairn_controller::http::fuzz::credentials_and_uploads),
    ("controller-targets", cairn_controller::http::fuzz::targets_and_headers),
    ("image-recipe", cairn_image::fuzz::recipe),
    ("image-lock", cairn_image::fuzz::lock),
    ("image-debian", cairn_image::fuzz::debian),
    ("image-binaries", cairn_image::fuzz::binaries),
    ("image-modules", cairn_image::fuzz::modules),
    ("lab-rack", cairn_lab::fuzz::rack),
    ("lab-frames", cairn_lab::fuzz::frames),
    ("lab-lines", cairn_lab::fuzz::lines),
];

/// What the fuzzers begin with, beside the files in `seeds/`: the house's own documents, and what is made in a moment.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<(&str, Vec<u8>)> = vec![
        ("image-recipe", include_bytes!("../../../image/recipes/base.toml").to_vec()),
        ("image-lock", include_bytes!("../../../image/recipes/base.lock").to_vec()),
        ("lab-rack", include_bytes!("../../racks/first-light.toml").to_vec()),
        ("plan", include_bytes!("../../racks/first-light.plan.yaml").to_vec()),
        (
            "image-debian",
            b"Package: p\nVersion: 1\nSource: s (2)\nSHA256: 00\n\nlibc.so => /lib/libc.so (0)\n".to_vec(),
        ),
        ("agent-kernel", b"3,812,99,-;device-mapper: verity: 7:0: data block 1 is corrupted\n".to_vec()),
        (
            "agent-kernel",
            b"quiet cairn.controller=https://c:8443 cairn.seed=http://s/cairn-seed.json\n".to_vec(),
        ),
        ("agent-modules", b"k/a.ko: k/b.ko\0alias pci:v* a\0softdep a pre: b\0k/c.ko\0pci:v1\0".to_vec()),
        ("controller-targets", b"bytes=0-9&nonce=00112233445566778899aabbccddeeff&limit=5".to_vec()),
    ];
    let mut index = cairn_bundle::caibx::IndexBuilder::new(cairn_bundle::caibx::ChunkSizes::default());
    for (chunk, length) in [("one", 3), ("three", 5), ("three", 5)] {
        index.push(&Sha256Digest::of(chunk.as_bytes()), length);
    }
    seeds.extend(index.finish().map(|index| ("index", index.as_bytes().to_vec())));
    seeds
}

fn with_text(data: &[u8], run: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        run(text);
    }
}

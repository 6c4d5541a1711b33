//! Racks of nodes in QEMU: switch, power, faults, assertions.
//!
//! A rack is described by a TOML file ([`spec`]) and stands up ([`rack::Rack`]) inside namespaces of its own
//! ([`namespace`]): its [`site`] is a userspace [`switch`] with dnsmasq and the controller on one tap device, its
//! [`node`]s are QEMU processes ([`qemu`]) or containers ([`container`]). Progress is read from consoles ([`tail`]) and from the controller; every wait
//! names its condition, has a deadline and points to the file that tells why it did not come.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bench;
pub mod central;
pub mod clean;
pub mod container;
pub mod dirs;
pub mod fuzz;
pub mod namespace;
pub mod node;
pub mod prepare;
pub mod progress;
pub mod qemu;
pub mod rack;
pub mod report;
pub mod scenario;
pub mod service;
pub mod signals;
pub mod site;
pub mod spec;
pub mod stick;
pub mod summary;
pub mod switch;
pub mod table;
pub mod tail;
pub mod units;
pub mod watch;

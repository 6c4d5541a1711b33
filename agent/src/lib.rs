//! Cairn's Edge Agent: PID 1 in the initramfs, afterwards a service of the booted root.
//!
//! - PID 1 ([`pid1`]) does little and never waits; a child, the worker ([`worker`]), walks the stages.
//! - A stage is tried, succeeds, or waits with a reason and an advice; what comes next is decided by a pure engine
//!   ([`engine`]). Nothing is ever given up: there is no emergency shell to fall into.
//! - Whatever comes from outside (metadata, answers, seeds, kernel texts) is measured, then parsed by pure functions.
//! - Everything lies below one root ([`paths`]), so that all of it runs in a test's directory too.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bootstrap;
pub mod cli;
pub mod clock;
pub mod cmdline;
pub mod console;
pub mod container;
pub mod control;
pub mod durable;
pub mod engine;
pub mod fetch;
pub mod fuzz;
pub mod health;
pub mod heartbeat;
pub mod identity;
pub mod inventory;
pub mod kmod;
pub mod notify;
pub mod paths;
pub mod pid1;
pub mod reinstall;
pub mod release;
pub mod report;
pub mod running;
pub mod service;
pub mod spool;
pub mod stages;
pub mod status;
pub mod trust;
pub mod uplink;
pub mod verity_watch;
pub mod worker;

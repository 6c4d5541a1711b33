//! What a node refuses of a release, an assignment, a token and a disk: the real agent, the real controller, and a release
//! made, signed and published with the real cairnctl. Each refusal is one line on the console and an event at central;
//! the node waits, and goes on by itself when the cause is gone.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "refusals/bench.rs"]
mod bench;
mod common;
#[path = "refusals/crashes.rs"]
mod crashes;
#[path = "refusals/damage.rs"]
mod damage;
#[path = "refusals/disks.rs"]
mod disks;
#[path = "refusals/metadata.rs"]
mod metadata;
#[path = "refusals/orders.rs"]
mod orders;

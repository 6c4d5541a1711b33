//! A switch of our own, in user space, so that the host needs no bridge and every link can be broken on purpose.
//!
//! - [`frame`]: what a switch reads of a frame.
//! - [`fabric`]: where a frame goes; pure.
//! - [`wire`]: the thread that carries frames between QEMU's datagram sockets and one tap device.

pub mod fabric;
pub mod frame;
pub mod wire;

pub use fabric::{Counters, Port, PortConfig, Vlan};
pub use wire::Switch;

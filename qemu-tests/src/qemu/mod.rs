//! One QEMU per node.
//!
//! - [`args`]: its command line; pure.
//! - [`accel`]: whether KVM works here.
//! - [`qmp`]: the control socket.
//! - [`process`]: the running program, and what it costs.

pub mod accel;
pub mod args;
pub mod process;
pub mod qmp;

//! A node that is a container: the agent as PID 1 of systemd-nspawn in the unpacked initramfs, then systemd of the layers.
//!
//! No firmware, no kernel of its own and no block devices; native speed where there is no KVM. Its processor and memory are
//! limited by [`groups`], its cards are tap devices in a network namespace that is new at each boot ([`link`]), its disks are
//! folders that outlive a power cycle, its boot clock starts at zero. A reboot by the node itself starts it again, as a
//! machine's does ([`process`]).

pub mod args;
pub mod groups;
pub mod link;
pub mod process;

pub use process::Process;

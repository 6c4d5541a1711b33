//! Kernel modules on demand: which modules a modalias or a name needs ([`index`], pure), when ([`urgency`], [`ahci`]),
//! and their loading ([`load`]).

pub mod ahci;
pub mod index;
pub mod load;
pub mod urgency;

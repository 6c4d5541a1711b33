//! Kernel modules on demand: which modules a modalias or a name needs ([`index`], pure), and their loading ([`load`]).

pub mod index;
pub mod load;
pub mod urgency;

//! The one crate with unsafe code: ioctls and system calls that nix does not wrap.
//!
//! Each function checks its arguments, turns the kernel's answer into an `io::Result`, and says in a `SAFETY` comment
//! why the call is sound. Nothing here decides anything.
#![allow(unsafe_code)]

pub mod packet;

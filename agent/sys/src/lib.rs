//! The one crate with unsafe code: ioctls and system calls that nix does not wrap.

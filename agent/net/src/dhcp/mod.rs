//! A DHCPv4 client (RFC 2131).
//!
//! [`message`], [`frame`], [`names`] and [`lease`] read and write bytes; [`machine`] decides, with time and chance
//! handed in; [`client`] does the sockets. Whatever a server says is checked where it is read and authorises nothing.

pub mod client;
pub mod frame;
pub mod lease;
pub mod machine;
pub mod message;
pub mod names;

pub use lease::{Lease, Route4};

#[cfg(test)]
mod tests;

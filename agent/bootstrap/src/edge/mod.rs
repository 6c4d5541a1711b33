//! Programs, files, sockets: everything that is not computed.

pub mod api;
pub mod command;
mod http;
pub mod peer;
pub mod serve;
pub mod tls;

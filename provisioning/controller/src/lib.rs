//! The Edge Controller: enrolment, plans, bundle repository, heartbeats.
//!
//! - What it answers is on disk before it is answered ([`store`]).
//! - It holds the CA and the signing key of a trust domain ([`pki`], [`config`]) and no release key: it can withhold
//!   software from a node, and cannot ship any ([`releases`], [`assign`]).
//! - Everything from outside is measured, then parsed, then answered; what is refused is refused with a problem that
//!   says what to do ([`http`]), and can be seen by operators ([`store::refusals`]).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod app;
pub mod assign;
pub mod chunks;
pub mod clock;
pub mod config;
pub mod csr;
pub mod dir;
pub mod http;
pub mod metrics;
pub mod online;
pub mod patience;
pub mod pki;
pub mod random;
pub mod releases;
pub mod serve;
pub mod server;
pub mod store;
pub mod tls;

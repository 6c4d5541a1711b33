//! Network of a node: netplan planner, rtnetlink, DHCP, resolver.
//!
//! - [`Network`] is the whole of it for the agent: start, wait, status, try another plan.
//! - Deciding is pure: [`want`] reads the plan, [`planner`] compares it with [`facts`] and gives [`op`]s;
//!   [`dhcp::machine`] is the client's state. [`kernel`] and [`dhcp::client`] do the I/O.
//! - Everything a server or a neighbour says is bounded and checked where it is read. It may give addresses, routes and
//!   resolvers; it authorises nothing.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod dhcp;
pub mod facts;
pub mod glob;
pub mod kernel;
pub mod links;
pub mod made;
mod manager;
mod network;
pub mod op;
pub mod planner;
pub mod pods;
pub mod resolv;
pub mod state;
mod status;
pub mod want;

pub use network::{NetConfig, NetError, Network, NotOnline, Outcome};
pub use status::{LinkStatus, NetStatus};

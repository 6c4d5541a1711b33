//! Generates dnsmasq and iPXE configuration for netbooting nodes.
//!
//! Cairn has no DHCP server of its own: it writes the configuration of one that sites already know. Everything here is a pure
//! function from a struct to text; who runs dnsmasq, and where, is the caller's business (the lab does it in a namespace,
//! a site on a small host).
//!
//! Nothing that this configuration hands out is trusted by the agent: DHCP may suggest a URL, it never authorises one.
//!
//! - [`config`]: what a site's netboot needs to know, and what each client architecture is given.
//! - [`dnsmasq`]: the text of `dnsmasq.conf`, for full DHCP or as proxy beside an existing server.
//! - [`ipxe`]: the iPXE scripts.
//!
//! IPv4 only. `DHCPv6` netboot (options 59 and 60 of RFC 5970) is not generated yet.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod dnsmasq;
pub mod ipxe;

pub use config::{BootUrls, Dhcp, Error, Host, Netboot, UefiPxe};

//! Values that were checked when they were read.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::cidr::Cidr;
use crate::limits::clean_text;

/// A hardware address, written `52:54:00:12:34:56`; read in either case, written in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// The text is not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hardware address: write 52:54:00:12:34:56")]
pub struct BadMac(String);

impl std::str::FromStr for MacAddr {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        let pair = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let filled =
            mac.iter_mut().all(|byte| parts.next().and_then(pair).map(|value| *byte = value).is_some());
        if filled && parts.next().is_none() { Ok(Self(mac)) } else { Err(BadMac(clean_text(text))) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where a route leads: `default`, a network `10.0.0.0/8`, or a host `10.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Everything; the gateway says of which family.
    Default,
    /// A network. A host is a network with all bits.
    Network(Cidr),
}

/// The text is not a route's destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a destination: write default, 10.0.0.0/8 or 10.0.0.1")]
pub struct BadDestination(String);

impl std::str::FromStr for Destination {
    type Err = BadDestination;
    fn from_str(text: &str) -> Result<Self, BadDestination> {
        if text == "default" {
            return Ok(Self::Default);
        }
        let host = || {
            text.parse()
                .ok()
                .map(|address: std::net::IpAddr| (address, if address.is_ipv4() { 32 } else { 128 }))
        };
        let network =
            text.parse().ok().or_else(|| host().and_then(|(address, bits)| Cidr::new(address, bits)));
        network.map(Self::Network).ok_or_else(|| BadDestination(clean_text(text)))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(MacAddr, Destination);

//! The steps by which the planner changes the kernel.

use std::fmt;

use cairn_protocol::netplan::Cidr;

use crate::facts::Route;
use crate::made::Made;

/// One step. Links are named, because a step may be about one that an earlier step makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Removes a link that was made.
    Delete {
        /// The link.
        link: String,
    },
    /// Makes a link.
    Make {
        /// Its name.
        link: String,
        /// What it is.
        made: Made,
    },
    /// Brings the link down: a bond takes no member that is up.
    Down {
        /// The link.
        link: String,
    },
    /// Puts the link into a bond or bridge, or takes it out.
    Join {
        /// The link.
        link: String,
        /// The bond or bridge; `None` takes it out.
        master: Option<String>,
    },
    /// Writes `net.ipv6.conf.LINK.KEY`.
    Ipv6 {
        /// The link.
        link: String,
        /// `accept_ra` or `autoconf`.
        key: &'static str,
        /// The value.
        value: u8,
    },
    /// Sets the MTU.
    Mtu {
        /// The link.
        link: String,
        /// Bytes.
        mtu: u32,
    },
    /// Brings the link up.
    Up {
        /// The link.
        link: String,
    },
    /// Removes an address.
    DelAddress {
        /// The link.
        link: String,
        /// The address.
        cidr: Cidr,
    },
    /// Adds an address, or gives it a new lifetime.
    SetAddress {
        /// The link.
        link: String,
        /// The address.
        cidr: Cidr,
        /// Seconds until the kernel drops it by itself; `None` is for ever.
        seconds: Option<u32>,
    },
    /// Removes a route.
    DelRoute {
        /// The link.
        link: String,
        /// The route.
        route: Route,
    },
    /// Adds a route.
    AddRoute {
        /// The link.
        link: String,
        /// The route.
        route: Route,
    },
}

impl Op {
    /// The link that it is about.
    pub fn link(&self) -> &str {
        match self {
            Self::Delete { link }
            | Self::Make { link, .. }
            | Self::Down { link }
            | Self::Join { link, .. }
            | Self::Ipv6 { link, .. }
            | Self::Mtu { link, .. }
            | Self::Up { link }
            | Self::DelAddress { link, .. }
            | Self::SetAddress { link, .. }
            | Self::DelRoute { link, .. }
            | Self::AddRoute { link, .. } => link,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delete { link } => write!(f, "{link}: delete"),
            Self::Make { link, made } => write!(f, "{link}: make {made}"),
            Self::Down { link } => write!(f, "{link}: set down"),
            Self::Join { link, master: Some(master) } => write!(f, "{link}: join {master}"),
            Self::Join { link, master: None } => write!(f, "{link}: leave its bond or bridge"),
            Self::Ipv6 { link, key, value } => write!(f, "{link}: set net.ipv6.conf.{link}.{key}={value}"),
            Self::Mtu { link, mtu } => write!(f, "{link}: set mtu {mtu}"),
            Self::Up { link } => write!(f, "{link}: set up"),
            Self::DelAddress { link, cidr } => write!(f, "{link}: remove address {cidr}"),
            Self::SetAddress { link, cidr, seconds: None } => write!(f, "{link}: add address {cidr}"),
            Self::SetAddress { link, cidr, seconds: Some(seconds) } => {
                write!(f, "{link}: add address {cidr} for {seconds} s")
            }
            Self::DelRoute { link, route } => write!(f, "{link}: remove route {route}"),
            Self::AddRoute { link, route } => write!(f, "{link}: add route {route}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " metric {} table {}", self.metric, self.table)?;
        f.write_str(if self.on_link { " on-link" } else { "" })
    }
}

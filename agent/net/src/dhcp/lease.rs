//! A DHCP lease: what it gives and how long it lasts.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Renewals more often than this are a broken or hostile server's wish.
const RENEW_MIN: u64 = 1;
/// The lease time that means for ever (RFC 2131 section 3.3).
const INFINITE: u32 = u32::MAX;

/// A classless route (RFC 3442).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route4 {
    /// Destination network.
    pub to: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Gateway; `None` is on-link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Ipv4Addr>,
}

/// A lease. All texts were checked when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of its network.
    pub prefix: u8,
    /// The server's identifier.
    pub server: Ipv4Addr,
    /// Default routers; empty when there are classless routes.
    #[serde(default)]
    pub routers: Vec<Ipv4Addr>,
    /// Classless routes.
    #[serde(default)]
    pub routes: Vec<Route4>,
    /// Resolvers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default)]
    pub search: Vec<String>,
    /// The link's MTU, 576 or more.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Time servers.
    #[serde(default)]
    pub ntp: Vec<Ipv4Addr>,
    /// The host name that the server gives.
    #[serde(default)]
    pub hostname: Option<String>,
    /// A controller URL that the server suggests (option 224). It authorises nothing: the pin does.
    #[serde(default)]
    pub controller: Option<String>,
    /// Length in seconds; `u32::MAX` is for ever.
    pub seconds: u32,
    /// Seconds until renewal (T1), where the server says.
    #[serde(default)]
    pub renew_seconds: Option<u32>,
    /// Seconds until rebinding (T2), where the server says.
    #[serde(default)]
    pub rebind_seconds: Option<u32>,
    /// When the request that got it was sent: milliseconds of `CLOCK_BOOTTIME`, which goes on over a handover.
    pub acquired_millis: u64,
}

/// The moments of a lease, as time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// T1: ask the server that gave it.
    pub renew: Duration,
    /// T2: ask any server.
    pub rebind: Duration,
    /// The address must no longer be used.
    pub expire: Duration,
}

impl Lease {
    /// T1, T2 and the end (RFC 2131 section 4.4.5); `None` for a lease without end. A server's T1 and T2 count when
    /// they are in order, else 1/2 and 7/8 of the lease.
    pub fn moments(&self) -> Option<Moments> {
        if self.seconds == INFINITE {
            return None;
        }
        let whole = u64::from(self.seconds);
        let (mut t1, mut t2) = (whole / 2, whole * 7 / 8);
        if let (Some(renew), Some(rebind)) = (self.renew_seconds, self.rebind_seconds) {
            let (renew, rebind) = (u64::from(renew), u64::from(rebind));
            if renew <= rebind && rebind <= whole {
                (t1, t2) = (renew, rebind);
            }
        }
        let start = Duration::from_millis(self.acquired_millis);
        let after = |seconds: u64| start + Duration::from_secs(seconds.max(RENEW_MIN));
        Some(Moments { renew: after(t1), rebind: after(t2), expire: after(whole) })
    }

    /// Whether it is still good at `now` (time since boot).
    pub fn is_valid(&self, now: Duration) -> bool {
        self.moments().is_none_or(|moments| now < moments.expire)
    }

    /// Seconds left at `now`; `None` for a lease without end.
    pub fn seconds_left(&self, now: Duration) -> Option<u32> {
        let left = self.moments()?.expire.saturating_sub(now).as_secs();
        Some(u32::try_from(left).unwrap_or(u32::MAX - 1))
    }
}

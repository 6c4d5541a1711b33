//! DHCPv4 messages (RFC 2131, RFC 2132): reading a server's, writing a client's.
//!
//! Everything read here comes from whoever answers first on the wire. The reader takes one packet of at most
//! [`MESSAGE_MAX`] bytes, copies what it knows, bounds every list and drops every text that is not what it should be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::lease::{Lease, Route4};
use super::names;

/// The longest message that is read, bytes: what fits an Ethernet frame; it is also what option 57 announces.
pub const MESSAGE_MAX: usize = 1472;
/// Header before the options: BOOTP (RFC 951) and the magic cookie.
const HEADER: usize = 240;
/// The shortest message that every server takes (RFC 1542 section 2.1).
const MESSAGE_MIN: usize = 300;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Entries kept of a list of addresses; a resolver reads three, a site has a few routers and time servers.
const ADDRESSES_MAX: usize = 8;
/// Classless routes kept (RFC 3442); a packet has room for about 160.
const ROUTES_MAX: usize = 64;

/// The private-use option (RFC 3942) that suggests a controller URL.
pub const OPTION_CONTROLLER: u8 = 224;

/// What is asked for. Classless routes stand before routers, as RFC 3442 wants.
const REQUESTED: [u8; 15] = [1, 121, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119, OPTION_CONTROLLER];

/// DHCP message types (RFC 2132 section 9.6) that a client sends or understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Looking for servers.
    Discover,
    /// A server's offer.
    Offer,
    /// Taking an offer, or extending a lease.
    Request,
    /// The address is in use by another.
    Decline,
    /// The lease is given.
    Ack,
    /// The lease is refused.
    Nak,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
        }
    }
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage {
    /// Discover, request or decline.
    pub kind: Kind,
    /// Transaction id.
    pub xid: u32,
    /// Seconds since the exchange began.
    pub secs: u16,
    /// The client's hardware address; the client identifier (option 61) is made from it as PXE and iPXE do, so that
    /// one machine has one address from firmware to service.
    pub mac: [u8; 6],
    /// The address the client has, when renewing or rebinding.
    pub ciaddr: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 12.
    pub hostname: Option<String>,
}

impl ClientMessage {
    /// The message as it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MESSAGE_MIN + 64);
        out.extend_from_slice(&[1, 1, 6, 0]);
        out.extend_from_slice(&self.xid.to_be_bytes());
        out.extend_from_slice(&self.secs.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.ciaddr.octets());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.mac);
        out.resize(HEADER - MAGIC.len(), 0);
        out.extend_from_slice(&MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            let value = &value[..value.len().min(255)];
            out.extend_from_slice(&[code, value.len() as u8]);
            out.extend_from_slice(value);
        };
        option(53, &[self.kind.code()]);
        let [a, b, c, d, e, f] = self.mac;
        option(61, &[1, a, b, c, d, e, f]);
        if let Some(address) = self.requested {
            option(50, &address.octets());
        }
        if let Some(server) = self.server {
            option(54, &server.octets());
        }
        if self.kind != Kind::Decline {
            if let Some(hostname) = &self.hostname {
                option(12, hostname.as_bytes());
            }
            option(57, &(MESSAGE_MAX as u16).to_be_bytes());
            option(55, &REQUESTED);
        }
        out.push(255);
        out.resize(out.len().max(MESSAGE_MIN), 0);
        out
    }
}

/// A message of a server, as far as it was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// Offer, acknowledgement or refusal.
    pub kind: Kind,
    /// Transaction id.
    pub xid: u32,
    /// The hardware address that the message is for.
    pub mac: [u8; 6],
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// What it gives; `None` where it gives nothing usable.
    pub lease: Option<Lease>,
    /// The server's own words (option 56), cleaned.
    pub text: Option<String>,
}

/// Why a packet was dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Its length.
    #[error("it has {0} bytes; a DHCP message has {HEADER} to {MESSAGE_MAX}")]
    Length(usize),
    /// Not an answer for an Ethernet client.
    #[error("it is not a BOOTP reply for Ethernet")]
    NotReply,
    /// No magic cookie.
    #[error("it is not DHCP: the magic cookie is missing")]
    Magic,
    /// Options run over the end.
    #[error("its options run over its end")]
    Options,
    /// No message type, or one that a client does not take.
    #[error("its message type is not one that a client takes")]
    Kind,
}

/// Reads a server's message from a UDP payload. Fuzz entry point.
///
/// # Errors
/// [`BadMessage`]. Unknown options and values out of range are dropped, not errors.
pub fn parse(bytes: &[u8]) -> Result<ServerMessage, BadMessage> {
    if !(HEADER..=MESSAGE_MAX).contains(&bytes.len()) {
        return Err(BadMessage::Length(bytes.len()));
    }
    if bytes[..3] != [2, 1, 6] {
        return Err(BadMessage::NotReply);
    }
    if bytes[HEADER - 4..HEADER] != MAGIC {
        return Err(BadMessage::Magic);
    }
    let options = options(bytes)?;
    let kind = match options.get(&53).map(Vec::as_slice) {
        Some([2]) => Kind::Offer,
        Some([5]) => Kind::Ack,
        Some([6]) => Kind::Nak,
        _ => return Err(BadMessage::Kind),
    };
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[28..34]);
    let server = address(&options, 54);
    let yiaddr = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
    let lease = if kind == Kind::Nak { None } else { lease(yiaddr, server, &options) };
    let text = options.get(&56).map(|text| {
        cairn_protocol::limits::clean_text(&String::from_utf8_lossy(&text[..text.len().min(255)]))
    });
    let xid = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    Ok(ServerMessage { kind, xid, mac, server, lease, text })
}

/// All options by code, the parts of split ones joined (RFC 3396), overload (option 52) followed.
fn options(bytes: &[u8]) -> Result<BTreeMap<u8, Vec<u8>>, BadMessage> {
    let mut found = BTreeMap::new();
    walk(&bytes[HEADER..], &mut found)?;
    let overload = match found.get(&52).map(Vec::as_slice) {
        Some(&[fields]) => fields,
        _ => 0,
    };
    if overload & 1 != 0 {
        walk(&bytes[108..236], &mut found)?;
    }
    if overload & 2 != 0 {
        walk(&bytes[44..108], &mut found)?;
    }
    Ok(found)
}

fn walk(mut rest: &[u8], found: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), BadMessage> {
    loop {
        match *rest {
            // Some servers leave out the end.
            [] | [255, ..] => return Ok(()),
            [0, ..] => rest = &rest[1..],
            [code, length, ref tail @ ..] => {
                let (value, after) = tail.split_at_checked(length.into()).ok_or(BadMessage::Options)?;
                found.entry(code).or_default().extend_from_slice(value);
                rest = after;
            }
            [_] => return Err(BadMessage::Options),
        }
    }
}

fn address(options: &BTreeMap<u8, Vec<u8>>, code: u8) -> Option<Ipv4Addr> {
    addresses(options, code).first().copied()
}

/// Unicast addresses of a list; the rest is dropped.
fn addresses(options: &BTreeMap<u8, Vec<u8>>, code: u8) -> Vec<Ipv4Addr> {
    let mut list = Vec::new();
    for four in options.get(&code).map(Vec::as_slice).unwrap_or_default().chunks_exact(4) {
        let address = Ipv4Addr::new(four[0], four[1], four[2], four[3]);
        if is_host(address) && !list.contains(&address) && list.len() < ADDRESSES_MAX {
            list.push(address);
        }
    }
    list
}

fn number(options: &BTreeMap<u8, Vec<u8>>, code: u8) -> Option<u32> {
    let value: [u8; 4] = options.get(&code)?.as_slice().try_into().ok()?;
    Some(u32::from_be_bytes(value))
}

/// Whether `address` can belong to a host: not 0/8, loopback, multicast, class E or broadcast.
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

fn lease(address: Ipv4Addr, server: Option<Ipv4Addr>, options: &BTreeMap<u8, Vec<u8>>) -> Option<Lease> {
    let prefix = match options.get(&1).map(Vec::as_slice) {
        Some(&[a, b, c, d]) => {
            let mask = u32::from_be_bytes([a, b, c, d]);
            let ones = mask.leading_ones();
            if mask.count_ones() != ones || !(1..=32).contains(&ones) {
                return None;
            }
            ones as u8
        }
        // RFC 950's classes, for the rare server that names no mask.
        _ => match address.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            _ => 24,
        },
    };
    if !is_host(address) {
        return None;
    }
    let seconds = number(options, 51)?;
    if seconds == 0 {
        return None;
    }
    let text = |code: u8| options.get(&code).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let mtu = options.get(&26).and_then(|two| <[u8; 2]>::try_from(two.as_slice()).ok());
    Some(Lease {
        address,
        prefix,
        server: server?,
        // RFC 3442: with classless routes, routers are ignored.
        routers: if options.contains_key(&121) { Vec::new() } else { addresses(options, 3) },
        routes: options.get(&121).map(|bytes| routes(bytes)).unwrap_or_default(),
        dns: addresses(options, 6),
        domain: text(15).map(|name| name.trim_end_matches('\0')).and_then(names::clean),
        search: options.get(&119).map(|bytes| names::parse_search(bytes)).unwrap_or_default(),
        // RFC 791: every link carries 68; below 576 hosts need not reassemble, and such values are attacks or errors.
        mtu: mtu.map(u16::from_be_bytes).filter(|mtu| *mtu >= 576),
        ntp: addresses(options, 42),
        hostname: text(12).map(|name| name.trim_end_matches('\0')).and_then(names::clean),
        controller: text(OPTION_CONTROLLER).and_then(controller),
        seconds,
        renew_seconds: number(options, 58),
        rebind_seconds: number(options, 59),
        acquired_millis: 0,
    })
}

/// A controller URL is a suggestion, tried only against the image's pin; here it is only kept from being garbage.
fn controller(text: &str) -> Option<String> {
    let text = text.trim_end_matches('\0');
    let plain = text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic());
    (plain && text.starts_with("https://") && text.len() > 8).then(|| text.to_owned())
}

/// RFC 3442: prefix length, as many bytes of the prefix as it needs, gateway (0.0.0.0 for on-link).
fn routes(mut bytes: &[u8]) -> Vec<Route4> {
    let mut routes = Vec::new();
    while let [prefix @ 0..=32, tail @ ..] = bytes {
        let significant = usize::from(prefix.div_ceil(8));
        let Some((dest, tail)) = tail.split_at_checked(significant) else { break };
        let Some((&[a, b, c, d], tail)) = tail.split_first_chunk::<4>() else { break };
        bytes = tail;
        let mut to = [0; 4];
        to[..significant].copy_from_slice(dest);
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        let via = Ipv4Addr::new(a, b, c, d);
        let route = Route4 {
            to: Ipv4Addr::from(u32::from_be_bytes(to) & mask),
            prefix: *prefix,
            via: (!via.is_unspecified()).then_some(via),
        };
        if route.via.is_none_or(is_host) && !routes.contains(&route) && routes.len() < ROUTES_MAX {
            routes.push(route);
        }
    }
    routes
}

//! IPv4 and UDP headers around a DHCP message, and ARP probes: a link without an address has no UDP socket.

use std::net::Ipv4Addr;

use cairn_sys::packet::Instruction;

use super::message::MESSAGE_MAX;

/// `ETH_P_IP` and `ETH_P_ARP` of linux/if_ether.h.
pub const ETHERTYPE_IP: u16 = 0x0800;
/// See [`ETHERTYPE_IP`].
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// The broadcast hardware address.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Room for the longest frame that is read: IPv4 header with options, UDP header, message.
pub const FRAME_MAX: usize = 60 + 8 + MESSAGE_MAX;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const PROTOCOL_UDP: u8 = 17;

/// Lets pass, from the network header on: UDP, not a later fragment, to port 68.
pub const DHCP_FILTER: &[Instruction] = &[
    (0x30, 0, 0, 9),      // A = protocol
    (0x15, 0, 6, 17),     // UDP?
    (0x28, 0, 0, 6),      // A = fragment word
    (0x45, 4, 0, 0x1fff), // a later fragment?
    (0xb1, 0, 0, 0),      // X = header length
    (0x48, 0, 0, 2),      // A = destination port
    (0x15, 0, 1, 68),     // the client's?
    (0x06, 0, 0, 0xffff), // take
    (0x06, 0, 0, 0),      // drop
];

/// Lets ARP for IPv4 over Ethernet pass.
pub const ARP_FILTER: &[Instruction] = &[
    (0x20, 0, 0, 0),           // A = hardware and protocol type
    (0x15, 0, 1, 0x0001_0800), // Ethernet, IPv4?
    (0x06, 0, 0, 64),
    (0x06, 0, 0, 0),
];

/// The ones' complement sum of RFC 1071.
fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    total
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    !(total as u16)
}

fn pseudo_header(source: [u8; 4], dest: [u8; 4], length: u16) -> u32 {
    sum(&dest, sum(&source, u32::from(PROTOCOL_UDP) + u32::from(length)))
}

/// An IPv4 packet with a client's `message` to the broadcast address.
pub fn wrap(message: &[u8], source: Ipv4Addr) -> Vec<u8> {
    let (source, dest) = (source.octets(), Ipv4Addr::BROADCAST.octets());
    let udp_length = (8 + message.len()) as u16;
    let mut packet = Vec::with_capacity(28 + message.len());
    packet.extend_from_slice(&[0x45, 0x10]);
    packet.extend_from_slice(&(20 + udp_length).to_be_bytes());
    // Identification, flags, TTL 64, UDP, checksum.
    packet.extend_from_slice(&[0, 0, 0, 0, 64, PROTOCOL_UDP, 0, 0]);
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&dest);
    let checksum = fold(sum(&packet, 0));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    for word in [CLIENT_PORT, SERVER_PORT, udp_length, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(message);
    // Zero means none in UDP over IPv4, so a sum of zero is sent as ones.
    let checksum = match fold(sum(&packet[20..], pseudo_header(source, dest, udp_length))) {
        0 => 0xffff,
        other => other,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The UDP payload of an IPv4 packet to a DHCP client; `None` for anything else or anything damaged.
/// `checksum_missing`: the sender left the UDP checksum to hardware, do not judge it. Fuzz entry point.
pub fn unwrap(packet: &[u8], checksum_missing: bool) -> Option<&[u8]> {
    let &first = packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header < 20 || packet.len() < header + 8 {
        return None;
    }
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let total = usize::from(word(2));
    let fragment = word(6) & 0x3fff;
    if total < header + 8 || total > packet.len() || fragment != 0 || packet[9] != PROTOCOL_UDP {
        return None;
    }
    if fold(sum(&packet[..header], 0)) != 0 {
        return None;
    }
    let udp = &packet[header..total];
    let length = usize::from(word(header + 4));
    if word(header + 2) != CLIENT_PORT || !(8..=udp.len()).contains(&length) {
        return None;
    }
    if word(header + 6) != 0 && !checksum_missing {
        let (mut source, mut dest) = ([0; 4], [0; 4]);
        source.copy_from_slice(&packet[12..16]);
        dest.copy_from_slice(&packet[16..20]);
        if fold(sum(&udp[..length], pseudo_header(source, dest, length as u16))) != 0 {
            return None;
        }
    }
    Some(&udp[8..length])
}

/// An ARP probe (RFC 5227 section 2.1.1): who has `address`, asked from no address.
pub fn arp_probe(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend_from_slice(&mac);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(&address.octets());
    packet
}

/// An ARP announcement (RFC 5227 section 2.3): `address` is at `mac` from now on.
pub fn arp_announcement(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = arp_probe(mac, address);
    // The sender's address, behind its hardware address.
    packet[14..18].copy_from_slice(&address.octets());
    packet
}

/// Whether an ARP packet shows that another than `mac` uses `address` or probes for it (RFC 5227 section 2.1.1).
pub fn arp_conflict(packet: &[u8], mac: [u8; 6], address: Ipv4Addr) -> bool {
    if packet.len() < 28 || packet[..6] != [0, 1, 8, 0, 6, 4] || packet[8..14] == mac {
        return false;
    }
    let uses = packet[14..18] == address.octets();
    let probes = packet[6..8] == [0, 1] && packet[14..18] == [0; 4] && packet[24..28] == address.octets();
    uses || probes
}

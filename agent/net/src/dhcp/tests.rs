use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::message::{BadMessage, ClientMessage, Kind, MESSAGE_MAX, parse};
use super::{Route4, frame};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// A server's message with `options` (code, value).
fn reply(options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    bytes[16..20].copy_from_slice(&[192, 0, 2, 100]);
    bytes[28..34].copy_from_slice(&MAC);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    for (code, value) in options {
        bytes.extend_from_slice(&[*code, value.len() as u8]);
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

const ACK: [(u8, &[u8]); 4] =
    [(53, &[5]), (54, &[192, 0, 2, 1]), (51, &[0, 0, 14, 16]), (1, &[255, 255, 255, 0])];

fn ack(more: &[(u8, &[u8])]) -> Option<super::Lease> {
    parse(&reply(&[&ACK[..], more].concat())).unwrap().lease
}

#[test]
fn what_a_client_sends_looks_as_the_rfc_says() {
    let message = ClientMessage {
        kind: Kind::Request,
        xid: 0x0102_0304,
        secs: 5,
        mac: MAC,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        requested: Some(Ipv4Addr::new(192, 0, 2, 100)),
        server: Some(Ipv4Addr::new(192, 0, 2, 1)),
        hostname: Some("n1".to_owned()),
    };
    let bytes = message.encode();
    let mut expect = vec![0; 240];
    expect[..10].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4, 0, 5]);
    expect[28..34].copy_from_slice(&MAC);
    expect[236..].copy_from_slice(&[99, 130, 83, 99]);
    expect.extend_from_slice(&[53, 1, 3, 61, 7, 1]);
    expect.extend_from_slice(&MAC);
    expect
        .extend_from_slice(&[50, 4, 192, 0, 2, 100, 54, 4, 192, 0, 2, 1, 12, 2, b'n', b'1', 57, 2, 5, 0xc0]);
    expect.extend_from_slice(&[55, 15, 1, 121, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119, 224, 255]);
    expect.resize(300, 0);
    assert_eq!(bytes, expect);
}

#[test]
fn an_acknowledgement_with_everything() {
    let lease = ack(&[
        (3, &[192, 0, 2, 1, 192, 0, 2, 2]),
        (6, &[192, 0, 2, 53, 192, 0, 2, 53, 127, 0, 0, 1]),
        (12, b"node-7\0"),
        (15, b"Lab.Example"),
        (26, &[0x23, 0x28]),
        (42, &[192, 0, 2, 7]),
        (119, b"\x03lab\x07exa"),
        (119, b"mple\x00"),
        (224, b"https://central:8443"),
        (58, &[0, 0, 0, 9]),
        (59, &[0, 0, 0, 8]),
    ])
    .unwrap();
    assert_eq!(lease.address, Ipv4Addr::new(192, 0, 2, 100));
    assert_eq!((lease.prefix, lease.seconds, lease.mtu), (24, 3600, Some(9000)));
    assert_eq!(lease.routers.len(), 2);
    assert_eq!(lease.dns, [Ipv4Addr::new(192, 0, 2, 53)]);
    assert_eq!((lease.hostname.as_deref(), lease.domain.as_deref()), (Some("node-7"), Some("lab.example")));
    assert_eq!(lease.search, ["lab.example"], "split over two options, RFC 3396");
    assert_eq!(lease.controller.as_deref(), Some("https://central:8443"));
    // T1 after T2 is nonsense: the defaults hold.
    assert_eq!(lease.moments().unwrap().renew.as_secs(), 1800);
}

#[test]
fn classless_routes_of_rfc_3442() {
    let bytes = [0, 192, 0, 2, 1, 8, 10, 192, 0, 2, 2, 25, 203, 0, 113, 255, 0, 0, 0, 0, 33, 1, 2, 3];
    let lease = ack(&[(3, &[192, 0, 2, 9]), (121, &bytes)]).unwrap();
    let route = |to: [u8; 4], prefix, via: Option<[u8; 4]>| Route4 {
        to: to.into(),
        prefix,
        via: via.map(Into::into),
    };
    assert_eq!(
        lease.routes,
        [
            route([0; 4], 0, Some([192, 0, 2, 1])),
            route([10, 0, 0, 0], 8, Some([192, 0, 2, 2])),
            route([203, 0, 113, 128], 25, None),
        ]
    );
    assert!(lease.routers.is_empty());
}

#[test]
fn what_a_hostile_server_cannot_do() {
    let base = reply(&ACK);
    let with = |at: usize, value: &[u8]| {
        let mut bytes = base.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        parse(&bytes)
    };
    assert_eq!(parse(&base[..239]), Err(BadMessage::Length(239)));
    assert_eq!(parse(&[2; MESSAGE_MAX + 1]), Err(BadMessage::Length(MESSAGE_MAX + 1)));
    assert_eq!(with(0, &[1]), Err(BadMessage::NotReply));
    assert_eq!(with(2, &[16]), Err(BadMessage::NotReply));
    assert_eq!(with(236, &[0]), Err(BadMessage::Magic));
    assert_eq!(parse(&base[..base.len() - 3]), Err(BadMessage::Options));
    assert_eq!(parse(&reply(&[(53, &[1])])), Err(BadMessage::Kind));
    assert_eq!(parse(&reply(&[(51, &[0, 0, 1, 0])])), Err(BadMessage::Kind));
    for address in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        assert_eq!(with(16, &address).unwrap().lease, None, "{address:?}");
    }
    assert_eq!(ack(&[]).map(|lease| lease.prefix), Some(24));
    for (code, value) in
        [(51, &[0, 0, 0, 0][..]), (51, &[1]), (1, &[255, 0, 255, 0]), (1, &[0, 0, 0, 0]), (54, &[0; 4])]
    {
        let options: Vec<_> =
            ACK.iter().map(|option| if option.0 == code { (code, value) } else { *option }).collect();
        assert_eq!(parse(&reply(&options)).unwrap().lease, None, "{code} {value:?}");
    }
    let odd = ack(&[
        (12, b"a\nb"),
        (15, b"evil nameserver"),
        (26, &[0, 68]),
        (224, b"http://plain"),
        (119, &[0xc0, 0]),
        (6, &[1, 2, 3]),
    ])
    .unwrap();
    assert_eq!((odd.hostname, odd.domain, odd.mtu, odd.controller), (None, None, None, None));
    assert!(odd.search.is_empty() && odd.dns.is_empty());
    // Overload: options go on in `file` and `sname`; what is there counts, and runs over no end.
    let mut bytes = reply(&[&ACK[..], &[(52, &[3])]].concat());
    bytes[108..114].copy_from_slice(&[3, 4, 192, 0, 2, 1]);
    assert_eq!(parse(&bytes).unwrap().lease.unwrap().routers, [Ipv4Addr::new(192, 0, 2, 1)]);
    bytes[44..46].copy_from_slice(&[6, 200]);
    assert_eq!(parse(&bytes), Err(BadMessage::Options));
}

#[test]
fn frames_are_wrapped_and_damage_is_seen() {
    let message = vec![7; 301];
    let packet = frame::wrap(&message, Ipv4Addr::new(192, 0, 2, 5));
    assert_eq!(packet.len(), 329);
    // Sent to port 67: as an answer it would go to 68.
    assert_eq!(frame::unwrap(&packet, false), None);
    let mut answer = packet;
    answer[20..24].copy_from_slice(&[0, 67, 0, 68]);
    // Swapped ports have the same sum.
    assert_eq!(frame::unwrap(&answer, false), Some(&message[..]));
    let padded = [answer.clone(), vec![0; 20]].concat();
    assert_eq!(frame::unwrap(&padded, false), Some(&message[..]), "Ethernet pads short frames");
    for at in 0..answer.len() {
        let mut broken = answer.clone();
        broken[at] ^= 0x11;
        assert_ne!(frame::unwrap(&broken, false), Some(&message[..]), "byte {at}");
    }
    answer[40] ^= 1;
    assert!(frame::unwrap(&answer, true).is_some(), "a checksum that is not there is not judged");
    let probe = frame::arp_probe(MAC, Ipv4Addr::new(192, 0, 2, 9));
    assert_eq!(probe.len(), 28);
    assert!(!frame::arp_conflict(&probe, MAC, Ipv4Addr::new(192, 0, 2, 9)), "our own");
    assert!(frame::arp_conflict(&probe, [9; 6], Ipv4Addr::new(192, 0, 2, 9)), "another probes for it too");
    assert!(!frame::arp_conflict(&probe, [9; 6], Ipv4Addr::new(192, 0, 2, 8)));
}

proptest! {
    #[test]
    fn any_packet_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1600), ready: bool) {
        let _ = frame::unwrap(&bytes, ready);
        let _ = parse(&bytes);
        let _ = super::names::parse_search(&bytes);
        let _ = frame::arp_conflict(&bytes, MAC, Ipv4Addr::LOCALHOST);
    }

    #[test]
    fn any_options_give_a_lease_within_bounds(options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let mut all: Vec<(u8, &[u8])> = ACK.to_vec();
        all.extend(options.iter().filter(|(code, _)| ![0, 1, 51, 52, 53, 54, 255].contains(code)).map(|(code, value)| (*code, value.as_slice())));
        let bytes = reply(&all);
        prop_assume!(bytes.len() <= MESSAGE_MAX);
        let lease = parse(&bytes).unwrap().lease.unwrap();
        prop_assert!(lease.dns.len() <= 8 && lease.routes.len() <= 64 && lease.search.len() <= 8);
        prop_assert!(lease.dns.iter().chain(&lease.routers).chain(&lease.ntp).all(|ip| super::message::is_host(*ip)));
        let texts = lease.search.iter().chain(&lease.domain).chain(&lease.hostname).chain(&lease.controller);
        prop_assert!(texts.into_iter().all(|text| text.bytes().all(|b| b.is_ascii_graphic())));
        let moments = lease.moments().unwrap();
        prop_assert!(moments.renew <= moments.rebind && moments.rebind <= moments.expire);
        let again: super::Lease = serde_json::from_str(&serde_json::to_string(&lease).unwrap()).unwrap();
        prop_assert_eq!(again, lease);
    }
}

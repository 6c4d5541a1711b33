//! The network against a real dnsmasq.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::Ipv4Addr;

use cairn_net::Network;
use lab::{PATIENCE, ip, isolated, status, until};

#[test]
fn a_lease_brings_the_link_online() {
    isolated("a_lease_brings_the_link_online", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq(
            "a",
            &[
                "--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0,1h",
                "--dhcp-option=option:dns-server,192.0.2.1,192.0.2.9",
                "--dhcp-option=option:domain-search,lab.example,example",
                "--dhcp-option=option:mtu,1400",
                "--dhcp-option=option:ntp-server,192.0.2.7",
                "--dhcp-option=224,https://central.example:8443",
                "--domain=lab.example",
            ],
        );
        let network = Network::start(lab.config()).await.unwrap();
        let status = network.wait_online(PATIENCE).await.unwrap_or_else(|e| panic!("{e}\n{}", dnsmasq.log()));
        let lease = status.links[0].lease.as_ref().unwrap();
        assert_eq!(status.links[0].addresses[0].to_string(), format!("{}/24", lease.address));
        assert_eq!(status.controllers, ["https://central.example:8443"]);
        assert_eq!(status.ntp, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(
            std::fs::read_to_string(lab.path("resolv.conf")).unwrap(),
            "# Written by cairn-agent; changes are lost.\n\
             search lab.example example\nnameserver 192.0.2.1\nnameserver 192.0.2.9\n"
        );
        let routes = ip("-4 route");
        assert!(routes.contains("default via 192.0.2.1 dev eth0 proto dhcp"), "{routes}");
        assert!(ip("link show eth0").contains("mtu 1400"));
        assert!(ip("-4 address show dev eth0").contains("valid_lft"));
        assert!(dnsmasq.count("node-1") > 0, "{}", dnsmasq.log());
        // Refused by the machine at the other end: it was reached.
        let answer = tokio::net::TcpStream::connect("192.0.2.1:9").await.unwrap_err();
        assert_eq!(answer.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

const RANGE: &str = "--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0,1h";
/// Renewal after 1 s, rebinding after 3: dnsmasq gives no lease below two minutes.
const SHORT: [&str; 3] = [RANGE, "--dhcp-option-force=option:T1,1", "--dhcp-option-force=option:T2,3"];

fn lease_address(status: &cairn_net::NetStatus) -> Option<Ipv4Addr> {
    status.links.first()?.lease.as_ref().map(|lease| lease.address)
}

#[test]
fn a_lease_is_renewed_and_the_address_stays() {
    isolated("a_lease_is_renewed_and_the_address_stays", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq("a", &SHORT);
        let network = Network::start(lab.config()).await.unwrap();
        let first = network.wait_online(PATIENCE).await.unwrap();
        let discovers = dnsmasq.count("DHCPDISCOVER(srv0)");
        let acquired = first.links[0].lease.as_ref().unwrap().acquired_millis;
        dnsmasq.said("DHCPACK(srv0)", 3).await;
        let now = status(&network, "a later lease", |status| {
            status.links[0].lease.as_ref().is_some_and(|lease| lease.acquired_millis > acquired)
        });
        assert_eq!(lease_address(&now.await), lease_address(&first));
        // From the leased address: no new exchange was begun.
        assert_eq!(dnsmasq.count("DHCPDISCOVER(srv0)"), discovers, "{}", dnsmasq.log());
    });
}

#[test]
fn a_refused_renewal_gives_up_the_address_and_gets_another() {
    isolated("a_refused_renewal_gives_up_the_address_and_gets_another", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq("a", &SHORT);
        let network = Network::start(lab.config()).await.unwrap();
        network.wait_online(PATIENCE).await.unwrap();
        drop(dnsmasq);
        // The same network, other addresses, and the last word on them.
        let dnsmasq = peer.dnsmasq(
            "b",
            &[
                "--dhcp-range=192.0.2.10,192.0.2.20,255.255.255.0,1h",
                "--dhcp-authoritative",
                SHORT[1],
                SHORT[2],
            ],
        );
        dnsmasq.said("DHCPNAK(srv0)", 1).await;
        let now = status(&network, "an address of the second server", |status| {
            lease_address(status).is_some_and(|address| address.octets()[3] <= 20)
                && status.links[0].is_online()
        });
        let address = lease_address(&now.await).unwrap().to_string();
        until("only the new address is on the link", || {
            let text = ip("-4 -o address show dev eth0");
            text.lines().count() == 1 && text.contains(&address)
        })
        .await;
    });
}

#[test]
fn a_server_that_is_late_is_found_and_said_to_be_missing_before() {
    isolated("a_server_that_is_late_is_found_and_said_to_be_missing_before", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let network = Network::start(lab.config()).await.unwrap();
        let now = status(&network, "a word on the silence", |status| {
            status.problems().is_some_and(|text| text.contains("no DHCP server has answered"))
        });
        assert!(!now.await.is_online());
        let _dnsmasq = peer.dnsmasq("a", &[RANGE]);
        let now = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(now.problems(), None);
    });
}

#[test]
fn two_links_have_a_default_route_each() {
    isolated("two_links_have_a_default_route_each", async |lab| {
        let (first, second) = (lab.peer("eth0", &["192.0.2.1/24"]), lab.peer("eth1", &["198.51.100.1/24"]));
        let _one = first.dnsmasq("a", &[RANGE]);
        let _two = second.dnsmasq("b", &["--dhcp-range=198.51.100.100,198.51.100.200,255.255.255.0,1h"]);
        let network = Network::start(lab.config()).await.unwrap();
        status(&network, "both links online", |status| {
            status.links.len() == 2 && status.links.iter().all(cairn_net::LinkStatus::is_online)
        })
        .await;
        let routes = ip("-4 route show default");
        assert_eq!(routes.lines().count(), 2, "{routes}");
        assert!(routes.lines().next().unwrap().contains("via 192.0.2.1 dev eth0"), "{routes}");
    });
}

#[test]
fn classless_routes_stand_in_place_of_the_router() {
    isolated("classless_routes_stand_in_place_of_the_router", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let _dnsmasq =
            peer.dnsmasq("a", &[RANGE, "--dhcp-option=121,10.0.0.0/8,192.0.2.2,203.0.113.0/24,192.0.2.3"]);
        let network = Network::start(lab.config()).await.unwrap();
        network.wait_online(PATIENCE).await.unwrap();
        let routes = ip("-4 route");
        assert!(routes.contains("10.0.0.0/8 via 192.0.2.2 dev eth0 proto dhcp"), "{routes}");
        assert!(routes.contains("203.0.113.0/24 via 192.0.2.3 dev eth0 proto dhcp"), "{routes}");
        assert!(!routes.contains("default"), "{routes}");
    });
}

#[test]
fn a_pulled_cable_is_said_and_put_back_works_again() {
    isolated("a_pulled_cable_is_said_and_put_back_works_again", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq("a", &[RANGE]);
        let network = Network::start(lab.config()).await.unwrap();
        let first = network.wait_online(PATIENCE).await.unwrap();
        let (discovers, acks) = (dnsmasq.count("DHCPDISCOVER(srv0)"), dnsmasq.count("DHCPACK(srv0)"));
        peer.ip("link set srv0 down");
        let problem = |text: &'static str| {
            move |status: &cairn_net::NetStatus| status.problems().is_some_and(|problems| problems == text)
        };
        status(&network, "no carrier", problem("eth0: no carrier: check the cable")).await;
        until("the address goes after the grace", || ip("-4 -o address show dev eth0").is_empty()).await;
        peer.ip("link set srv0 up");
        let again = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(lease_address(&again), lease_address(&first));
        // It asked for its address again, without looking for servers.
        assert_eq!(dnsmasq.count("DHCPDISCOVER(srv0)"), discovers, "{}", dnsmasq.log());
        assert!(dnsmasq.count("DHCPACK(srv0)") > acks, "{}", dnsmasq.log());
    });
}

#[test]
fn an_address_that_another_uses_is_declined() {
    isolated("an_address_that_another_uses_is_declined", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        // The other machine: it answers ARP as any that has the address.
        peer.ip("address add 192.0.2.100/32 dev lo");
        let range = "--dhcp-range=192.0.2.100,192.0.2.101,255.255.255.0,1h";
        let mac = "--dhcp-host=02:00:00:00:00:01,192.0.2.100";
        ip("link set eth0 address 02:00:00:00:00:01");
        let dnsmasq = peer.dnsmasq("a", &[range, mac]);
        let network = Network::start(lab.config()).await.unwrap();
        dnsmasq.said("DHCPDECLINE(srv0)", 1).await;
        status(&network, "a word on the conflict", |status| {
            status.problems().is_some_and(|text| text.contains("another machine uses 192.0.2.100"))
        })
        .await;
        let now = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(lease_address(&now), Some(Ipv4Addr::new(192, 0, 2, 101)));
    });
}

#[test]
fn the_next_process_goes_on_with_the_lease() {
    isolated("the_next_process_goes_on_with_the_lease", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq("a", &[RANGE]);
        let network = Network::start(lab.config()).await.unwrap();
        let first = network.wait_online(PATIENCE).await.unwrap();
        let said = dnsmasq.count("DHCP");
        drop(network);
        let network = Network::start(lab.config()).await.unwrap();
        let second = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(second.links[0].lease, first.links[0].lease);
        assert_eq!(dnsmasq.count("DHCP"), said, "{}", dnsmasq.log());
        // A state file that is not one costs the lease, not the node.
        drop(network);
        std::fs::write(lab.path("network.json"), "{").unwrap();
        let network = Network::start(lab.config()).await.unwrap();
        let third = status(&network, "a lease", |status| lease_address(status).is_some()).await;
        assert_eq!(lease_address(&third), lease_address(&first));
    });
}

#[test]
fn garbage_on_the_wire_changes_nothing() {
    isolated("garbage_on_the_wire_changes_nothing", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let dnsmasq = peer.dnsmasq("a", &[RANGE]);
        let network = Network::start(lab.config()).await.unwrap();
        // Broadcast to port 68 from the server's port, all lengths and all sorts, while the lease is asked for.
        let script = "for i in $(seq 1 400); do head -c $((i * 4)) /dev/urandom \
            > /dev/udp/192.0.2.255/68 || true; done 2>/dev/null; true";
        peer.shell(script);
        let now = network.wait_online(PATIENCE).await.unwrap_or_else(|e| panic!("{e}\n{}", dnsmasq.log()));
        peer.shell(script);
        assert_eq!(lease_address(&network.status()), lease_address(&now));
        assert_eq!(network.status().problems(), None);
    });
}

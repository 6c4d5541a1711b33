//! Network documents against a real kernel, and against a real dnsmasq where a server is needed.
#![allow(clippy::unwrap_used)]

mod lab;

use std::time::Duration;

use cairn_net::{Network, Outcome};
use cairn_protocol::netplan::Netplan;
use lab::{PATIENCE, ip, isolated, status, until};

fn plan(ethernets: &str) -> Netplan {
    Netplan::parse_yaml(&format!("network:\n  version: 2\n{ethernets}")).unwrap()
}

const STATIC: &str = "
  ethernets:
    lan:
      match: { name: \"eth*\" }
      addresses: [192.0.2.10/24, \"2001:db8::10/64\"]
      accept-ra: false
      mtu: 1400
      routes:
        - { to: default, via: 192.0.2.1, metric: 50 }
        - { to: 10.0.0.0/8, via: 198.51.100.1, on-link: true, table: 100 }
        - { to: 203.0.113.0/24 }
        - { to: default, via: \"2001:db8::1\" }
      nameservers: { addresses: [192.0.2.53, 192.0.2.53, \"2001:db8::53\"], search: [lab.example] }
";

#[test]
fn static_addresses_routes_mtu_and_resolvers() {
    isolated("static_addresses_routes_mtu_and_resolvers", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24", "2001:db8::1/64"]);
        ip("address add 192.0.2.77/24 dev eth0");
        let mut config = lab.config();
        config.netplan = Some(plan(STATIC));
        let network = Network::start(config.clone()).await.unwrap();
        status(&network, "both addresses, IPv6 after its duplicate address detection", |status| {
            status.links[0].addresses.len() == 2
        })
        .await;
        let wire = ip("-4 -o address show dev eth0");
        assert!(wire.contains("192.0.2.10/24") && !wire.contains("192.0.2.77"), "{wire}");
        assert!(ip("link show eth0").contains("mtu 1400"));
        let routes = ip("-4 route");
        assert!(routes.contains("default via 192.0.2.1 dev eth0 proto static metric 50"), "{routes}");
        assert!(routes.contains("203.0.113.0/24 dev eth0 proto static scope link"), "{routes}");
        let routes = ip("-4 route show table 100");
        assert!(routes.contains("10.0.0.0/8 via 198.51.100.1 dev eth0 proto static onlink"), "{routes}");
        assert!(
            ip("-6 route").contains("default via 2001:db8::1 dev eth0 proto static"),
            "{}",
            ip("-6 route")
        );
        assert_eq!(
            std::fs::read_to_string(lab.path("resolv.conf")).unwrap(),
            "# Written by cairn-agent; changes are lost.\nsearch lab.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n"
        );
        let answer = tokio::net::TcpStream::connect("[2001:db8::1]:9").await.unwrap_err();
        assert_eq!(answer.kind(), std::io::ErrorKind::ConnectionRefused);
        // The same again finds nothing to do.
        drop(network);
        let before = (ip("address"), ip("-4 route show table all"), ip("-6 route show table all"));
        let network = Network::start(config).await.unwrap();
        assert!(network.status().is_online());
        assert_eq!(before, (ip("address"), ip("-4 route show table all"), ip("-6 route show table all")));
        drop(peer);
    });
}

#[test]
fn router_advertisements_give_an_address_and_a_route() {
    isolated("router_advertisements_give_an_address_and_a_route", async |lab| {
        let peer = lab.peer("eth0", &["fd00:1::1/64"]);
        let _dnsmasq =
            peer.dnsmasq("a", &["--enable-ra", "--dhcp-range=fd00:1::,ra-only", "--ra-param=srv0,5,30"]);
        let network = Network::start(lab.config()).await.unwrap();
        let now = status(&network, "an address of the advertised prefix", |status| {
            status
                .links
                .iter()
                .any(|link| link.addresses.iter().any(|cidr| cidr.to_string().starts_with("fd00:1:")))
        });
        assert!(now.await.is_online());
        until("a default route by the advertisement", || ip("-6 route show default").contains("proto ra"))
            .await;
        // And not where the plan says no.
        network.apply(Some(plan("  ethernets: { eth0: { accept-ra: false } }"))).await.unwrap();
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap(), "0\n");
    });
}

#[test]
fn a_plan_that_does_not_reach_the_controller_returns_to_the_one_before() {
    isolated("a_plan_that_does_not_reach_the_controller_returns_to_the_one_before", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let _dnsmasq = peer.dnsmasq("a", &["--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0,1h"]);
        let network = Network::start(lab.config()).await.unwrap();
        let first = network.wait_online(PATIENCE).await.unwrap();
        let wrong = plan("  ethernets: { eth0: { addresses: [198.51.100.5/24], accept-ra: false } }");
        // The probe runs while the new plan is in force.
        let probe = async {
            assert!(ip("-4 -o address show dev eth0").contains("198.51.100.5"));
            tokio::net::TcpStream::connect("192.0.2.1:9").await.unwrap_err().kind()
                == std::io::ErrorKind::ConnectionRefused
        };
        let outcome = network.reconfigure(Some(wrong), PATIENCE, probe).await.unwrap();
        assert!(matches!(&outcome, Outcome::Returned { why } if why.contains("controller")), "{outcome:?}");
        let back = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(back.links[0].addresses, first.links[0].addresses);
        assert!(!ip("-4 -o address show dev eth0").contains("198.51.100.5"));
        // One that names no link of this machine comes to nothing either.
        let other = plan("  ethernets: { nic: { match: { driver: ixgbe }, dhcp4: true } }");
        let outcome =
            network.reconfigure(Some(other), Duration::from_millis(100), async { true }).await.unwrap();
        assert!(
            matches!(&outcome, Outcome::Returned { why } if why.contains("no network interface")),
            "{outcome:?}"
        );
        network.wait_online(PATIENCE).await.unwrap();
        // And one that works stays.
        let right = plan("  ethernets: { eth0: { addresses: [192.0.2.5/24], accept-ra: false } }");
        let outcome = network.reconfigure(Some(right), PATIENCE, async { true }).await.unwrap();
        assert_eq!(outcome, Outcome::Kept);
        assert_eq!(network.status().links[0].addresses[0].to_string(), "192.0.2.5/24");
    });
}

#[test]
fn a_bridge_is_made_carries_the_lease_and_goes_again() {
    isolated("a_bridge_is_made_carries_the_lease_and_goes_again", async |lab| {
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let _dnsmasq = peer.dnsmasq("a", &["--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0,1h"]);
        let mut config = lab.config();
        let bridge = "
  ethernets: { port: { match: { name: eth0 } } }
  bridges: { br0: { interfaces: [port], dhcp4: true, accept-ra: false, parameters: { stp: false } } }";
        config.netplan = Some(plan(bridge));
        let network = Network::start(config).await.unwrap();
        let now = network.wait_online(PATIENCE).await.unwrap();
        assert!(now.links.iter().any(|link| link.name == "br0" && link.lease.is_some()), "{now:#?}");
        assert!(ip("link show eth0").contains("master br0"));
        // Another parameter: made anew.
        network
            .apply(Some(plan(&bridge.replace("stp: false", "stp: true, forward-delay: 2"))))
            .await
            .unwrap();
        until("spanning tree is on", || {
            let text = ip("-d link show br0");
            text.contains("stp_state 1")
                && text.contains("forward_delay 200")
                && ip("link show eth0").contains("master br0")
        })
        .await;
        network.apply(None).await.unwrap();
        until("the bridge is gone", || !ip("link").contains("br0")).await;
        let now = network.wait_online(PATIENCE).await.unwrap();
        assert_eq!(now.links[0].name, "eth0");
    });
}

#[test]
fn a_machine_without_links_says_so() {
    isolated("a_machine_without_links_says_so", async |lab| {
        let network = Network::start(lab.config()).await.unwrap();
        let offline = network.wait_online(Duration::from_millis(50)).await.unwrap_err();
        assert!(offline.problem.contains("no network interface found"), "{offline}");
        // One that is plugged in later is taken.
        let peer = lab.peer("eth0", &["192.0.2.1/24"]);
        let _dnsmasq = peer.dnsmasq("a", &["--dhcp-range=192.0.2.100,192.0.2.200,255.255.255.0,1h"]);
        network.wait_online(PATIENCE).await.unwrap();
    });
}

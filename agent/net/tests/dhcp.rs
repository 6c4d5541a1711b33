//! The network against a real dnsmasq.
#![allow(clippy::unwrap_used)]

mod lab;

use cairn_net::Network;
use lab::{PATIENCE, ip, isolated};

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
        assert_eq!(dnsmasq.count("DHCPACK(srv0)"), 1, "{}", dnsmasq.log());
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

use proptest::prelude::*;

use super::*;

const RACK: &str = include_str!("golden/rack.yaml");
const RACK_JSON: &str = include_str!("golden/rack.json");

fn error(yaml: &str) -> String {
    match Netplan::parse_yaml(yaml) {
        Ok(plan) => panic!("taken: {yaml}\n{plan:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_rack_reads_as_a_person_has_checked() {
    let plan = Netplan::parse_yaml(RACK).unwrap();
    let json = serde_json::to_string_pretty(&plan).unwrap() + "\n";
    assert_eq!(json, RACK_JSON);
    assert_eq!(serde_json::from_str::<Netplan>(&json).unwrap(), plan);
    assert_eq!(plan.master_of("port-a"), Some("bond0"));
    assert_eq!(plan.master_of("management"), None);
}

#[test]
fn unknown_keys_and_wrong_types_name_their_line() {
    let cases = [
        ("    enp3s0f1: {}", "    enp3s0f1: { dhpc4: true }", "dhpc4", "line 21"),
        ("  version: 2", "  version: 2\n  renderer: networkd", "renderer", "line 4"),
        ("      accept-ra: false\n      mtu: 1500", "      accept_ra: false", "accept_ra", "line 8"),
        ("metric: 50", "gateway: 50", "gateway", "line 11"),
        ("192.0.2.10/24", "192.0.2.10", "prefix length", "line 7"),
        ("192.0.2.10/24", "192.0.2.10/33", "prefix", "line 7"),
        ("52:54:00:AA:00:01", "52:54:00:AA:00", "hardware address", "line 6"),
        ("mode: 802.3ad", "mode: lacp", "lacp", "line 32"),
        ("via: 192.0.2.1,", "via: gateway,", "IP address", "line 11"),
        ("to: 203.0.113.7", "to: everywhere", "destination", "line 14"),
        ("driver: ixgbe", "drivers: ixgbe", "drivers", "line 19"),
        ("network:", "networks:", "networks", "line 2"),
    ];
    for (from, to, what, line) in cases {
        assert!(RACK.contains(from), "{from}");
        let error = error(&RACK.replacen(from, to, 1));
        assert!(error.contains(what) && error.contains(line), "{to}: {error}");
    }
}

#[test]
fn rules_that_types_cannot_say() {
    let cases = [
        ("version: 2", "version: 3", "version"),
        ("optional: true\n    enp3s0f1", "dhcp4: true\n    enp3s0f1", "belongs to bond0"),
        ("enp3s0f1: {}", "enp3s0f1: { dhcp6: true }", "DHCPv6"),
        ("enp3s0f1: {}", "enp3s0f1: { mtu: 67 }", "68 to 65535"),
        ("enp3s0f1: {}", "enp3s0f1: { mtu: 65536 }", "68 to 65535"),
        ("mtu: 1500\n      routes", "mtu: 1279\n      routes", "at least 1280"),
        ("enp3s0f1: {}", "a-name-longer-than-the-kernels: {}", "1 to 15"),
        ("enp3s0f1: {}", "\"a/b\": {}", "without / and :"),
        ("enp3s0f1: {}", "lo: {}", "not lo"),
        ("enp3s0f1: {}", "bond0: {}", "has a link of that id too"),
        ("enp3s0f1: {}", "enp3s0f1: { match: {} }", "names no property"),
        ("enp3s0f1: {}", "enp3s0f1: { match: { driver: \"virtio_*\" } }", "the same as that of"),
        ("driver: ixgbe", "macaddress: \"52:54:00:aa:00:01\"", "already"),
        ("[port-a, enp3s0f1]", "[port-a, port-z]", "port-z is no link"),
        ("[port-a, enp3s0f1]", "[port-a, tenants]", "one of vlans"),
        ("[tenants]", "[tenants, port-a]", "belongs to"),
        ("mode: 802.3ad", "mode: active-backup", "go with mode: 802.3ad"),
        ("up-delay: 200", "up-delay: 250", "multiple"),
        ("up-delay: 200", "primary: port-a", "goes with"),
        ("mii-monitor-interval: 100", "mii-monitor-interval: 0", "1 to 60000"),
        ("id: 20", "id: 0", "1 to 4094"),
        ("id: 20", "id: 4095", "1 to 4094"),
        ("id: 20", "id: 30", "already"),
        ("id: 20, link: bond0", "id: 20, link: bond9", "bond9 is no link"),
        ("id: 20, link: bond0", "id: 20, link: tenants", "VLAN in a VLAN"),
        ("id: 20, link: bond0", "id: 20, link: port-a", "put the VLAN on that"),
        ("id: 30, link: bond0, mtu: 1500", "id: 30, link: bond0, mtu: 9001", "above the 9000"),
        ("id: 30, link: bond0, mtu: 1500", "id: 30, link: br-ex", "contains itself"),
        ("10.30.0.10/24", "192.0.2.10/24", "already"),
        ("10.30.0.10/24", "10.30.0.0/24", "not the address of a host"),
        ("10.30.0.10/24", "10.30.0.255/24", "not the address of a host"),
        ("10.30.0.10/24", "224.0.0.1/24", "not the address of a host"),
        ("10.30.0.10/24", "10.30.0.10/0", "not the address of a host"),
        ("10.30.0.10/24", "127.0.0.2/8", "not the address of a host"),
        ("via: 192.0.2.1, ", "via: 192.0.3.1, ", "on-link: true"),
        ("via: \"2001:db8::1\"", "via: \"2001:db9::1\"", "on-link: true"),
        ("to: 10.0.0.0/8, via: 198.51.100.1", "to: 10.0.0.1/8, via: 198.51.100.1", "write 10.0.0.0/8"),
        ("to: 10.0.0.0/8, via: 198.51.100.1", "to: 10.0.0.0/8, via: \"fe80::1\"", "other IP version"),
        ("table: 100", "table: 0", "1 to 4294967295"),
        ("- { to: 203.0.113.7 }", "- { to: default }", "needs a via"),
        ("[lab.example, example]", "[\"lab example\"]", "not a domain name"),
        ("[lab.example, example]", "[\"a\\nnameserver 6.6.6.6\"]", "not a domain name"),
        ("[192.0.2.53, \"2001:db8::53\"]", "[0.0.0.0]", "not the address of a host"),
        ("{ stp: false }", "{ forward-delay: 31 }", "2 to 30"),
    ];
    for (from, to, what) in cases {
        assert!(RACK.contains(from), "{from}");
        let error = error(&RACK.replacen(from, to, 1));
        assert!(error.contains(what), "{to}: {error}");
    }
}

#[test]
fn too_much_is_not_parsed() {
    assert!(matches!(
        Netplan::parse_yaml(&"#".repeat(limits::SEED_BYTES + 1)),
        Err(NetplanError::TooLong(_))
    ));
    let many: String = (0..513).map(|n| format!("    e{n}: {{}}\n")).collect();
    assert!(error(&format!("network:\n  version: 2\n  ethernets:\n{many}")).contains("513 links"));
    let many = vec!["1.1.1.1"; 257].join(", ");
    let yaml = format!("network: {{version: 2, ethernets: {{e: {{nameservers: {{addresses: [{many}]}}}}}}}}");
    assert!(error(&yaml).contains("257 entries"));
}

#[test]
fn a_plan_holds_its_network_to_the_same_rules() {
    let plan = |network: &str| {
        crate::plan::Plan::parse(&format!("version: 1\nsite: s\nnodes:\n  n1:\n    network:\n{network}"))
    };
    let good = "      version: 2\n      ethernets: { e0: { dhcp4: true } }\n";
    assert!(plan(good).is_ok());
    let error = plan(&good.replace("dhcp4", "dhcp5")).unwrap_err().to_string();
    assert!(error.contains("dhcp5") && error.contains("line 7"), "{error}");
    let error = plan(&good.replace("dhcp4: true", "mtu: 1")).unwrap_err().to_string();
    assert!(error.contains("nodes.n1.network.ethernets.e0.mtu"), "{error}");
}

fn cidr() -> impl Strategy<Value = Cidr> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, p)| Cidr::new(std::net::IpAddr::from(a), p).unwrap()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, p)| Cidr::new(std::net::IpAddr::from(a), p).unwrap()),
    ]
}

proptest! {
    #[test]
    fn values_read_what_they_write(cidr in cidr(), mac in any::<[u8; 6]>()) {
        prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        prop_assert!(cidr.contains(cidr.address()));
        prop_assert_eq!(cidr.network().network(), cidr.network());
        let mac = MacAddr(mac);
        prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        prop_assert_eq!(mac.to_string().to_uppercase().parse::<MacAddr>().unwrap(), mac);
        let to = Destination::Network(cidr);
        prop_assert_eq!(to.to_string().parse::<Destination>().unwrap(), to);
    }

    #[test]
    fn broken_documents_are_errors_not_panics(at in 0usize..RACK.len(), cut in 0usize..12, put in "[ -~\n]{0,6}") {
        let (mut from, mut to) = (at, (at + cut).min(RACK.len()));
        while !RACK.is_char_boundary(from) { from -= 1; }
        while !RACK.is_char_boundary(to) { to += 1; }
        let text = format!("{}{put}{}", &RACK[..from], &RACK[to..]);
        if let Ok(plan) = Netplan::parse_yaml(&text) {
            // Whatever is taken survives the wire and the check there.
            let again: Netplan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
            prop_assert!(again.check().is_ok());
            prop_assert_eq!(again, plan);
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        let _ = Netplan::parse_yaml(&text);
        let _ = text.parse::<Cidr>();
        let _ = text.parse::<MacAddr>();
        let _ = text.parse::<Destination>();
    }
}

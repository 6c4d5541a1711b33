use cairn_protocol::netplan::Netplan;
use proptest::prelude::*;

use super::*;
use crate::facts::{Ipv6Facts, PROTOCOL_STATIC};
use crate::made::BondSetting;
use crate::want::wants;

const RACK: &str = include_str!("../../../../provisioning/protocol/src/netplan/golden/rack.yaml");

fn nic(index: u32, name: &str, driver: &str) -> LinkFacts {
    LinkFacts {
        index,
        name: name.to_owned(),
        mac: [0x52, 0x54, 0, 0xaa, 0, index as u8],
        ethernet: true,
        driver: Some(driver.to_owned()),
        carrier: true,
        mtu: 1500,
        ipv6: Ipv6Facts { accept_ra: Some(1), autoconf: Some(1) },
        ..LinkFacts::default()
    }
}

fn rack() -> Vec<LinkFacts> {
    vec![
        nic(1, "eno1", "tg3"),
        nic(2, "enp3s0f0", "ixgbe"),
        nic(3, "enp3s0f1", "ixgbe"),
        nic(4, "ens9", "virtio_net"),
    ]
}

fn steps(plan: &Netplan, facts: &[LinkFacts], ours: &[&str]) -> Vec<Op> {
    let wants = wants(Some(plan), facts, &[]);
    let ours = ours.iter().map(|name| (*name).to_owned()).collect();
    super::plan(&wants.links, facts, &BTreeMap::new(), &ours)
}

fn text(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

/// What the kernel has after `op`, as far as the planner looks.
fn apply(facts: &mut Vec<LinkFacts>, op: &Op) {
    let index = facts.iter().map(|link| link.index).max().unwrap_or(0) + 1;
    match op {
        Op::Make { link, made } => {
            assert!(!facts.iter().any(|have| have.name == *link), "{op}: is there already");
            if let Made::Vlan { link: below, .. } = made {
                assert!(facts.iter().any(|have| have.name == *below), "{op}: nothing below");
            }
            let (name, made) = (link.clone(), Some(made.clone()));
            facts.push(LinkFacts {
                made,
                kind: Some("x".to_owned()),
                driver: None,
                name,
                ..nic(index, "", "")
            });
            return;
        }
        Op::Delete { link } => {
            facts.retain(|have| {
                have.name != *link
                    && !matches!(&have.made, Some(Made::Vlan { link: below, .. }) if below == link)
            });
            for have in facts.iter_mut().filter(|have| have.master.as_ref() == Some(link)) {
                have.master = None;
            }
            return;
        }
        _ => {}
    }
    if let Op::Join { link, master: Some(master) } = op {
        let bond = facts.iter().any(|have| have.name == *master && matches!(have.made, Some(Made::Bond(_))));
        let member = facts.iter().find(|have| have.name == *link).unwrap();
        assert!(!(bond && member.up), "{op}: a bond takes no member that is up");
        assert!(facts.iter().any(|have| have.name == *master), "{op}: no master");
    }
    let link =
        facts.iter_mut().find(|have| have.name == op.link()).unwrap_or_else(|| panic!("{op}: no link"));
    match op {
        Op::Make { .. } | Op::Delete { .. } => {}
        Op::Down { .. } => link.up = false,
        Op::Up { .. } => link.up = true,
        Op::Join { master, .. } => link.master.clone_from(master),
        Op::Ipv6 { key: "accept_ra", value, .. } => link.ipv6.accept_ra = Some(*value),
        Op::Ipv6 { value, .. } => link.ipv6.autoconf = Some(*value),
        Op::Mtu { mtu, .. } => link.mtu = *mtu,
        Op::DelAddress { cidr, .. } => link.addresses.retain(|have| have.cidr != *cidr),
        Op::SetAddress { cidr, seconds, .. } => {
            link.addresses.retain(|have| have.cidr != *cidr);
            let (cidr, seconds) = (*cidr, *seconds);
            link.addresses.push(AddressFact {
                cidr,
                seconds,
                global: true,
                automatic: false,
                tentative: false,
            });
        }
        Op::DelRoute { route, .. } => link.routes.retain(|have| have != route),
        Op::AddRoute { route, .. } => link.routes.push(route.clone()),
    }
}

/// Plans and applies until nothing is left to do; the walks that it took.
fn settle(plan: &Netplan, facts: &mut Vec<LinkFacts>, ours: &[&str]) -> usize {
    for walk in 0..5 {
        let ops = steps(plan, facts, ours);
        if ops.is_empty() {
            return walk;
        }
        ops.iter().for_each(|op| apply(facts, op));
    }
    panic!("never settles: {}", text(&steps(plan, facts, ours)));
}

#[test]
fn a_rack_is_planned_as_a_person_has_checked() {
    let plan = Netplan::parse_yaml(RACK).unwrap();
    let mut facts = rack();
    // As the boot's DHCP has left it.
    facts[1].up = true;
    facts[1].addresses.push(AddressFact {
        cidr: "192.0.2.99/24".parse().unwrap(),
        seconds: Some(600),
        global: true,
        automatic: false,
        tentative: false,
    });
    assert_eq!(text(&steps(&plan, &facts, &[])), include_str!("golden/rack.steps"));
    assert_eq!(settle(&plan, &mut facts, &[]), 2, "what is made has its sysctls written in the second walk");
    assert_eq!(wants(Some(&plan), &facts, &[]).problems, []);
}

#[test]
fn another_plan_takes_away_what_the_first_made() {
    let plan = Netplan::parse_yaml(RACK).unwrap();
    let mut facts = rack();
    settle(&plan, &mut facts, &[]);
    let ours = ["bond0", "br-ex", "storage", "tenants"];
    // A bond's mode cannot be changed while it has members: it is made anew, with what stands on it.
    let other = Netplan::parse_yaml(
        &RACK.replace("802.3ad", "active-backup").replace("        lacp-rate: fast\n", ""),
    );
    let other = other.unwrap();
    let ops = text(&steps(&other, &facts, &ours));
    assert!(ops.starts_with("bond0: delete\nbond0: make bond mode active-backup"), "{ops}");
    settle(&other, &mut facts, &ours);
    let set = facts
        .iter()
        .find_map(|link| if let Some(Made::Bond(set)) = &link.made { Some(set.clone()) } else { None });
    assert!(matches!(set, Some(BondSetting { mode: 1, lacp_rate: None, .. })));
    // Nothing of it at all.
    let plain =
        Netplan::parse_yaml("network: {version: 2, ethernets: {all: {match: {name: \"e*\"}, dhcp4: true}}}")
            .unwrap();
    let ops = text(&steps(&plain, &facts, &ours));
    assert!(ops.starts_with("storage: delete\ntenants: delete\nbr-ex: delete\nbond0: delete\n"), "{ops}");
    settle(&plain, &mut facts, &ours);
    assert_eq!(facts.len(), 4);
    assert!(
        facts.iter().all(|link| link.master.is_none() && link.addresses.is_empty() && link.routes.is_empty())
    );
}

#[test]
fn links_that_are_not_in_the_plan_are_left_alone() {
    let mut facts = rack();
    let mut bridge = nic(9, "ovs-system", "");
    (bridge.kind, bridge.made) = (Some("openvswitch".to_owned()), None);
    facts.push(bridge);
    let mut veth = nic(10, "veth12ab", "");
    veth.kind = Some("veth".to_owned());
    facts.push(veth);
    let wants = wants(None, &facts, &["host0".to_owned()]);
    let names: Vec<_> = wants.links.iter().map(|want| want.name.as_str()).collect();
    assert_eq!(names, ["eno1", "enp3s0f0", "enp3s0f1", "ens9"]);
    facts[5].name = "host0".to_owned();
    assert_eq!(crate::want::wants(None, &facts, &["host0".to_owned()]).links.len(), 5);
}

#[test]
fn a_plan_that_does_not_fit_the_machine_says_how() {
    let problems = |yaml: &str| {
        let plan = Netplan::parse_yaml(&format!("network: {{version: 2, ethernets: {{{yaml}}}}}")).unwrap();
        wants(Some(&plan), &rack(), &[]).problems
    };
    let said = problems("lan: {match: {driver: ixgbe}, addresses: [192.0.2.1/24]}");
    assert_eq!(said.len(), 1);
    assert!(said[0].1.contains("enp3s0f0, enp3s0f1 all match"), "{said:?}");
    assert!(problems("eth7: {dhcp4: true}")[0].1.contains("no network interface matches"));
    assert_eq!(problems("eth7: {dhcp4: true, optional: true}"), []);
    // A hardware address goes before a name, whatever the order of the ids.
    let plan = "a: {match: {name: \"*\"}, dhcp4: true}, z: {match: {macaddress: \"52:54:00:aa:00:03\"}, dhcp4: false}";
    let plan = Netplan::parse_yaml(&format!("network: {{version: 2, ethernets: {{{plan}}}}}")).unwrap();
    let wants = wants(Some(&plan), &rack(), &[]);
    let dhcp: Vec<_> = wants.links.iter().filter(|want| want.dhcp4).map(|want| want.name.as_str()).collect();
    assert_eq!((dhcp, wants.links.len()), (vec!["eno1", "enp3s0f0", "ens9"], 4));
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (any::<[u8; 4]>(), 1u8..=32)
        .prop_map(|(address, prefix)| Cidr::new(IpAddr::from(address), prefix).unwrap())
}

proptest! {
    /// From any state of a link to any want and lease: one walk, and nothing of ours is left over.
    #[test]
    fn one_walk_is_enough(
        have in proptest::collection::vec((cidr(), proptest::option::of(1u32..9999)), 0..5),
        want in proptest::collection::hash_set(cidr(), 0..4),
        old in proptest::collection::vec((cidr(), any::<[u8; 4]>(), 0u32..3), 0..4),
        new in proptest::collection::vec((cidr(), any::<[u8; 4]>(), 0u32..3), 0..4),
        lease in proptest::option::of((any::<[u8; 4]>(), 1u8..=32, any::<[u8; 4]>(), 1u32..9999)),
        ra: bool, up: bool,
    ) {
        let route = |(to, via, metric): &(Cidr, [u8; 4], u32)| Route {
            to: to.network(), via: Some(IpAddr::from(*via)), metric: *metric, table: TABLE_MAIN, on_link: true,
            protocol: PROTOCOL_STATIC,
        };
        let mut facts = nic(3, "eth0", "x");
        facts.up = up;
        let address = |(cidr, seconds): &(Cidr, Option<u32>)| AddressFact {
            cidr: *cidr, seconds: *seconds, global: true, automatic: false, tentative: false,
        };
        facts.addresses = have.iter().map(address).collect();
        facts.addresses.sort_by_key(|have| have.cidr);
        facts.addresses.dedup_by_key(|have| have.cidr);
        facts.routes = old.iter().map(route).collect();
        facts.routes.dedup();
        let mut routes: Vec<Route> = new.iter().map(route).collect();
        routes.sort_by_key(|route| (route.to, route.metric));
        routes.dedup_by_key(|route| (route.to, route.metric));
        let want = Want {
            name: "eth0".to_owned(), accept_ra: ra, addresses: want.into_iter().collect(), routes, ..Want::default()
        };
        let lease = lease.map(|(address, prefix, router, seconds)| {
            let [address, router] = [address, router].map(std::net::Ipv4Addr::from);
            let json = format!(r#"{{"address":"{address}","prefix":{prefix},"server":"1.1.1.1","routers":["{router}"],"seconds":{seconds},"acquired_millis":0}}"#);
            (serde_json::from_str::<Lease>(&json).unwrap(), seconds)
        });
        let used = lease.as_ref().map(|(lease, seconds)| LeaseUse { lease, seconds: Some(*seconds) });
        let ops = link_ops(&facts, &want, used);
        let mut after = vec![facts];
        ops.iter().for_each(|op| apply(&mut after, op));
        prop_assert_eq!(link_ops(&after[0], &want, used), vec![]);
        prop_assert!(after[0].up);
    }
}

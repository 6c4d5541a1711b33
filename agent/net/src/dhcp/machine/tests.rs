use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(seconds: u32) -> Lease {
    let json = format!(
        r#"{{"address": "{ADDRESS}", "prefix": 24, "server": "{SERVER}", "seconds": {seconds}, "acquired_millis": 0}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn machine() -> Machine {
    Machine::new(Settings { mac: MAC, hostname: Some("n1".to_owned()), probe: false }, 7)
}

fn answer(machine: &Machine, kind: Kind, lease: Option<Lease>) -> ServerMessage {
    ServerMessage {
        kind,
        xid: machine.xid,
        mac: MAC,
        server: Some(SERVER),
        lease,
        text: Some("no".to_owned()),
    }
}

fn sent(actions: &[Action]) -> (Kind, Destination, ClientMessage) {
    let mut sent = actions.iter().filter_map(|action| match action {
        Action::Send(message, to) => Some((message.kind, *to, message.clone())),
        _ => None,
    });
    let first = sent.next().unwrap();
    assert!(sent.next().is_none(), "{actions:?}");
    first
}

/// A machine that got a lease of `seconds` at second 0.
fn bound(seconds: u32) -> Machine {
    let mut machine = machine();
    assert_eq!(sent(&machine.start(at(0), None, false)).0, Kind::Discover);
    let offer = answer(&machine, Kind::Offer, Some(lease(seconds)));
    let (kind, to, message) = sent(&machine.packet(at(0), offer));
    assert_eq!((kind, to), (Kind::Request, Destination::Broadcast));
    assert_eq!((message.requested, message.server), (Some(ADDRESS), Some(SERVER)));
    let ack = answer(&machine, Kind::Ack, Some(lease(seconds)));
    assert_eq!(machine.packet(at(1), ack), [Action::Configure(lease(seconds))]);
    machine
}

/// Runs the timer at each deadline until `until`; what was done and when.
fn run(machine: &mut Machine, until: Duration) -> Vec<(u64, Action)> {
    let mut done = Vec::new();
    while let Some(next) = machine.deadline().filter(|next| *next <= until) {
        done.extend(machine.timer(next).into_iter().map(|action| (next.as_secs(), action)));
    }
    done
}

#[test]
fn a_silent_network_is_asked_less_and_less_often() {
    let mut machine = machine();
    machine.start(at(0), None, false);
    let mut last = Duration::ZERO;
    for expect in [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0_f64] {
        let next = machine.deadline().unwrap();
        let wait = (next - last).as_secs_f64();
        assert!((wait - expect).abs() <= 1.0, "{wait} for {expect}");
        let actions = machine.timer(next);
        assert!(
            matches!(&actions[0], Action::Send(message, Destination::Broadcast) if message.kind == Kind::Discover)
        );
        assert_eq!(actions.len(), if expect < 4.0 { 1 } else { 2 }, "told from the third question on");
        assert!(machine.timer(next).is_empty(), "before its deadline it does nothing");
        last = next;
    }
}

#[test]
fn a_lease_runs_through_renewal_and_rebinding_to_its_end() {
    let mut machine = bound(3600);
    let done = run(&mut machine, at(3600));
    let requests: Vec<_> = done
        .iter()
        .filter_map(|(when, action)| match action {
            Action::Send(message, to) if message.kind == Kind::Request => {
                assert_eq!((message.ciaddr, message.requested, message.server), (ADDRESS, None, None));
                Some((*when, *to))
            }
            _ => None,
        })
        .collect();
    let unicast = Destination::Unicast { from: ADDRESS, to: SERVER };
    let renewals: Vec<_> = requests.iter().filter(|(_, to)| *to == unicast).map(|(when, _)| *when).collect();
    let rebinds: Vec<_> = requests.iter().filter(|(_, to)| *to != unicast).map(|(when, _)| *when).collect();
    // T1 = 1800, then half of what is left until T2 = 3150, never less than a minute; likewise until the end.
    assert_eq!(renewals, [1800, 2475, 2812, 2981, 3065, 3125]);
    assert_eq!(rebinds, [3150, 3375, 3487, 3547]);
    assert!(requests[6..].iter().all(|(_, to)| *to == Destination::BroadcastFrom(ADDRESS)));
    let end: Vec<_> = done.iter().filter(|(when, _)| *when == 3600).map(|(_, action)| action).collect();
    assert!(matches!(end[..], [Action::Problem(_), Action::Deconfigure, Action::Send(..)]), "{end:?}");
}

#[test]
fn a_renewal_is_counted_from_its_request() {
    let mut machine = bound(3600);
    machine.timer(at(1800));
    let ack = answer(&machine, Kind::Ack, Some(lease(3600)));
    let actions = machine.packet(at(1810), ack);
    assert!(matches!(&actions[..], [Action::Configure(lease)] if lease.acquired_millis == 1_800_000));
    assert_eq!(machine.deadline(), Some(at(3600)));
}

#[test]
fn a_refusal_takes_the_address_away_and_repeated_ones_slow_down() {
    let mut machine = bound(3600);
    machine.timer(at(1800));
    let nak = answer(&machine, Kind::Nak, None);
    let actions = machine.packet(at(1800), nak);
    assert!(matches!(&actions[..], [Action::Deconfigure, Action::Problem(text)] if text.ends_with(": no")));
    let (mut now, mut waits) = (at(1800), Vec::new());
    for _ in 0..9 {
        let next = machine.deadline().unwrap();
        waits.push((next - now).as_millis());
        machine.timer(next);
        let offer = answer(&machine, Kind::Offer, Some(lease(60)));
        machine.packet(next, offer);
        let nak = answer(&machine, Kind::Nak, None);
        machine.packet(next, nak);
        now = next;
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 64_000]);
}

#[test]
fn an_offer_that_is_never_confirmed_is_dropped() {
    let mut machine = machine();
    machine.start(at(0), None, false);
    let offer = answer(&machine, Kind::Offer, Some(lease(60)));
    machine.packet(at(0), offer);
    let done = run(&mut machine, at(300));
    let kinds: Vec<_> = done
        .iter()
        .filter_map(
            |(_, action)| if let Action::Send(message, _) = action { Some(message.kind) } else { None },
        )
        .collect();
    assert_eq!(kinds[..4], [Kind::Request, Kind::Request, Kind::Request, Kind::Discover]);
}

#[test]
fn an_earlier_lease_is_asked_for_again() {
    let mut machine = machine();
    let (kind, to, message) = sent(&machine.start(at(10), Some(lease(3600)), false));
    assert_eq!((kind, to), (Kind::Request, Destination::Broadcast));
    assert_eq!(
        (message.requested, message.server, message.ciaddr),
        (Some(ADDRESS), None, Ipv4Addr::UNSPECIFIED)
    );
    // Silence: after two tries servers are looked for.
    let done = run(&mut machine, at(20));
    let kinds: Vec<_> = done
        .iter()
        .filter_map(
            |(_, action)| if let Action::Send(message, _) = action { Some(message.kind) } else { None },
        )
        .collect();
    assert_eq!(kinds[..2], [Kind::Request, Kind::Discover]);
    // One that ran out meanwhile is not asked for, and its address goes.
    let mut machine = super::tests::machine();
    let actions = machine.start(at(3600), Some(lease(3600)), true);
    assert!(
        matches!(&actions[..], [Action::Deconfigure, Action::Send(message, _)] if message.kind == Kind::Discover)
    );
}

#[test]
fn an_adopted_lease_sends_nothing_before_its_renewal() {
    let mut machine = machine();
    assert_eq!(machine.adopt(at(100), lease(3600)), [Action::Configure(lease(3600))]);
    assert_eq!(machine.deadline(), Some(at(1800)));
    let mut machine = super::tests::machine();
    assert_eq!(machine.adopt(at(100), lease(u32::MAX)), [Action::Configure(lease(u32::MAX))]);
    assert_eq!(machine.deadline(), None, "a lease for ever");
}

#[test]
fn a_conflict_is_declined_and_waited_out() {
    let mut machine = machine();
    machine.settings.probe = true;
    machine.start(at(0), None, false);
    let offer = answer(&machine, Kind::Offer, Some(lease(60)));
    machine.packet(at(0), offer);
    let ack = answer(&machine, Kind::Ack, Some(lease(60)));
    assert_eq!(machine.packet(at(0), ack), [Action::Probe(ADDRESS)]);
    let (kind, _, message) = sent(&machine.probed(at(0), true));
    assert_eq!((kind, message.requested, message.server), (Kind::Decline, Some(ADDRESS), Some(SERVER)));
    assert_eq!(machine.deadline(), Some(at(10)));
}

#[test]
fn answers_for_others_and_from_others_change_nothing() {
    let mut machine = machine();
    machine.start(at(0), None, false);
    let good = answer(&machine, Kind::Offer, Some(lease(60)));
    let other_server = Lease { server: Ipv4Addr::new(192, 0, 2, 66), ..lease(60) };
    for bad in [
        ServerMessage { xid: !good.xid, ..good.clone() },
        ServerMessage { mac: [2; 6], ..good.clone() },
        ServerMessage { kind: Kind::Ack, ..good.clone() },
        ServerMessage { kind: Kind::Nak, ..good.clone() },
        ServerMessage { lease: None, ..good.clone() },
    ] {
        assert!(machine.packet(at(0), bad).is_empty());
    }
    machine.packet(at(0), good.clone());
    for bad in [
        ServerMessage { kind: Kind::Ack, lease: Some(other_server.clone()), ..good.clone() },
        ServerMessage { kind: Kind::Nak, server: None, ..good.clone() },
        ServerMessage { kind: Kind::Nak, server: Some(other_server.server), ..good.clone() },
    ] {
        assert!(machine.packet(at(0), bad).is_empty());
    }
    let mut machine = bound(3600);
    machine.timer(at(1800));
    let moved = Lease { address: Ipv4Addr::new(192, 0, 2, 7), ..lease(3600) };
    for lease in [moved, other_server] {
        let ack = answer(&machine, Kind::Ack, Some(lease));
        assert!(machine.packet(at(1800), ack).is_empty());
    }
}

proptest::proptest! {
    /// Whatever comes in whatever order, deadlines lie ahead, and configure and deconfigure take turns.
    #[test]
    fn any_history_is_sound(
        steps in proptest::collection::vec((0u8..6, 0u32..5000, 0u64..4000), 1..80),
        probe in proptest::bool::ANY,
    ) {
        let mut machine = machine();
        machine.settings.probe = probe;
        let (mut now, mut configured) = (at(0), false);
        let mut actions = machine.start(now, None, false);
        for (step, seconds, wait) in steps {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Configure(lease) => {
                        proptest::prop_assert!(lease.is_valid(now));
                        configured = true;
                    }
                    Action::Deconfigure => {
                        proptest::prop_assert!(configured);
                        configured = false;
                    }
                    _ => {}
                }
            }
            proptest::prop_assert!(machine.lease().is_none() || configured);
            actions = match step {
                0 => {
                    now += at(wait);
                    machine.timer(now)
                }
                1 => {
                    now = machine.deadline().unwrap_or(now).max(now);
                    let mut actions = machine.timer(now);
                    // A lease that is probed for past its T1 is renewed at once; nothing takes more turns than that.
                    if machine.deadline().is_some_and(|next| next <= now) {
                        actions.extend(machine.timer(now));
                    }
                    proptest::prop_assert!(machine.deadline().is_none_or(|next| next > now), "a busy loop");
                    actions
                }
                2 => machine.probed(now, seconds % 2 == 0),
                _ => {
                    let kind = [Kind::Offer, Kind::Ack, Kind::Nak][usize::from(step - 3)];
                    let lease = (kind != Kind::Nak).then(|| lease(seconds.max(1)));
                    let message = answer(&machine, kind, lease);
                    machine.packet(now, message)
                }
            };
        }
    }
}

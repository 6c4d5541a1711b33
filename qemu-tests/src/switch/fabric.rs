//! Where a frame goes: learning, VLANs, faults. Pure: time comes in as an argument, randomness from a seed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::frame::{self, Mac};

/// Addresses remembered at once. More is a flood, not a rack; further ones are flooded, not learnt.
pub const MAX_ADDRESSES: usize = 4096;
/// How long an address is remembered without a frame from it (IEEE 802.1Q 8.8.3: 300 s).
pub const AGEING: Duration = Duration::from_secs(300);
/// VLAN of a port that was given none.
pub const DEFAULT_VLAN: u16 = 1;
/// One in this many is the unit of [`PortConfig::loss`].
const LOSS_UNIT: u32 = 1_000_000;

/// A port of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub usize);

/// Which VLANs a port belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vlan {
    /// Untagged frames belong to this VLAN; tagged ones are dropped, except with this very tag.
    Access(u16),
    /// Tagged frames of these VLANs; untagged ones belong to `native`, or are dropped without one.
    Trunk {
        /// VLAN of untagged frames.
        native: Option<u16>,
        /// VLANs carried with their tag.
        tagged: Vec<u16>,
    },
}

/// One port's settings: what the rack file says, and what faults change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// VLAN membership.
    pub vlan: Vlan,
    /// A cut link carries nothing, in either direction.
    pub cut: bool,
    /// Frames lost on the way out, in millionths.
    pub loss: u32,
    /// Delay on the way out.
    pub latency: Duration,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self { vlan: Vlan::Access(DEFAULT_VLAN), cut: false, loss: 0, latency: Duration::ZERO }
    }
}

/// What happened at a port since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came in.
    pub received: u64,
    /// Bytes that came in.
    pub received_bytes: u64,
    /// Frames sent, or given to a delay.
    pub sent: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Frames that came in and were not carried: malformed, wrong VLAN, for the bridge itself.
    pub refused: u64,
    /// Frames lost by a cut link or by set loss.
    pub lost: u64,
    /// Frames dropped because the receiver was full or away.
    pub overrun: u64,
}

/// How a frame leaves a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// As it came.
    Keep,
    /// Without its tag.
    Untag,
    /// With a tag.
    Tag(u16),
}

/// One copy of a frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// Where to.
    pub port: Port,
    /// How.
    pub edit: Edit,
    /// How much later.
    pub delay: Duration,
}

#[derive(Debug)]
struct Entry {
    port: Port,
    seen: Instant,
}

/// A learning switch.
#[derive(Debug)]
pub struct Fabric {
    ports: Vec<(PortConfig, Counters)>,
    table: HashMap<(u16, Mac), Entry>,
    random: u64,
}

impl Fabric {
    /// An empty switch. The same seed and the same frames lose the same frames.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // xorshift stays at zero if it starts there.
        Self { ports: Vec::new(), table: HashMap::new(), random: seed | 1 }
    }

    /// Adds a port.
    pub fn add(&mut self, config: PortConfig) -> Port {
        self.ports.push((config, Counters::default()));
        Port(self.ports.len() - 1)
    }

    /// A port's settings, to read or change.
    pub fn config(&mut self, port: Port) -> Option<&mut PortConfig> {
        self.ports.get_mut(port.0).map(|(config, _)| config)
    }

    /// A port's counters.
    #[must_use]
    pub fn counters(&self, port: Port) -> Counters {
        self.ports.get(port.0).map(|(_, counters)| *counters).unwrap_or_default()
    }

    /// Notes that a copy could not be delivered.
    pub fn overrun(&mut self, port: Port) {
        if let Some((_, counters)) = self.ports.get_mut(port.0) {
            counters.overrun += 1;
        }
    }

    /// Forgets what was learnt at a port, as a switch does when a link goes down.
    pub fn forget(&mut self, port: Port) {
        self.table.retain(|_, entry| entry.port != port);
    }

    /// Decides where a frame that came in at `from` goes; the copies are put into `out`, which is cleared first.
    pub fn forward(&mut self, frame: &[u8], from: Port, now: Instant, out: &mut Vec<Egress>) {
        out.clear();
        let Some((config, counters)) = self.ports.get_mut(from.0) else { return };
        counters.received += 1;
        counters.received_bytes += frame.len() as u64;
        if config.cut {
            counters.lost += 1;
            return;
        }
        let admitted = frame::parse(frame)
            .ok()
            .filter(|header| !header.destination.is_link_local())
            .and_then(|header| Some((header, admit(&config.vlan, header.tag)?)));
        let Some((header, vlan)) = admitted else {
            counters.refused += 1;
            return;
        };
        self.learn(vlan, header.source, from, now);
        let known =
            (!header.destination.is_group()).then(|| self.find(vlan, header.destination, now)).flatten();
        match known {
            // The receiver is where the frame came from: it has it already.
            Some(port) if port == from => {}
            Some(port) => self.copy(frame.len(), vlan, header.tag, port, out),
            None => {
                for port in (0..self.ports.len()).map(Port).filter(|port| *port != from) {
                    self.copy(frame.len(), vlan, header.tag, port, out);
                }
            }
        }
    }

    fn learn(&mut self, vlan: u16, source: Mac, port: Port, now: Instant) {
        if self.table.len() >= MAX_ADDRESSES && !self.table.contains_key(&(vlan, source)) {
            self.table.retain(|_, entry| now.saturating_duration_since(entry.seen) < AGEING);
            if self.table.len() >= MAX_ADDRESSES {
                return;
            }
        }
        self.table.insert((vlan, source), Entry { port, seen: now });
    }

    fn find(&self, vlan: u16, destination: Mac, now: Instant) -> Option<Port> {
        let entry = self.table.get(&(vlan, destination))?;
        (now.saturating_duration_since(entry.seen) < AGEING).then_some(entry.port)
    }

    fn copy(&mut self, length: usize, vlan: u16, tag: Option<u16>, port: Port, out: &mut Vec<Egress>) {
        let lucky = self.roll();
        let Some((config, counters)) = self.ports.get_mut(port.0) else { return };
        let Some(edit) = leave(&config.vlan, vlan, tag) else { return };
        if config.cut || lucky < config.loss {
            counters.lost += 1;
            return;
        }
        counters.sent += 1;
        counters.sent_bytes += length as u64;
        out.push(Egress { port, edit, delay: config.latency });
    }

    /// xorshift64: a fault injector needs repeatable numbers, not good ones.
    fn roll(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % u64::from(LOSS_UNIT)) as u32
    }
}

/// The VLAN that a frame with this tag belongs to when it comes in here.
fn admit(membership: &Vlan, tag: Option<u16>) -> Option<u16> {
    // VLAN 0 is a priority tag: the frame counts as untagged (IEEE 802.1Q 6.9.1).
    let tag = tag.filter(|tag| *tag != 0);
    match (membership, tag) {
        (Vlan::Access(vlan), None) => Some(*vlan),
        (Vlan::Access(vlan), Some(tag)) => (tag == *vlan).then_some(tag),
        (Vlan::Trunk { native, .. }, None) => *native,
        (Vlan::Trunk { native, tagged }, Some(tag)) => {
            (tagged.contains(&tag) || *native == Some(tag)).then_some(tag)
        }
    }
}

/// How a frame of this VLAN leaves here, if it does.
fn leave(membership: &Vlan, vlan: u16, tag: Option<u16>) -> Option<Edit> {
    let plain = if tag.is_some() { Edit::Untag } else { Edit::Keep };
    match membership {
        Vlan::Access(own) => (*own == vlan).then_some(plain),
        Vlan::Trunk { native, .. } if *native == Some(vlan) => Some(plain),
        Vlan::Trunk { tagged, .. } if !tagged.contains(&vlan) => None,
        Vlan::Trunk { .. } => Some(if tag == Some(vlan) { Edit::Keep } else { Edit::Tag(vlan) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame from host `from` to host `to`; host 255 is everybody.
    fn frame(from: u8, to: u8, tag: Option<u16>) -> Vec<u8> {
        let mac = |host: u8| if host == 255 { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, host] };
        let mut bytes = [mac(to), mac(from)].concat();
        if let Some(tag) = tag {
            bytes.extend_from_slice(&[0x81, 0x00]);
            bytes.extend_from_slice(&tag.to_be_bytes());
        }
        bytes.extend_from_slice(&[0x08, 0x00, 1, 2, 3]);
        bytes
    }

    fn switch(vlans: &[Vlan]) -> Fabric {
        let mut fabric = Fabric::new(7);
        for vlan in vlans {
            fabric.add(PortConfig { vlan: vlan.clone(), ..PortConfig::default() });
        }
        fabric
    }

    fn targets(fabric: &mut Fabric, bytes: &[u8], from: usize, now: Instant) -> Vec<(usize, Edit)> {
        let mut out = Vec::new();
        fabric.forward(bytes, Port(from), now, &mut out);
        out.iter().map(|egress| (egress.port.0, egress.edit)).collect()
    }

    #[test]
    fn floods_then_learns_then_forgets() {
        let now = Instant::now();
        let mut fabric = switch(&[Vlan::Access(1), Vlan::Access(1), Vlan::Access(1)]);
        assert_eq!(targets(&mut fabric, &frame(1, 2, None), 0, now), [(1, Edit::Keep), (2, Edit::Keep)]);
        assert_eq!(targets(&mut fabric, &frame(2, 1, None), 1, now), [(0, Edit::Keep)]);
        assert_eq!(targets(&mut fabric, &frame(1, 2, None), 0, now), [(1, Edit::Keep)]);
        assert_eq!(targets(&mut fabric, &frame(1, 2, None), 0, now + AGEING).len(), 2);
        targets(&mut fabric, &frame(2, 1, None), 1, now + AGEING);
        fabric.forget(Port(1));
        assert_eq!(targets(&mut fabric, &frame(1, 2, None), 0, now + AGEING).len(), 2);
    }

    #[test]
    fn faults_lose_frames_and_are_counted() {
        let now = Instant::now();
        let mut fabric = switch(&[Vlan::Access(1), Vlan::Access(1)]);
        fabric.config(Port(1)).unwrap().cut = true;
        assert_eq!(targets(&mut fabric, &frame(1, 255, None), 0, now), []);
        assert_eq!(targets(&mut fabric, &frame(2, 255, None), 1, now), []);
        assert_eq!(fabric.counters(Port(1)).lost, 2);
        *fabric.config(Port(1)).unwrap() = PortConfig { loss: LOSS_UNIT / 4, ..PortConfig::default() };
        let passed =
            (0..4000).filter(|_| !targets(&mut fabric, &frame(1, 255, None), 0, now).is_empty()).count();
        assert!((2800..3200).contains(&passed), "{passed} of 4000 passed a port that loses a quarter");
        fabric.config(Port(1)).unwrap().latency = Duration::from_millis(5);
        fabric.config(Port(1)).unwrap().loss = 0;
        let mut out = Vec::new();
        fabric.forward(&frame(1, 255, None), Port(0), now, &mut out);
        assert_eq!(out[0].delay, Duration::from_millis(5));
    }

    #[test]
    fn tags_are_added_and_removed_where_the_vlan_says() {
        let now = Instant::now();
        let trunk = Vlan::Trunk { native: Some(1), tagged: vec![20, 30] };
        let mut fabric = switch(&[Vlan::Access(20), trunk, Vlan::Access(30), Vlan::Access(1)]);
        assert_eq!(targets(&mut fabric, &frame(1, 255, None), 0, now), [(1, Edit::Tag(20))]);
        assert_eq!(targets(&mut fabric, &frame(2, 255, Some(30)), 1, now), [(2, Edit::Untag)]);
        assert_eq!(targets(&mut fabric, &frame(2, 255, None), 1, now), [(3, Edit::Keep)]);
        assert_eq!(targets(&mut fabric, &frame(2, 255, Some(40)), 1, now), []);
        assert_eq!(targets(&mut fabric, &frame(3, 255, Some(1)), 2, now), []);
        // A priority tag is no VLAN.
        assert_eq!(targets(&mut fabric, &frame(2, 255, Some(0)), 1, now), [(3, Edit::Untag)]);
    }

    #[test]
    fn frames_for_the_bridge_itself_stay() {
        let now = Instant::now();
        let mut fabric = switch(&[Vlan::Access(1), Vlan::Access(1)]);
        let mut lacp = frame(1, 255, None);
        lacp[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 2]);
        assert_eq!(targets(&mut fabric, &lacp, 0, now), []);
        assert_eq!(fabric.counters(Port(0)).refused, 1);
    }

    fn vlan() -> impl Strategy<Value = Vlan> {
        prop_oneof![
            (1u16..4).prop_map(Vlan::Access),
            (proptest::option::of(1u16..4), proptest::collection::vec(1u16..4, 0..3))
                .prop_map(|(native, tagged)| Vlan::Trunk { native, tagged }),
        ]
    }

    fn members(vlan: &Vlan) -> Vec<u16> {
        match vlan {
            Vlan::Access(own) => vec![*own],
            Vlan::Trunk { native, tagged } => tagged.iter().copied().chain(*native).collect(),
        }
    }

    proptest! {
        /// Whatever came before: never back where it came from, never twice to one port, never to a cut port or one outside the
        /// frame's VLANs, and to one port alone when the receiver is known.
        #[test]
        fn forwards_as_a_switch_must(
            vlans in proptest::collection::vec(vlan(), 2..6),
            cut in proptest::collection::vec(any::<bool>(), 6),
            frames in proptest::collection::vec((0usize..6, 0u8..4, prop_oneof![0u8..4, Just(255u8)], proptest::option::of(0u16..5)), 1..40),
        ) {
            let now = Instant::now();
            let mut fabric = switch(&vlans);
            for (port, cut) in (0..vlans.len()).zip(&cut) {
                fabric.config(Port(port)).unwrap().cut = *cut;
            }
            for (from, source, to, tag) in frames {
                let from = from % vlans.len();
                let bytes = frame(source, to, tag);
                let hit = targets(&mut fabric, &bytes, from, now);
                let mut seen: Vec<usize> = hit.iter().map(|(port, _)| *port).collect();
                seen.dedup();
                prop_assert_eq!(seen.len(), hit.len());
                prop_assert!(!seen.contains(&from));
                prop_assert!(seen.iter().all(|port| !cut[*port]));
                let shared = |port: &usize| members(&vlans[*port]).iter().any(|vlan| members(&vlans[from]).contains(vlan));
                prop_assert!(seen.iter().all(shared));
                prop_assert!(!cut[from] || seen.is_empty());
                // What was just learnt is found again: the answer goes to this port alone, or nowhere.
                if !seen.is_empty() && tag.is_none() {
                    let back = targets(&mut fabric, &frame(9, source, None), seen[0], now);
                    let same = admit(&vlans[seen[0]], None) == admit(&vlans[from], None);
                    prop_assert!(!same || back.iter().all(|(port, _)| *port == from));
                }
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut fabric = switch(&[Vlan::Access(1), Vlan::Access(1)]);
            targets(&mut fabric, &bytes, 0, Instant::now());
            targets(&mut fabric, &bytes, 9, Instant::now());
        }
    }
}

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
        let known = (!header.destination.is_group()).then(|| self.find(vlan, header.destination, now)).flatten();
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
        (Vlan::Trunk { native, tagged }, Some(tag)) => (tagged.contains(&tag) || *native == Some(tag)).then_some(tag),
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

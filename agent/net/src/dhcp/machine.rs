//! The client's states (RFC 2131 figure 5), computed in memory: what came in, what to do, when to look again.
//!
//! Times are since boot (`CLOCK_BOOTTIME`). The caller sends what it is told, calls [`Machine::timer`] at
//! [`Machine::deadline`], and hands packets in.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::lease::Lease;
use super::message::{ClientMessage, Kind, ServerMessage};

/// First wait for an answer. RFC 2131 section 4.1 says 4 s for a 10 Mbit/s Ethernet; a node that comes up before its
/// switch port forwards loses its first question, and half of that wait is enough for it.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for an answer (section 4.1).
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// Chance added to and taken from each wait (section 4.1), milliseconds; at most half the wait.
const JITTER_MILLIS: u64 = 1000;
/// Requests for one offer before looking for servers again.
const REQUEST_TRIES: u32 = 4;
/// Requests for the address of last time before looking for servers.
const REBOOT_TRIES: u32 = 2;
/// Least wait between renewals (section 4.4.5).
const RENEW_WAIT: Duration = Duration::from_secs(60);
/// Wait after a decline (section 3.1, step 5).
const DECLINE_WAIT: Duration = Duration::from_secs(10);
/// Wait after a refusal, doubled with each in a row up to [`LONGEST_WAIT`], so that a server that offers and refuses
/// is no storm.
const REFUSED_WAIT: Duration = Duration::from_millis(500);
/// Unanswered questions after which the operator is told.
const TELL_AFTER: u32 = 2;

/// What the client needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The link's hardware address.
    pub mac: [u8; 6],
    /// The host name that is sent, if any.
    pub hostname: Option<String>,
    /// Whether an address is probed for by ARP before it is used.
    pub probe: bool,
}

/// Where to send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To all, from no address.
    Broadcast,
    /// To all, from the leased address.
    BroadcastFrom(Ipv4Addr),
    /// To the server, from the leased address.
    Unicast {
        /// The leased address.
        from: Ipv4Addr,
        /// The server.
        to: Ipv4Addr,
    },
}

/// What the caller shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send(ClientMessage, Destination),
    /// Ask by ARP whether somebody uses the address, and call [`Machine::probed`].
    Probe(Ipv4Addr),
    /// The lease holds: use it. Comes again with each renewal.
    Configure(Lease),
    /// The lease is gone: stop using it.
    Deconfigure,
    /// The operator should know this.
    Problem(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nothing to do before the deadline, then [`Machine::discover`].
    Idle,
    Selecting,
    Requesting(Lease),
    Rebooting(Lease),
    Probing(Lease),
    Bound(Lease),
    Renewing(Lease),
    Rebinding(Lease),
}

/// The client of one link.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    deadline: Option<Duration>,
    xid: u32,
    /// When the exchange under way began.
    since: Duration,
    /// When the last request was sent: a lease runs from there (section 4.4.1).
    asked: Duration,
    /// Messages sent in this state.
    tries: u32,
    /// Refusals in a row.
    refused: u32,
    /// Whether the address is configured, so that its loss has to be told.
    configured: bool,
    chance: u64,
}

impl Machine {
    /// A client that has not begun. `seed` is random: transaction ids and jitter come from it.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            state: State::Idle,
            deadline: None,
            xid: 0,
            since: Duration::ZERO,
            asked: Duration::ZERO,
            tries: 0,
            refused: 0,
            configured: false,
            chance: seed,
        }
    }

    /// When to call [`Machine::timer`]; `None`: nothing ends by itself.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) | State::Renewing(lease) | State::Rebinding(lease) => Some(lease),
            _ => None,
        }
    }

    /// Begins. With the lease of an earlier connection that is still good, asks for that address (INIT-REBOOT), else
    /// looks for servers. `configured`: the earlier lease's address is on the link.
    pub fn start(&mut self, now: Duration, earlier: Option<Lease>, configured: bool) -> Vec<Action> {
        self.configured = configured;
        self.begin(now);
        match earlier {
            Some(lease) if lease.is_valid(now) => {
                self.state = State::Rebooting(lease);
                vec![self.ask(now)]
            }
            _ => {
                let mut actions = self.drop_lease();
                actions.extend(self.discover(now));
                actions
            }
        }
    }

    /// Takes over a lease that another process got and that is in use; nothing is sent before its T1.
    pub fn adopt(&mut self, now: Duration, lease: Lease) -> Vec<Action> {
        if !lease.is_valid(now) {
            return self.start(now, None, true);
        }
        self.begin(now);
        self.bind(lease)
    }

    fn begin(&mut self, now: Duration) {
        self.xid = self.random() as u32;
        self.since = now;
        self.tries = 0;
    }

    /// Looks for servers.
    fn discover(&mut self, now: Duration) -> Vec<Action> {
        if self.state != State::Selecting {
            self.begin(now);
            self.state = State::Selecting;
        }
        let message = self.message(Kind::Discover, now);
        self.wait(now);
        let mut actions = vec![Action::Send(message, Destination::Broadcast)];
        if self.tries > TELL_AFTER {
            let asked = self.tries - 1;
            actions.push(Action::Problem(format!("no DHCP server has answered {asked} questions")));
        }
        actions
    }

    /// Asks for what the state wants.
    fn ask(&mut self, now: Duration) -> Action {
        self.asked = now;
        let mut message = self.message(Kind::Request, now);
        let destination = match &self.state {
            State::Requesting(lease) => {
                (message.requested, message.server) = (Some(lease.address), Some(lease.server));
                Destination::Broadcast
            }
            State::Rebooting(lease) => {
                message.requested = Some(lease.address);
                Destination::Broadcast
            }
            State::Renewing(lease) => {
                message.ciaddr = lease.address;
                Destination::Unicast { from: lease.address, to: lease.server }
            }
            State::Rebinding(lease) => {
                message.ciaddr = lease.address;
                Destination::BroadcastFrom(lease.address)
            }
            State::Idle | State::Selecting | State::Probing(_) | State::Bound(_) => Destination::Broadcast,
        };
        self.wait(now);
        Action::Send(message, destination)
    }

    fn message(&self, kind: Kind, now: Duration) -> ClientMessage {
        let secs = now.saturating_sub(self.since).as_secs();
        ClientMessage {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            mac: self.settings.mac,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
            hostname: self.settings.hostname.clone(),
        }
    }

    /// Sets the deadline for an answer to the message that goes out now.
    fn wait(&mut self, now: Duration) {
        let moments = self.lease().and_then(Lease::moments);
        let wait = match (&self.state, moments) {
            (State::Renewing(_), Some(m)) => {
                half(now, m.rebind).max(RENEW_WAIT).min(m.rebind.saturating_sub(now))
            }
            (State::Rebinding(_), Some(m)) => {
                half(now, m.expire).max(RENEW_WAIT).min(m.expire.saturating_sub(now))
            }
            _ => {
                let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(6)).min(LONGEST_WAIT);
                let range = JITTER_MILLIS.min(wait.as_millis() as u64 / 2);
                wait + Duration::from_millis(self.random() % (2 * range + 1)) - Duration::from_millis(range)
            }
        };
        self.tries += 1;
        self.deadline = Some(now + wait);
    }

    /// The deadline is there (or not: then nothing happens).
    pub fn timer(&mut self, now: Duration) -> Vec<Action> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match self.state.clone() {
            State::Idle | State::Selecting => self.discover(now),
            State::Requesting(_) if self.tries < REQUEST_TRIES => vec![self.ask(now)],
            State::Requesting(lease) => {
                let mut actions = vec![Action::Problem(format!(
                    "DHCP server {} offered {} and did not confirm it",
                    lease.server, lease.address
                ))];
                actions.extend(self.discover(now));
                actions
            }
            // A failed reboot keeps the address as long as the lease lasts only where nobody answers at all; the
            // links of a node move seldom, so looking for servers goes on beside it without it.
            State::Rebooting(_) if self.tries < REBOOT_TRIES => vec![self.ask(now)],
            State::Rebooting(_) => {
                let mut actions = self.drop_lease();
                actions.extend(self.discover(now));
                actions
            }
            // The caller owes a word on its probe; the deadline only guards against a caller that forgot.
            State::Probing(_) => self.probed(now, false),
            State::Bound(lease) | State::Renewing(lease) | State::Rebinding(lease) => self.lasts(now, lease),
        }
    }

    /// Renews, rebinds or gives up a lease, as its moments say.
    fn lasts(&mut self, now: Duration, lease: Lease) -> Vec<Action> {
        let Some(moments) = lease.moments() else { return Vec::new() };
        if now >= moments.expire {
            let why =
                format!("the DHCP lease of {} ran out: server {} is silent", lease.address, lease.server);
            let mut actions = vec![Action::Problem(why)];
            actions.extend(self.drop_lease());
            actions.extend(self.discover(now));
            return actions;
        }
        let mut actions = Vec::new();
        if now >= moments.rebind {
            if !matches!(self.state, State::Rebinding(_)) {
                let silent = format!("DHCP server {} is silent, asking any", lease.server);
                actions.push(Action::Problem(silent));
                self.begin(now);
            }
            self.state = State::Rebinding(lease);
        } else {
            if !matches!(self.state, State::Renewing(_)) {
                self.begin(now);
            }
            self.state = State::Renewing(lease);
        }
        actions.push(self.ask(now));
        actions
    }

    /// A server's message came in.
    pub fn packet(&mut self, now: Duration, message: ServerMessage) -> Vec<Action> {
        if message.xid != self.xid || message.mac != self.settings.mac {
            return Vec::new();
        }
        match (self.state.clone(), message.kind) {
            (State::Selecting, Kind::Offer) => {
                let Some(offer) = message.lease else { return Vec::new() };
                self.state = State::Requesting(offer);
                self.tries = 0;
                vec![self.ask(now)]
            }
            (State::Requesting(offer), Kind::Ack) => match message.lease {
                Some(lease) if lease.server == offer.server => self.granted(now, lease),
                _ => Vec::new(),
            },
            (State::Requesting(offer), Kind::Nak) if message.server == Some(offer.server) => {
                self.refused(now, offer.address, message)
            }
            (State::Rebooting(old) | State::Rebinding(old), Kind::Nak) => {
                self.refused(now, old.address, message)
            }
            (State::Rebooting(old) | State::Rebinding(old), Kind::Ack) => match message.lease {
                Some(lease) if lease.address == old.address => self.granted(now, lease),
                _ => Vec::new(),
            },
            (State::Renewing(old), Kind::Ack) => match message.lease {
                Some(lease) if lease.address == old.address && lease.server == old.server => {
                    self.granted(now, lease)
                }
                _ => Vec::new(),
            },
            (State::Renewing(old), Kind::Nak) if message.server == Some(old.server) => {
                self.refused(now, old.address, message)
            }
            _ => Vec::new(),
        }
    }

    fn granted(&mut self, now: Duration, mut lease: Lease) -> Vec<Action> {
        lease.acquired_millis = self.asked.as_millis() as u64;
        // It runs from the request; an answer that took longer than that is none.
        if !lease.is_valid(now) {
            return Vec::new();
        }
        self.refused = 0;
        if self.settings.probe && !self.configured {
            let address = lease.address;
            self.state = State::Probing(lease);
            self.deadline = Some(now + DECLINE_WAIT);
            return vec![Action::Probe(address)];
        }
        self.bind(lease)
    }

    fn bind(&mut self, lease: Lease) -> Vec<Action> {
        self.deadline = lease.moments().map(|moments| moments.renew);
        self.state = State::Bound(lease.clone());
        self.configured = true;
        vec![Action::Configure(lease)]
    }

    /// The answer to [`Action::Probe`].
    pub fn probed(&mut self, now: Duration, conflict: bool) -> Vec<Action> {
        let State::Probing(lease) = self.state.clone() else { return Vec::new() };
        if !conflict {
            // A lease of seconds may have run out while it was probed for.
            return if lease.is_valid(now) { self.bind(lease) } else { self.discover(now) };
        }
        let mut message = self.message(Kind::Decline, now);
        (message.requested, message.server) = (Some(lease.address), Some(lease.server));
        self.state = State::Idle;
        self.deadline = Some(now + DECLINE_WAIT);
        vec![
            Action::Send(message, Destination::Broadcast),
            Action::Problem(format!(
                "another machine uses {}, which DHCP server {} gave: declined",
                lease.address, lease.server
            )),
        ]
    }

    fn refused(&mut self, now: Duration, address: Ipv4Addr, message: ServerMessage) -> Vec<Action> {
        let wait = REFUSED_WAIT.saturating_mul(1 << self.refused.min(7)).min(LONGEST_WAIT);
        self.refused += 1;
        let mut actions = self.drop_lease();
        self.state = State::Idle;
        self.deadline = Some(now + wait);
        let said = message.text.map(|text| format!(": {text}")).unwrap_or_default();
        actions.push(Action::Problem(format!("a DHCP server refused {address}{said}")));
        actions
    }

    fn drop_lease(&mut self) -> Vec<Action> {
        if std::mem::take(&mut self.configured) { vec![Action::Deconfigure] } else { Vec::new() }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014) on a random seed: enough for jitter and for ids that nobody off the link
    /// guesses.
    fn random(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn half(now: Duration, end: Duration) -> Duration {
    end.saturating_sub(now) / 2
}

#[cfg(test)]
mod tests;

//! The client's sockets: one task per link that feeds a [`Machine`] and does what it says.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use cairn_sys::packet::PacketSocket;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::frame::{self, ARP_FILTER, DHCP_FILTER, ETHERTYPE_ARP, ETHERTYPE_IP};
use super::lease::Lease;
use super::machine::{Action, Destination, Machine, Settings};
use super::message::{self, ClientMessage};
use crate::clock;

/// ARP probes sent for an address, and the wait after each. RFC 5227's 1 to 7 s would be most of a boot; a machine
/// that uses the address answers within a round trip of the same wire.
const PROBES: u32 = 2;
const PROBE_WAIT: Duration = Duration::from_millis(150);
/// Packets read in one go before timers get their turn, so that a flood cannot stop the clock.
const BURST: usize = 32;

/// What the client tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Use this lease; comes again with each renewal.
    Bound(Box<Lease>),
    /// Stop using the lease.
    Lost,
    /// One line for the operator.
    Problem(String),
}

/// How to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Look for servers.
    Fresh,
    /// Ask for the address of an earlier lease; `configured`: it is on the link.
    Again {
        /// The lease.
        lease: Lease,
        /// Whether its address is on the link.
        configured: bool,
    },
    /// Go on with a lease in use.
    Adopt(Lease),
}

/// The link.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// Runs a client until it is dropped; ends only with an error of its sockets.
///
/// # Errors
/// When the packet socket cannot be opened or read.
pub async fn run(
    link: Link,
    settings: Settings,
    begin: Begin,
    events: mpsc::UnboundedSender<(u32, Event)>,
) -> io::Result<()> {
    let socket = PacketSocket::open(link.index, ETHERTYPE_IP, DHCP_FILTER)?.watched()?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    let mac = settings.mac;
    let machine = Machine::new(settings, u64::from_ne_bytes(seed));
    let mut client = Client { link, mac, machine, socket, unicast: None, probe: None, events };
    let now = clock::since_boot();
    let actions = match begin {
        Begin::Fresh => client.machine.start(now, None, false),
        Begin::Again { lease, configured } => client.machine.start(now, Some(lease), configured),
        Begin::Adopt(lease) => client.machine.adopt(now, lease),
    };
    client.perform(actions);
    loop {
        client.step().await?;
    }
}

struct Probe {
    socket: AsyncFd<PacketSocket>,
    address: Ipv4Addr,
    left: u32,
    next: Duration,
}

struct Client {
    link: Link,
    mac: [u8; 6],
    machine: Machine,
    socket: AsyncFd<PacketSocket>,
    /// Sends renewals; bound to the leased address.
    unicast: Option<(Ipv4Addr, UdpSocket)>,
    probe: Option<Probe>,
    events: mpsc::UnboundedSender<(u32, Event)>,
}

impl Client {
    async fn step(&mut self) -> io::Result<()> {
        let probe_next = self.probe.as_ref().map(|probe| probe.next);
        let next = [self.machine.deadline(), probe_next].into_iter().flatten().min();
        tokio::select! {
            ready = self.socket.readable() => {
                let mut ready = ready?;
                let mut taken = Vec::new();
                let mut buffer = [0; frame::FRAME_MAX];
                for _ in 0..BURST {
                    match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
                        Ok(Ok(got)) if !got.cut => {
                            let payload = frame::unwrap(&buffer[..got.length], got.checksum_missing);
                            taken.extend(payload.and_then(|payload| message::parse(payload).ok()));
                        }
                        Ok(Ok(_)) => {}
                        // The link went down: its manager ends this task on the same news.
                        Ok(Err(error)) if error.raw_os_error() == Some(NETDOWN) => {}
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => break,
                    }
                }
                for message in taken {
                    let actions = self.machine.packet(clock::since_boot(), message);
                    self.perform(actions);
                }
            }
            conflict = conflict(self.probe.as_ref(), self.mac) => {
                conflict?;
                self.probed(true);
            }
            () = clock_at(next) => {
                let now = clock::since_boot();
                self.probe_timer(now);
                let actions = self.machine.timer(now);
                self.perform(actions);
            }
        }
        Ok(())
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            let event = match action {
                Action::Send(message, destination) => {
                    if let Err(error) = self.send(&message, destination) {
                        tracing::debug!(link = self.link.name, %error, "DHCP message not sent");
                    }
                    continue;
                }
                Action::Probe(address) => {
                    self.start_probe(address);
                    continue;
                }
                Action::Configure(lease) => Event::Bound(Box::new(lease)),
                Action::Deconfigure => {
                    self.unicast = None;
                    Event::Lost
                }
                Action::Problem(text) => Event::Problem(text),
            };
            // Nobody listens once the manager is gone; then this task ends too.
            let _ = self.events.send((self.link.index, event));
        }
    }

    fn send(&mut self, message: &ClientMessage, destination: Destination) -> io::Result<()> {
        let bytes = message.encode();
        let source = match destination {
            Destination::Broadcast => Ipv4Addr::UNSPECIFIED,
            Destination::BroadcastFrom(source) => source,
            Destination::Unicast { from, to } => {
                // Without the socket (the address is not on the link yet) the message goes to all: servers take it.
                match self.unicast_socket(from).and_then(|socket| socket.try_send_to(&bytes, (to, 67).into()))
                {
                    Ok(_) => return Ok(()),
                    Err(error) => tracing::debug!(link = self.link.name, %error, "renewal goes to all"),
                }
                from
            }
        };
        self.socket.get_ref().send(frame::BROADCAST, &frame::wrap(&bytes, source))
    }

    fn unicast_socket(&mut self, from: Ipv4Addr) -> io::Result<&UdpSocket> {
        if self.unicast.as_ref().is_none_or(|(address, _)| *address != from) {
            let socket = std::net::UdpSocket::bind((from, 68))?;
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            socket.bind_device(Some(self.link.name.as_bytes()))?;
            self.unicast = Some((from, socket));
        }
        self.unicast.as_ref().map(|(_, socket)| socket).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn start_probe(&mut self, address: Ipv4Addr) {
        let socket =
            PacketSocket::open(self.link.index, ETHERTYPE_ARP, ARP_FILTER).and_then(PacketSocket::watched);
        match socket {
            Ok(socket) => {
                let now = clock::since_boot();
                self.probe = Some(Probe { socket, address, left: PROBES, next: now });
                self.probe_timer(now);
            }
            Err(error) => {
                tracing::warn!(link = self.link.name, %error, "no ARP socket: the address is used unprobed");
                self.probed(false);
            }
        }
    }

    fn probe_timer(&mut self, now: Duration) {
        let Some(probe) = &mut self.probe else { return };
        if now < probe.next {
            return;
        }
        if probe.left == 0 {
            self.probed(false);
            return;
        }
        probe.left -= 1;
        probe.next = now + PROBE_WAIT;
        if let Err(error) =
            probe.socket.get_ref().send(frame::BROADCAST, &frame::arp_probe(self.mac, probe.address))
        {
            tracing::debug!(link = self.link.name, %error, "ARP probe not sent");
        }
    }

    fn probed(&mut self, conflict: bool) {
        self.probe = None;
        let actions = self.machine.probed(clock::since_boot(), conflict);
        self.perform(actions);
    }
}

/// `ENETDOWN` (asm-generic/errno.h).
const NETDOWN: i32 = 100;

/// Waits until somebody shows that they use the probed address; for ever without a probe.
async fn conflict(probe: Option<&Probe>, mac: [u8; 6]) -> io::Result<()> {
    let Some(probe) = probe else { return std::future::pending().await };
    let mut buffer = [0; 64];
    loop {
        let mut ready = probe.socket.readable().await?;
        match ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) {
            Ok(Ok(got)) if frame::arp_conflict(&buffer[..got.length], mac, probe.address) => return Ok(()),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) if error.raw_os_error() == Some(NETDOWN) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

async fn clock_at(next: Option<Duration>) {
    match next {
        Some(next) => sleep_until(Instant::now() + next.saturating_sub(clock::since_boot())).await,
        None => std::future::pending().await,
    }
}

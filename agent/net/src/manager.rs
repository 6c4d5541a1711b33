//! The task that keeps kernel, DHCP clients, resolv.conf and status in step with the plan.
//!
//! Every event leads to the same walk: read the facts, see what is wanted, run what differs, publish.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use cairn_protocol::netplan::Netplan;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::dhcp::Lease;
use crate::dhcp::client::{self, Begin, Event};
use crate::dhcp::machine::Settings;
use crate::facts::LinkFacts;
use crate::kernel::{Kernel, KernelError, Notices};
use crate::network::NetConfig;
use crate::op::Op;
use crate::planner::{self, LeaseUse};
use crate::resolv;
use crate::state::{self, LinkState, State};
use crate::status::{LinkStatus, NetStatus};
use crate::want::{self, Want, Wants};

/// How long a link without carrier keeps its lease: switches and drivers renegotiate within this, and routes must
/// not lead into a pulled cable for longer.
const CARRIER_GRACE: Duration = Duration::from_secs(3);
/// When steps that failed, or that changed nothing, are tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Walks for one event: making a bond, its members, its addresses and the sysctls of what was made takes three.
const WALKS: u32 = 5;

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Put this plan in force; the answer is the one before.
    Apply(Option<Netplan>, oneshot::Sender<Option<Netplan>>),
}

/// A link that is ours.
#[derive(Debug, Default)]
struct Port {
    mac: [u8; 6],
    client: Option<Client>,
    /// The lease in use.
    lease: Option<Lease>,
    /// The last lease, to ask for again after the cable was out.
    memory: Option<Lease>,
    carrier_lost: Option<Duration>,
    dhcp_problem: Option<String>,
}

/// A running DHCP client; ends when dropped.
#[derive(Debug)]
struct Client(JoinHandle<()>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct Manager {
    config: NetConfig,
    kernel: Kernel,
    status: watch::Sender<NetStatus>,
    events: mpsc::UnboundedSender<(u32, Event)>,
    leases: mpsc::UnboundedReceiver<(u32, Event)>,
    ports: BTreeMap<u32, Port>,
    /// Names of links that were made for the plan.
    made: BTreeSet<String>,
    /// Steps that failed in the last walk, by link name.
    step_problems: BTreeMap<String, String>,
    /// Leases of the process before, until their links are met.
    inherited: State,
    saved: Option<State>,
    retry: Option<Instant>,
}

impl Manager {
    pub(crate) fn new(config: NetConfig, kernel: Kernel, status: watch::Sender<NetStatus>) -> Self {
        let (events, leases) = mpsc::unbounded_channel();
        let mut inherited = config.state_file.as_deref().map(state::load).unwrap_or_default();
        Self {
            config,
            kernel,
            status,
            events,
            leases,
            ports: BTreeMap::new(),
            step_problems: BTreeMap::new(),
            made: std::mem::take(&mut inherited.made),
            inherited,
            saved: None,
            retry: None,
        }
    }

    pub(crate) async fn run(mut self, mut notices: Notices, mut commands: mpsc::Receiver<Command>) {
        loop {
            let mut answer = None;
            let next = self.next_wake();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Apply(netplan, reply)) => {
                        let before = std::mem::replace(&mut self.config.netplan, netplan);
                        answer = Some((reply, before));
                    }
                    None => return,
                },
                notice = notices.next() => {
                    if notice.is_none() {
                        tracing::error!("the netlink connection has ended");
                        return;
                    }
                    // One walk for all that is there.
                    while let Some(Some(())) = notices.next().now_or_never() {}
                }
                Some((index, event)) = self.leases.recv() => self.lease_event(index, event),
                () = wake(next) => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "network not read");
                self.retry = Some(Instant::now() + RETRY);
            }
            if let Some((reply, before)) = answer {
                let _ = reply.send(before);
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = clock::since_boot();
        let grace =
            self.ports.values().filter(|port| port.lease.is_some()).filter_map(|port| port.carrier_lost);
        let grace = grace.map(|lost| Instant::now() + (lost + CARRIER_GRACE).saturating_sub(now)).min();
        [self.retry, grace].into_iter().flatten().min()
    }

    fn lease_event(&mut self, index: u32, event: Event) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        // A client that was stopped may have left a word in the queue.
        if port.client.is_none() {
            return;
        }
        match event {
            Event::Bound(lease) => {
                port.memory = Some(*lease.clone());
                port.lease = Some(*lease);
                port.dhcp_problem = None;
            }
            Event::Lost => (port.lease, port.memory) = (None, None),
            Event::Problem(text) => {
                tracing::info!(link = index, "{text}");
                port.dhcp_problem = Some(text);
            }
        }
    }

    /// Walks until there is nothing to do. The kernel's notices of our own changes carry our own sequence numbers and
    /// end up as answers to the requests, so each walk that changed something is followed by another.
    pub(crate) async fn refresh(&mut self) -> Result<(), KernelError> {
        self.retry = self.retry.filter(|retry| *retry > Instant::now());
        for _ in 0..WALKS {
            if !self.walk().await? {
                return Ok(());
            }
        }
        tracing::warn!("the kernel does not show what it was told; trying again later");
        self.retry.get_or_insert(Instant::now() + RETRY);
        Ok(())
    }

    /// One walk; tells whether it changed something.
    async fn walk(&mut self) -> Result<bool, KernelError> {
        let facts = self.kernel.facts().await?;
        let wants = want::wants(self.config.netplan.as_ref(), &facts, &self.config.also);
        self.ports.retain(|index, _| facts.iter().any(|link| link.index == *index));
        for want in &wants.links {
            if let Some(link) = facts.iter().find(|link| link.name == want.name) {
                self.tend(link, want);
                if want.made.is_some() && link.made.is_some() {
                    self.made.insert(want.name.clone());
                }
            }
        }
        let now = clock::since_boot();
        let mut leases = BTreeMap::new();
        for link in &facts {
            if let Some(lease) = self.ports.get(&link.index).and_then(|port| port.lease.as_ref()) {
                leases.insert(link.name.as_str(), LeaseUse { lease, seconds: lease.seconds_left(now) });
            }
        }
        let mut ops = planner::plan(&wants.links, &facts, &leases, &self.made);
        // Ours before and not any more: what we put there goes.
        for link in facts.iter().filter(|link| !wants.links.iter().any(|want| want.name == link.name)) {
            let made = self.made.contains(&link.name);
            if self.ports.remove(&link.index).is_some() && !made {
                ops.extend(planner::release_ops(link, &self.made));
            }
        }
        let changed = self.perform(ops, &facts).await;
        self.publish(&wants, &facts);
        Ok(changed)
    }

    /// Starts and stops the link's DHCP client.
    fn tend(&mut self, link: &LinkFacts, want: &Want) {
        let now = clock::since_boot();
        let port = self.ports.entry(link.index).or_default();
        port.mac = link.mac;
        let inherited = self.inherited.links.remove(&link.name).filter(|state| state.mac == link.mac);
        if let Some(lease) = inherited.and_then(|state| state.lease)
            && want.dhcp4
            && lease.is_valid(now)
        {
            port.memory = Some(lease);
        }
        if !want.dhcp4 {
            (port.client, port.lease, port.memory, port.dhcp_problem) = (None, None, None, None);
            return;
        }
        if !link.carrier {
            port.client = None;
            let lost = *port.carrier_lost.get_or_insert(now);
            if now >= lost + CARRIER_GRACE {
                port.lease = None;
            }
            return;
        }
        port.carrier_lost = None;
        let ended = port.client.as_ref().is_some_and(|client| client.0.is_finished());
        if ended {
            // It ends only with an error of its sockets, which was logged; it starts again with the retry.
            port.client = None;
            self.retry.get_or_insert(Instant::now() + RETRY);
            return;
        }
        if port.client.is_some() || (self.retry.is_some() && port.dhcp_problem.as_deref() == Some(NO_SOCKET))
        {
            return;
        }
        let on_link = |lease: &Lease| link.addresses.iter().any(|have| have.cidr.address() == lease.address);
        let begin = match (port.lease.take(), port.memory.take()) {
            // The cable was out for less than the grace: the address stays while the server is asked.
            (Some(lease), _) => {
                port.lease = Some(lease.clone());
                Begin::Again { configured: true, lease }
            }
            // The process before used it, or this one before the cable was out for longer.
            (None, Some(lease)) if on_link(&lease) => {
                port.lease = Some(lease.clone());
                Begin::Adopt(lease)
            }
            (None, Some(lease)) => Begin::Again { lease, configured: false },
            (None, None) => Begin::Fresh,
        };
        let settings = Settings {
            mac: link.mac,
            hostname: self.config.hostname.clone(),
            probe: self.config.probe_address,
        };
        let (events, index, name) = (self.events.clone(), link.index, link.name.clone());
        let of = client::Link { index, name: name.clone() };
        port.client = Some(Client(tokio::spawn(async move {
            if let Err(error) = client::run(of, settings, begin, events.clone()).await {
                tracing::warn!(link = name, %error, "DHCP client ended");
                let _ = events.send((index, Event::Problem(NO_SOCKET.to_owned())));
            }
        })));
    }

    /// Runs the steps; tells whether one of them succeeded.
    async fn perform(&mut self, ops: Vec<Op>, facts: &[LinkFacts]) -> bool {
        let mut changed = false;
        self.step_problems.clear();
        for op in &ops {
            let done = self.kernel.run(op, facts).await;
            match done {
                Ok(()) => {
                    changed = true;
                    tracing::info!("{op}");
                    match op {
                        Op::Make { link, .. } => drop(self.made.insert(link.clone())),
                        Op::Delete { link } => drop(self.made.remove(link)),
                        _ => {}
                    }
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    self.retry.get_or_insert(Instant::now() + RETRY);
                    self.step_problems.entry(op.link().to_owned()).or_insert_with(|| error.to_string());
                }
            }
        }
        changed
    }

    fn publish(&mut self, wants: &Wants, facts: &[LinkFacts]) {
        let mut status = NetStatus::default();
        let mut servers: Vec<IpAddr> = Vec::new();
        let mut search: Vec<String> = Vec::new();
        let mut state = State { version: 1, made: self.made.clone(), links: BTreeMap::new() };
        for want in &wants.links {
            // What a person wrote stands before what a server says.
            servers.extend(&want.dns);
            search.extend(want.search.iter().cloned());
            let link = facts.iter().find(|link| link.name == want.name);
            let port = link.and_then(|link| self.ports.get(&link.index));
            let failed = self.step_problems.get(&want.name).cloned();
            let (Some(link), Some(port)) = (link, port) else {
                let problem = failed.or_else(|| Some("not there yet".to_owned()));
                let (name, optional) = (want.name.clone(), want.optional);
                status.links.push(LinkStatus { name, optional, problem, ..LinkStatus::default() });
                continue;
            };
            let problem = if failed.is_some() {
                failed
            } else if !link.up {
                Some("down".to_owned())
            } else if !link.carrier {
                Some("no carrier: check the cable".to_owned())
            } else if want.dhcp4 && port.lease.is_none() {
                Some(port.dhcp_problem.clone().unwrap_or_else(|| "waiting for a DHCP server".to_owned()))
            } else {
                port.dhcp_problem.clone()
            };
            let lease = port.lease.clone();
            state.links.insert(link.name.clone(), LinkState { mac: port.mac, lease: lease.clone() });
            status.links.push(LinkStatus {
                index: link.index,
                name: link.name.clone(),
                carrier: link.carrier,
                addresses: link.usable().collect(),
                lease,
                optional: want.optional,
                problem,
            });
        }
        for (section, why) in &wants.problems {
            let (name, problem) = (section.clone(), Some(why.clone()));
            status.links.push(LinkStatus { name, problem, ..LinkStatus::default() });
        }
        for lease in status.links.iter().filter_map(|link| link.lease.as_ref()) {
            servers.extend(lease.dns.iter().map(|server| IpAddr::V4(*server)));
            search.extend(lease.search.iter().cloned().chain(lease.domain.clone()));
            for server in &lease.ntp {
                if !status.ntp.contains(&IpAddr::V4(*server)) {
                    status.ntp.push(IpAddr::V4(*server));
                }
            }
            status
                .controllers
                .extend(lease.controller.clone().filter(|url| !status.controllers.contains(url)));
            status.hostname = status.hostname.take().or(lease.hostname.clone());
        }
        if wants.links.is_empty() {
            status.problem = Some(match self.config.netplan {
                None => "no network interface found: is there a driver for it?".to_owned(),
                Some(_) => "no network interface matches the plan".to_owned(),
            });
        }
        let text = resolv::render(servers.iter().copied(), search.iter().map(String::as_str));
        if let Err(error) = resolv::write(&self.config.resolv_conf, &text) {
            let at = self.config.resolv_conf.display();
            status.problem.get_or_insert(format!("cannot write {at}: {error}"));
        }
        let mut seen = Vec::new();
        servers.retain(|server| {
            !seen.contains(server) && {
                seen.push(*server);
                true
            }
        });
        status.dns = servers;
        if let Some(path) = &self.config.state_file
            && self.saved.as_ref() != Some(&state)
        {
            match state::save(path, &state) {
                Ok(()) => self.saved = Some(state),
                Err(error) => tracing::warn!(path = %path.display(), %error, "network state not written"),
            }
        }
        self.status.send_if_modified(|have| {
            let changed = *have != status;
            *have = status;
            changed
        });
    }
}

/// What a link whose DHCP client cannot open its sockets shows.
const NO_SOCKET: &str = "no packet socket for DHCP (is af_packet in the kernel?)";

async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

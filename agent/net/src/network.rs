//! The handle by which the agent runs the network.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use cairn_protocol::netplan::Netplan;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::kernel::{Kernel, KernelError};
use crate::manager::{Command, Manager};
use crate::status::{LinkStatus, NetStatus};

/// How to run the network. [`NetConfig::new`] fills in what the booted machine has.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The plan; `None` is DHCPv4 and IPv6 autoconfiguration on every hardware link.
    pub netplan: Option<Netplan>,
    /// Where resolv.conf goes: `/run/cairn/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Where leases are kept for the next process of this boot (`/run/cairn/network.json`), and taken over from.
    pub state_file: Option<PathBuf>,
    /// The host name sent to DHCP servers.
    pub hostname: Option<String>,
    /// Names (`*` and `?`) of virtual links that the default plan takes for hardware: `host0` is what systemd-nspawn
    /// gives a container, `host1` what the lab gives it besides.
    pub also: Vec<String>,
    /// Whether a leased address is probed for by ARP before its first use. Default yes; costs 0.3 s.
    pub probe_address: bool,
    /// `/proc/sys`.
    pub proc_sys: PathBuf,
    /// `/sys`.
    pub sysfs: PathBuf,
}

impl NetConfig {
    /// The default plan, with everything at its usual place.
    pub fn new(resolv_conf: impl Into<PathBuf>) -> Self {
        Self {
            netplan: None,
            resolv_conf: resolv_conf.into(),
            state_file: None,
            hostname: None,
            also: vec!["host*".to_owned()],
            probe_address: true,
            proc_sys: "/proc/sys".into(),
            sysfs: "/sys".into(),
        }
    }
}

/// Why nobody can be reached yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct NotOnline {
    /// One line for the console: `eth0: no carrier: check the cable`.
    pub problem: String,
    /// The state at the end of the wait.
    pub status: NetStatus,
}

/// Why the network could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel could not be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The plan breaks a rule.
    #[error(transparent)]
    Plan(#[from] cairn_protocol::netplan::NetplanError),
    /// The network task has ended, by a defect.
    #[error("the network task has ended")]
    Ended,
}

/// What became of a new plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works and stays.
    Kept,
    /// It does not work; the one before is in force again.
    Returned {
        /// Why, in one line.
        why: String,
    },
}

/// The running network. Dropping it ends DHCP and supervision; addresses and routes stay, for the next process.
#[derive(Debug)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<NetStatus>,
    task: JoinHandle<()>,
}

impl Network {
    /// Starts the network on the current tokio runtime (one thread is enough; I/O and time enabled). Returns when the
    /// plan was applied once; leases come later, see [`Network::wait_online`]. Leases in the state file are taken
    /// over, with no packet sent for those that are in use.
    ///
    /// # Errors
    /// [`NetError`] when netlink does not work at all or the plan breaks a rule. What fails on a single link is in
    /// its status.
    pub async fn start(config: NetConfig) -> Result<Self, NetError> {
        if let Some(netplan) = &config.netplan {
            netplan.check()?;
        }
        let (kernel, notices) = Kernel::open(&config.proc_sys, &config.sysfs)?;
        let (commands, receiver) = mpsc::channel(4);
        let (sender, status) = watch::channel(NetStatus::default());
        let mut manager = Manager::new(config, kernel, sender);
        manager.refresh().await?;
        let task = tokio::spawn(manager.run(notices, receiver));
        Ok(Self { commands, status, task })
    }

    /// The state now.
    pub fn status(&self) -> NetStatus {
        self.status.borrow().clone()
    }

    /// The state as it changes.
    pub fn watch(&self) -> watch::Receiver<NetStatus> {
        self.status.clone()
    }

    /// Waits until a link is online, and so is every one that the plan does not call optional. When that does not come
    /// true within `patience`, one link that is online is enough: a second cable that is out must not stop a node
    /// (the status says what is wrong).
    ///
    /// # Errors
    /// [`NotOnline`], with a line for the console, when no link is online.
    pub async fn wait_online(&self, patience: Duration) -> Result<NetStatus, NotOnline> {
        let mut watch = self.status.clone();
        let waited = tokio::time::timeout(patience, watch.wait_for(NetStatus::is_online)).await;
        if let Ok(Ok(status)) = waited {
            return Ok(status.clone());
        }
        let status = self.status();
        if status.links.iter().any(LinkStatus::is_online) {
            return Ok(status);
        }
        let problem = status.problems().unwrap_or_else(|| "no address yet".to_owned());
        Err(NotOnline { problem, status })
    }

    /// Puts another plan in force, without a trial. `None` is DHCP on every link, the last resort. Returns when it
    /// was applied once.
    ///
    /// # Errors
    /// [`NetError`].
    pub async fn apply(&self, netplan: Option<Netplan>) -> Result<(), NetError> {
        if let Some(netplan) = &netplan {
            netplan.check()?;
        }
        self.swap(netplan).await.map(drop)
    }

    /// Tries another plan: it is kept only when the node comes online within `patience` and `probe` (the controller
    /// was reached) says yes; else the one before is in force again.
    ///
    /// # Errors
    /// [`NetError`] for a plan that breaks a rule: nothing was changed then.
    pub async fn reconfigure<F>(
        &self,
        netplan: Option<Netplan>,
        patience: Duration,
        probe: F,
    ) -> Result<Outcome, NetError>
    where
        F: Future<Output = bool>,
    {
        if let Some(netplan) = &netplan {
            netplan.check()?;
        }
        let before = self.swap(netplan).await?;
        let why = match self.wait_online(patience).await {
            Err(offline) => offline.problem,
            Ok(_) if probe.await => return Ok(Outcome::Kept),
            Ok(_) => "the controller was not reached through it".to_owned(),
        };
        self.swap(before).await?;
        Ok(Outcome::Returned { why })
    }

    async fn swap(&self, netplan: Option<Netplan>) -> Result<Option<Netplan>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Apply(netplan, reply)).await.map_err(|_| NetError::Ended)?;
        answer.await.map_err(|_| NetError::Ended)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! The cluster's bootstrap as a part of the service: its inputs from the agent, its progress into the report.

use std::path::PathBuf;
use std::sync::Arc;

use cairn_bootstrap::driver::{self, Identify, Places, Report as Progress, Start};
use cairn_bootstrap::edge::tls;
use cairn_protocol::plan::Timeouts;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::paths::Paths;
use crate::report::Report;
use crate::running::Running;
use crate::worker::context::Context;

/// The running bootstrap; ends when dropped.
#[derive(Debug)]
pub struct Bootstrap {
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts it, where the running generation's plan gives this node a place in the site's cluster.
pub fn start(context: &Context, running: Option<&Running>) -> Option<Bootstrap> {
    let plan = &running?.plan;
    let place = plan.kubernetes.clone()?;
    let (sender, progress) = watch::channel(Progress::default());
    let who = Who {
        paths: context.paths.clone(),
        trust_domain: context.settings().map(|settings| settings.trust_domain.clone()).unwrap_or_default(),
        clock: Arc::clone(&context.clock),
    };
    let memory = context.container.as_ref().map(|machine| machine.memory_bytes).filter(|bytes| *bytes > 0);
    let start = Start {
        places: Places::new(PathBuf::from(context.paths.root())),
        place,
        speed: context.speed(),
        speed_is_planned: plan.timeouts != Timeouts::Auto,
        container: context.container.is_some(),
        memory_bytes: memory,
        identity: Arc::new(who),
        stands: context.report.cluster_stands.subscribe(),
        report: sender,
    };
    let told = tokio::spawn(tell(progress, Arc::clone(&context.report)));
    Some(Bootstrap { tasks: [tokio::spawn(driver::run(start)), told] })
}

/// Carries each change of the progress into the agent's report.
async fn tell(mut progress: watch::Receiver<Progress>, report: Arc<Report>) {
    let mut ready = false;
    loop {
        let Progress { beat, steps } = progress.borrow_and_update().clone();
        let turned = beat.ready != ready;
        ready = beat.ready;
        report.change(|facts| {
            facts.cluster = Some(beat);
            facts.bootstrap = steps;
        });
        if turned {
            report.judge.notify_one();
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// The node's certificate as it is now, read from STATE each time: it is renewed every day, by another part of the agent,
/// and is needed when central is away too.
struct Who {
    paths: Paths,
    trust_domain: String,
    clock: Arc<Clock>,
}

impl Identify for Who {
    fn identity(&self) -> Option<tls::Identity> {
        let identity = Identity::open(&self.paths, true).ok()?;
        let member = identity.member.clone()?;
        let credential = identity.credential().ok()?;
        Some(tls::Identity {
            site: member.site,
            node: member.node,
            trust_domain: self.trust_domain.clone(),
            chain: credential.chain.clone(),
            key: credential.key.clone_key(),
            now: self.clock.now(),
        })
    }
}

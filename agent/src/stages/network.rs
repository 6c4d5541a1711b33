//! `network`: links up, addresses, routes, resolver, through cairn-net. The document of a signed seed is tried; while
//! the controller is not reached through it, DHCP on every link takes turns with it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cairn_net::{NetConfig, Network};
use cairn_protocol::netplan::Netplan;
use cairn_protocol::stage::Stage;

use crate::control::Message;
use crate::engine::{Outcome, Trouble};
use crate::report::read_json;
use crate::worker::context::Context;

/// How long one try waits for an address. A switch port with spanning tree takes 30 s to forward; the next try goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tries with one document before the other gets its turn.
pub(super) const TURN: u32 = 3;

/// Tries once.
pub(super) async fn run(context: &mut Context) -> Outcome {
    super::seed::from_disks(context).await;
    if context.options.hosted {
        return Outcome::Done;
    }
    link_resolver(context);
    let document = document(context);
    let network = match context.network.take() {
        Some(network) => network,
        None => {
            let config = NetConfig {
                netplan: document.clone(),
                state_file: Some(context.paths.in_run("network.json")),
                ..NetConfig::new(context.paths.in_run("resolv.conf"))
            };
            match Network::start(config).await {
                Ok(network) => network,
                Err(error) => {
                    let advice = "correct the network document; DHCP is tried meanwhile";
                    context.unreached += 1;
                    return Outcome::Wait(Trouble::waiting(error.to_string(), advice));
                }
            }
        }
    };
    context.network = Some(network);
    // Requests are on their way now.
    super::devices::watch(context);
    // PID 1 opens a watchdog at the next word.
    context.control.send(&Message::Tick);
    let Some(network) = &context.network else {
        return Outcome::Wait(Trouble::waiting("the network is gone", "the node tries again by itself"));
    };
    match network.wait_online(PATIENCE).await {
        Ok(status) => {
            let addresses = status.addresses();
            let text: Vec<_> =
                addresses.iter().map(|(link, list)| format!("{link} {}", list.join(" "))).collect();
            context.console.note(Stage::Network, text.join(", "));
            context.report.change_status(|status| status.addresses = addresses);
        }
        Err(offline) => {
            take_turns(context).await;
            return Outcome::Wait(Trouble::waiting(
                offline.problem,
                "plug a network cable in, or hand the node a seed with its addresses",
            ));
        }
    }
    if context.seed.is_none() && context.cmdline.seed.is_some() {
        super::seed::from_url(context).await;
        if context.seed.as_ref().is_some_and(|seed| seed.network.is_some()) {
            apply(context, false).await;
        }
    }
    Outcome::Done
}

/// The document to start with: the plan's, else the seed's, else the last good one of STATE, else none: DHCP on every
/// link.
fn document(context: &Context) -> Option<Netplan> {
    let plan = context.assignment.as_ref().and_then(|accepted| accepted.assignment.plan.network.clone());
    let plan = plan.or_else(|| context.network_plan.clone());
    let seed = || context.seed.as_ref().and_then(|seed| seed.network.clone());
    plan.or_else(seed).or_else(|| read_json(&context.paths.state().join(LAST_GOOD)))
}

/// The last document through which the controller was reached, on STATE.
const LAST_GOOD: &str = "network/last-good.json";

/// The controller was reached: the document in force is a good one.
pub(super) fn reached(context: &mut Context) {
    let in_force = (context.unreached / TURN).is_multiple_of(2);
    context.unreached = 0;
    if let Some(document) = document(context).filter(|_| in_force && context.has_state()) {
        let file = context.paths.state().join(LAST_GOOD);
        let known: Option<Netplan> = read_json(&file);
        if known.as_ref() != Some(&document) {
            let _ = file.parent().map(fs::create_dir_all);
            let json = serde_json::to_vec(&document).unwrap_or_default();
            let _ = crate::durable::write(&file, &json);
        }
    }
}

/// The controller was not reached: counts it, and lets the other document have its turn.
pub(super) async fn take_turns(context: &mut Context) {
    context.unreached += 1;
    if context.unreached.is_multiple_of(TURN) && document(context).is_some() {
        apply(context, (context.unreached / TURN) % 2 == 1).await;
    }
}

/// Puts the document, or DHCP on every link, in force.
async fn apply(context: &mut Context, dhcp: bool) {
    let document = if dhcp { None } else { document(context) };
    let Some(network) = &context.network else { return };
    let what = if dhcp { "DHCP on every link" } else { "the network document" };
    match network.apply(document).await {
        Ok(()) => {
            context.console.note(Stage::Network, format!("trying {what}"));
            let _ = network.wait_online(PATIENCE).await;
        }
        Err(error) => context.console.note(Stage::Network, format!("{what} could not be tried: {error}")),
    }
}

/// Points the resolver of this process at cairn-net's file.
fn link_resolver(context: &Context) {
    // Below another root (a test) `/etc/resolv.conf` is the host's, not ours.
    if context.paths.root() != Path::new("/") {
        return;
    }
    let etc = Path::new("/etc/resolv.conf");
    let file = context.paths.in_run("resolv.conf");
    if fs::read_link(etc).ok().as_deref() != Some(&file) {
        let _ = fs::remove_file(etc);
        let _ = std::os::unix::fs::symlink(&file, etc);
    }
}

//! The boot benchmark: what the agent costs from power-on to enrolment, as a ratio to the same kernel with an init that only
//! prints. Both are measured in turn in one run, so that a loaded machine slows both.

use std::path::Path;
use std::time::Duration;

use cairn_protocol::stage::Stage;
use serde::Serialize;

use crate::node::{self, Node};
use crate::qemu::args::Accel;
use crate::rack::{self, Rack};

/// What the printing init says.
pub const PRINTED: &str = "cairn-print-init: up";
/// The promise: at most this many times the processor time of the printing init.
pub const LIMIT: f64 = 1.3;
/// A boot that takes longer failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bench {
    /// What executed the guests.
    pub accel: Accel,
    /// Processor seconds of QEMU to enrolment, for each round.
    pub agent_cpu_seconds: Vec<f64>,
    /// Processor seconds of QEMU to the print, for each round.
    pub print_cpu_seconds: Vec<f64>,
    /// Median of the first by median of the second.
    pub ratio: f64,
    /// The promise.
    pub limit: f64,
    /// Whether it is kept.
    pub ok: bool,
}

/// Runs both `rounds` times, in turn, on a rack with nodes `agent` and `print`; `initrd` is the printing init's initramfs.
///
/// # Errors
/// When a boot does not come to its end.
pub fn boots(
    rack: &mut Rack,
    initrd: &Path,
    rounds: usize,
    say: &dyn Fn(&str),
) -> Result<Bench, rack::Error> {
    if let Some(direct) = &mut rack.node("print")?.machine().direct {
        direct.initrd = initrd.to_owned();
    }
    let (mut agent, mut print) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        agent.push(once(rack.node("agent")?, |node| {
            node.wait_stage(node.mark(), PATIENCE, Stage::Enrol).map(drop)
        })?);
        print.push(once(rack.node("print")?, |node| {
            node.wait_text(node.mark(), PATIENCE, PRINTED).map(drop)
        })?);
        let last = |list: &[f64]| list.last().copied().unwrap_or_default();
        say(&format!(
            "round {round} of {rounds}: agent {:.2} CPU-s, print {:.2} CPU-s",
            last(&agent),
            last(&print)
        ));
    }
    Ok(judge(rack.accel(), agent, print))
}

fn once(node: &mut Node, wait: impl Fn(&Node) -> Result<(), node::Error>) -> Result<f64, node::Error> {
    let before = node.cpu_seconds();
    node.power_on()?;
    wait(node)?;
    let spent = node.cpu_seconds() - before;
    node.power_off();
    Ok(spent)
}

fn judge(accel: Accel, agent: Vec<f64>, print: Vec<f64>) -> Bench {
    let ratio = median(&agent) / median(&print);
    Bench {
        accel,
        agent_cpu_seconds: agent,
        print_cpu_seconds: print,
        ratio,
        limit: LIMIT,
        ok: ratio.is_finite() && ratio <= LIMIT,
    }
}

/// The middle value; of an even number, the mean of the two in the middle. NaN of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), sorted.len() % 2) {
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(sorted[half - 1], *upper),
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_by_medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let good = judge(Accel::Tcg, vec![2.4, 9.0, 2.6], vec![2.0, 2.0, 2.0]);
        assert!(good.ok && (good.ratio - 1.3).abs() < 1e-9);
        assert!(!judge(Accel::Tcg, vec![2.7], vec![2.0]).ok);
        assert!(!judge(Accel::Tcg, vec![], vec![]).ok);
    }
}

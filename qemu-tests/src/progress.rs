//! How far a node is, from what its console and the controller say. Pure.

use std::time::Duration;

use cairn_protocol::console::{Line, Said};
use cairn_protocol::stage::Stage;

use crate::central::NodeView;
use crate::spec::Expect;

/// How far a node is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The stage it is in.
    pub stage: Option<Stage>,
    /// Whether that stage is done.
    pub stage_done: bool,
    /// What it said last that a person wants to read: a wait, a refusal, a note.
    pub note: String,
    /// Kernel starts seen.
    pub boots: u32,
    /// Seconds spent in each stage, over all boots, in the order they were first met.
    pub stage_seconds: Vec<(Stage, f64)>,
    /// The text that the console was expected to say was seen.
    pub said: bool,
    /// What the controller knows.
    pub view: Option<NodeView>,
    /// Time from power-on until everything expected held.
    pub finished: Option<Duration>,
    started: Option<(Stage, u64)>,
    /// Heartbeats that had arrived before the state that it is in.
    before_state: u64,
    /// The most memory that its agent has reported, bytes.
    most_memory: u64,
    clock: Option<u64>,
}

impl Progress {
    /// Takes in one console line. The answer is a line for people when it tells something new.
    pub fn console(&mut self, text: &str, expect: &Expect) -> Option<String> {
        if let Some(wanted) = &expect.console {
            self.said |= text.contains(wanted.as_str());
        }
        let line = Line::parse(text)?;
        // The kernel's clock starts anew with each boot; lines of one boot may overtake each other a little.
        if self.clock.is_none_or(|before| line.millis + 1000 < before) {
            self.boots += 1;
            self.started = None;
        }
        self.clock = Some(line.millis);
        match &line.said {
            Said::Started => {
                self.stage = Some(line.stage);
                self.stage_done = false;
                self.started = Some((line.stage, line.millis));
                self.note.clear();
                None
            }
            Said::Done => {
                let took = self.started.take().filter(|(stage, _)| *stage == line.stage);
                let seconds = took.map(|(_, from)| line.millis.saturating_sub(from) as f64 / 1000.0);
                self.add(line.stage, seconds.unwrap_or_default());
                self.stage = Some(line.stage);
                self.stage_done = true;
                self.note.clear();
                Some(match seconds {
                    Some(seconds) => format!("{} done in {seconds:.1} s", line.stage),
                    None => format!("{} done", line.stage),
                })
            }
            Said::Waiting { reason, .. } => self.news(line.stage, format!("waits: {reason}")),
            Said::Refused { code, line: what } => self.news(line.stage, format!("refused [{code}]: {what}")),
            Said::Note(text) => self.news(line.stage, text.clone()),
        }
    }

    fn add(&mut self, stage: Stage, seconds: f64) {
        match self.stage_seconds.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, sum)) => *sum += seconds,
            None => self.stage_seconds.push((stage, seconds)),
        }
    }

    fn news(&mut self, stage: Stage, text: String) -> Option<String> {
        if self.note == text {
            return None;
        }
        self.note.clone_from(&text);
        Some(format!("{stage} {text}"))
    }

    /// Takes in what the controller knows. The answer is a line for people when the state changed.
    pub fn central(&mut self, view: NodeView) -> Option<String> {
        let before = self.view.as_ref().and_then(|view| view.state.clone());
        if view.state != before {
            // The one that brought the new state counts.
            self.before_state = view.heartbeats.saturating_sub(1);
        }
        self.most_memory = self.most_memory.max(view.agent_rss_bytes.unwrap_or(0));
        let news = (view.state != before).then(|| view.state.clone().unwrap_or_else(|| "unknown".to_owned()));
        let line = |view: &NodeView| view.cluster.as_ref().map(|cluster| cluster.line.clone());
        let step = line(&view).filter(|step| self.view.as_ref().and_then(line).as_ref() != Some(step));
        self.view = Some(view);
        if let Some(step) = &step {
            self.note = format!("cluster: {step}");
        }
        match (news, step) {
            (Some(state), Some(step)) => Some(format!("central says {state}, cluster: {step}")),
            (Some(state), None) => Some(format!("central says {state}")),
            (None, Some(step)) => Some(format!("cluster: {step}")),
            (None, None) => None,
        }
    }

    /// What is still missing; `None` when everything expected holds.
    #[must_use]
    pub fn missing(&self, expect: &Expect, controller: bool) -> Option<String> {
        if let (Some(text), false) = (&expect.console, self.said) {
            return Some(format!("console text {text:?}"));
        }
        if !controller || expect.state == "none" {
            return None;
        }
        let Some(view) = &self.view else { return Some("enrolment at the controller".to_owned()) };
        let state = view.state.as_deref().unwrap_or("unknown");
        if state != expect.state {
            return Some(format!("state {} (it is {state})", expect.state));
        }
        let beats = view.heartbeats.saturating_sub(self.before_state);
        if beats < u64::from(expect.heartbeats) {
            return Some(format!("{} heartbeats in state {state} (there are {beats})", expect.heartbeats));
        }
        let (most, limit) = (self.most_memory, expect.agent_memory.0);
        (most > limit).then(|| format!("an agent that stays below {limit} bytes of memory (it took {most})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_boot_and_a_reboot_add_up() {
        let expect = Expect { console: Some("enrol: done".to_owned()), ..Expect::default() };
        let mut progress = Progress::default();
        let mut news = Vec::new();
        for line in [
            "SeaBIOS (version 1.16)",
            "cairn[   4.000] devices: started",
            "cairn[   5.500] devices: done",
            "cairn[   6.000] enrol: started",
            "cairn[   6.100] enrol: waiting: no controller | do: look at the cable",
            "cairn[  66.100] enrol: waiting: no controller | do: look at the cable",
            "cairn[  67.000] enrol: done",
            "cairn[   4.000] devices: started",
            "cairn[   4.500] devices: done",
        ] {
            news.extend(progress.console(line, &expect));
        }
        assert_eq!(progress.boots, 2);
        assert_eq!(progress.stage_seconds, [(Stage::Devices, 2.0), (Stage::Enrol, 61.0)]);
        assert!(progress.said && progress.stage_done);
        assert_eq!(
            news,
            [
                "devices done in 1.5 s",
                "enrol waits: no controller",
                "enrol done in 61.0 s",
                "devices done in 0.5 s"
            ]
        );
    }

    #[test]
    fn tells_what_is_missing_one_by_one() {
        let expect = Expect { console: Some("up".to_owned()), heartbeats: 3, ..Expect::default() };
        let mut progress = Progress::default();
        assert!(progress.missing(&expect, true).unwrap().contains("console"));
        progress.console("system is up", &expect);
        assert_eq!(progress.missing(&expect, false), None);
        assert!(progress.missing(&expect, true).unwrap().contains("enrolment"));
        let view = |state: &str, heartbeats| NodeView {
            state: Some(state.to_owned()),
            heartbeats,
            ..NodeView::default()
        };
        assert!(progress.central(view("trying", 5)).is_some());
        assert!(progress.missing(&expect, true).unwrap().contains("trying"));
        assert!(progress.central(view("ready", 6)).is_some());
        assert!(progress.central(view("ready", 7)).is_none());
        assert!(progress.missing(&expect, true).unwrap().contains("heartbeats"));
        assert!(progress.central(view("ready", 8)).is_none());
        assert_eq!(progress.missing(&expect, true), None);
        let greedy = NodeView { agent_rss_bytes: Some(10_000_001), ..view("ready", 9) };
        assert!(progress.central(greedy).is_none());
        assert!(progress.central(view("ready", 10)).is_none());
        assert!(progress.missing(&expect, true).unwrap().contains("memory"));
    }

    #[test]
    fn the_bootstrap_is_told_step_by_step() {
        use crate::central::Cluster;
        let mut progress = Progress::default();
        let view = |line: &str| NodeView {
            state: Some("bootstrapping".to_owned()),
            cluster: Some(Cluster { ready: false, line: line.to_owned() }),
            ..NodeView::default()
        };
        assert_eq!(progress.central(view("images")).unwrap(), "central says bootstrapping, cluster: images");
        assert_eq!(progress.central(view("images")), None);
        assert_eq!(progress.central(view("etcd")).unwrap(), "cluster: etcd");
        assert_eq!(progress.note, "cluster: etcd");
    }

    proptest! {
        #[test]
        fn any_console_is_read_without_a_panic(lines in proptest::collection::vec("(cairn\\[ *[0-9.]{0,6}\\] (enrol|time): (done|started|.{0,9}))|.{0,40}", 0..20)) {
            let mut progress = Progress::default();
            for line in &lines {
                let _ = progress.console(line, &Expect::default());
            }
            prop_assert!(progress.stage_seconds.iter().all(|(_, seconds)| *seconds >= 0.0));
        }
    }
}

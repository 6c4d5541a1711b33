//! The walk through the steps as a pure state machine: what was seen and done goes in, what to do next and what to tell
//! comes out. Clocks and programs are the driver's.

use std::time::Duration;

use cairn_protocol::heartbeat::{BootstrapStep, StepState, Waiting};
use cairn_protocol::ids::Name;
use cairn_protocol::limits::{STEP_LOG_LINES, clean_text};

use crate::steps::{Step, Way};

/// The first pause after a try that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between tries: what a step waits for is at the same site.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Between two rounds of looking after what is kept.
pub const ROUND: Duration = Duration::from_secs(10);

/// Why a step is not done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Why, one line.
    pub reason: String,
    /// What a person can do about it, one line.
    pub advice: String,
    /// The last lines that a program said.
    pub log: Vec<String>,
}

impl Trouble {
    /// Trouble without a log.
    pub fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { reason: reason.into(), advice: advice.into(), log: Vec::new() }
    }

    /// Something that passes by itself.
    pub fn passing(reason: impl Into<String>) -> Self {
        Self::new(reason, "the node tries again by itself")
    }
}

/// What a probe has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The step is done.
    Done,
    /// There is something to do.
    Needed,
    /// Nothing can be done here; it is waited for.
    Waiting(Trouble),
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look at this step.
    Probe(Step),
    /// Do this step.
    Act(Step),
    /// Pause, then look at this step again.
    Pause(Step, Duration),
    /// All is done; pause, then begin a round with [`Engine::round`].
    Rest(Duration),
}

#[derive(Debug, Clone)]
struct Progress {
    step: Step,
    state: StepState,
    begun: Option<Duration>,
    took: Option<Duration>,
    tries: u32,
    trouble: Option<Trouble>,
    log: Vec<String>,
}

/// The walk.
#[derive(Debug)]
pub struct Engine {
    steps: Vec<Progress>,
    at: usize,
    /// Whether the last act is being checked.
    acted: bool,
    /// Whether all steps were done once in this process.
    whole: bool,
}

impl Engine {
    /// A walk of that way.
    pub fn new(way: Way) -> Self {
        let fresh = |step: &Step| Progress {
            step: *step,
            state: StepState::Pending,
            begun: None,
            took: None,
            tries: 0,
            trouble: None,
            log: Vec::new(),
        };
        Self { steps: way.steps().iter().map(fresh).collect(), at: 0, acted: false, whole: false }
    }

    /// Begins, or goes on with, the walk at its present step.
    pub fn begin(&mut self, now: Duration) -> Next {
        match self.steps.get_mut(self.at) {
            Some(progress) => {
                progress.begun.get_or_insert(now);
                if progress.state != StepState::Done {
                    progress.state = StepState::Running;
                }
                self.acted = false;
                Next::Probe(progress.step)
            }
            None => {
                self.whole = true;
                Next::Rest(ROUND)
            }
        }
    }

    /// Goes through what is kept again.
    pub fn round(&mut self, now: Duration) -> Next {
        self.at = 0;
        self.skip_to_kept();
        self.begin(now)
    }

    fn skip_to_kept(&mut self) {
        while self.whole && self.steps.get(self.at).is_some_and(|progress| !progress.step.is_kept()) {
            self.at += 1;
        }
    }

    /// Takes in what a probe has seen; `random` is from 0 to 1.
    pub fn seen(&mut self, seen: Seen, now: Duration, random: f64) -> Next {
        let acted = self.acted;
        let Some(progress) = self.steps.get_mut(self.at) else { return Next::Rest(ROUND) };
        match seen {
            Seen::Done => {
                progress.state = StepState::Done;
                progress.trouble = None;
                progress.tries = 0;
                let begun = progress.begun.unwrap_or(now);
                // The first time counts, not that of a later repair.
                progress.took.get_or_insert(now.saturating_sub(begun));
                self.at += 1;
                self.skip_to_kept();
                self.begin(now)
            }
            Seen::Needed if !acted => {
                progress.state = StepState::Running;
                Next::Act(progress.step)
            }
            Seen::Needed => {
                let trouble = Trouble::passing("it was done and is not seen yet");
                self.failed(trouble, random)
            }
            Seen::Waiting(trouble) => self.failed(trouble, random),
        }
    }

    /// Takes in how an act ended.
    pub fn acted(&mut self, outcome: Result<Vec<String>, Trouble>, random: f64) -> Next {
        let Some(progress) = self.steps.get_mut(self.at) else { return Next::Rest(ROUND) };
        match outcome {
            Ok(log) => {
                if !log.is_empty() {
                    progress.log = log;
                }
                self.acted = true;
                Next::Probe(progress.step)
            }
            Err(trouble) => self.failed(trouble, random),
        }
    }

    fn failed(&mut self, trouble: Trouble, random: f64) -> Next {
        let Some(progress) = self.steps.get_mut(self.at) else { return Next::Rest(ROUND) };
        progress.state = StepState::Waiting;
        progress.tries = progress.tries.saturating_add(1);
        if !trouble.log.is_empty() {
            progress.log.clone_from(&trouble.log);
        }
        progress.trouble = Some(trouble);
        let pause = FIRST_PAUSE.saturating_mul(1 << (progress.tries - 1).min(6)).min(LONGEST_PAUSE);
        self.acted = false;
        Next::Pause(progress.step, pause.mul_f64(0.5 + 0.5 * random))
    }

    /// After a pause: looks at the same step again. Once all was done the others are looked after too, for what this one
    /// waits for may stay away for long.
    pub fn again(&mut self, now: Duration) -> Next {
        if self.whole { self.round(now) } else { self.begin(now) }
    }

    /// Whether every step is done now.
    pub fn is_done(&self) -> bool {
        self.steps.iter().all(|progress| progress.state == StepState::Done)
    }

    /// The step that is not done yet, with what it waits for.
    pub fn current(&self) -> Option<(Step, Option<&Trouble>)> {
        let open = self.steps.iter().find(|progress| progress.state != StepState::Done)?;
        Some((open.step, open.trouble.as_ref()))
    }

    /// The steps for the status.
    pub fn report(&self, now: Duration) -> Vec<BootstrapStep> {
        let one = |progress: &Progress| {
            let so_far = progress.begun.map(|begun| now.saturating_sub(begun)).unwrap_or_default();
            // A status is sent when it changes: the seconds of an open step are cut to steps of five.
            let seconds = progress.took.map_or_else(
                || (so_far.as_secs() / 5 * 5) as f64,
                |took| (took.as_secs_f64() * 10.0).round() / 10.0,
            );
            Some(BootstrapStep {
                name: Name::new(progress.step.name()).ok()?,
                state: progress.state,
                seconds,
                tries: progress.tries,
                waiting: progress.trouble.as_ref().map(|trouble| Waiting {
                    reason: clean_text(&trouble.reason),
                    advice: clean_text(&trouble.advice),
                }),
                log: last(&progress.log),
            })
        };
        self.steps.iter().filter_map(one).collect()
    }
}

/// The last lines of a log, within the limits of a status.
fn last(log: &[String]) -> Vec<String> {
    let from = log.len().saturating_sub(STEP_LOG_LINES);
    log[from..].iter().map(|line| clean_text(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn walk(engine: &mut Engine, mut next: Next, until: Step) -> Next {
        for second in 0.. {
            match next {
                Next::Probe(step) | Next::Pause(step, _) if step == until => break,
                Next::Probe(_) => next = engine.seen(Seen::Done, Duration::from_secs(second), 0.0),
                _ => panic!("{next:?}"),
            }
        }
        next
    }

    #[test]
    fn a_step_is_probed_acted_on_and_probed_again() {
        let mut engine = Engine::new(Way::JoinWorker);
        assert_eq!(engine.begin(ZERO), Next::Probe(Step::Prepare));
        assert_eq!(engine.seen(Seen::Needed, ZERO, 0.0), Next::Act(Step::Prepare));
        assert_eq!(engine.acted(Ok(vec!["said".to_owned()]), 0.0), Next::Probe(Step::Prepare));
        assert_eq!(engine.seen(Seen::Done, Duration::from_secs(2), 0.0), Next::Probe(Step::Containerd));
        let report = engine.report(Duration::from_secs(9));
        assert_eq!((report[0].state, report[0].seconds), (StepState::Done, 2.0));
        assert_eq!((report[1].state, report[1].seconds), (StepState::Running, 5.0));
        assert_eq!(report[2].state, StepState::Pending);
        assert_eq!(report[0].log, ["said"]);
    }

    #[test]
    fn what_was_done_and_is_not_seen_is_done_again_after_a_pause() {
        let mut engine = Engine::new(Way::JoinWorker);
        engine.begin(ZERO);
        engine.seen(Seen::Needed, ZERO, 0.0);
        engine.acted(Ok(Vec::new()), 0.0);
        assert!(
            matches!(engine.seen(Seen::Needed, ZERO, 1.0), Next::Pause(Step::Prepare, pause) if pause == FIRST_PAUSE)
        );
        assert_eq!(engine.again(ZERO), Next::Probe(Step::Prepare));
        assert_eq!(engine.seen(Seen::Needed, ZERO, 0.0), Next::Act(Step::Prepare));
    }

    #[test]
    fn pauses_grow_to_their_limit_and_the_reason_shows() {
        let mut engine = Engine::new(Way::JoinWorker);
        engine.begin(ZERO);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let next = engine.seen(Seen::Waiting(Trouble::new("no host", "plug it in")), ZERO, 1.0);
            let Next::Pause(_, pause) = next else { panic!("{next:?}") };
            pauses.push(pause.as_secs());
            engine.again(ZERO);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 20, 20, 20]);
        assert_eq!(engine.report(ZERO)[0].waiting.as_ref().unwrap().reason, "no host");
        assert_eq!(engine.current().unwrap().0, Step::Prepare);
        assert!(!engine.is_done());
    }

    #[test]
    fn after_the_end_what_is_kept_is_looked_after() {
        let mut engine = Engine::new(Way::JoinWorker);
        let next = engine.begin(ZERO);
        let mut next = walk(&mut engine, next, Step::Ready);
        next = match next {
            Next::Probe(_) => engine.seen(Seen::Done, Duration::from_secs(60), 0.0),
            other => other,
        };
        assert_eq!(next, Next::Rest(ROUND));
        assert!(engine.is_done());
        let took = engine.report(ZERO)[1].seconds;
        assert_eq!(engine.round(Duration::from_secs(70)), Next::Probe(Step::Containerd));
        assert!(engine.is_done(), "looking is not losing");
        assert_eq!(engine.seen(Seen::Needed, Duration::from_secs(70), 0.0), Next::Act(Step::Containerd));
        assert!(!engine.is_done());
        assert_eq!(engine.acted(Ok(Vec::new()), 0.0), Next::Probe(Step::Containerd));
        assert_eq!(engine.seen(Seen::Done, Duration::from_secs(71), 0.0), Next::Probe(Step::Kubelet));
        assert_eq!(engine.report(ZERO)[1].seconds, took, "the first time counts");
        let away = Seen::Waiting(Trouble::passing("the control plane is away"));
        assert!(matches!(engine.seen(away, Duration::from_secs(72), 0.0), Next::Pause(Step::Kubelet, _)));
        assert_eq!(
            engine.again(Duration::from_secs(73)),
            Next::Probe(Step::Containerd),
            "the others are looked after"
        );
    }
}

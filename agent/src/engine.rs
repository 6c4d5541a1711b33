//! The walk through the stages as a pure state machine: an outcome goes in, console lines and the next step come out.
//!
//! I/O and clocks are the caller's ([`crate::worker`]); so every path of the walk is tested as a table.

use std::time::Duration;

use cairn_protocol::console::Said;
use cairn_protocol::limits::clean_text;
use cairn_protocol::plan::Timeouts;
use cairn_protocol::stage::Stage;

/// The first pause after a failed try. Short: most first failures are a link or a server that is a moment late.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries. A node notices the cure within a minute; thousands of them are no storm.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Part of each pause that is random, so that a site that lost its power does not come back in step.
const JITTER: f64 = 0.5;
/// The same waiting or refused line is said again after this time at the earliest.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Why a stage could not be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// A stable word where something was refused for good reason, such as `ca-pin`.
    pub code: Option<&'static str>,
    /// Why, one line.
    pub reason: String,
    /// What a person can do about it, one line.
    pub advice: String,
    /// When to try again.
    pub retry: Retry,
    /// The stage to go back to, where trying this one again alone cannot help.
    pub back_to: Option<Stage>,
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// After a pause that doubles up to a minute.
    Backoff,
    /// After this time; for waiting that is a normal state.
    After(Duration),
}

impl Trouble {
    /// Waiting for something that is not there yet.
    pub fn waiting(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            code: None,
            reason: reason.into(),
            advice: advice.into(),
            retry: Retry::Backoff,
            back_to: None,
        }
    }

    /// Something was refused.
    pub fn refused(code: &'static str, reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::waiting(reason, advice) }
    }

    /// Tries again after `pause` instead of a growing one.
    #[must_use]
    pub fn every(self, pause: Duration) -> Self {
        Self { retry: Retry::After(pause), ..self }
    }

    /// Goes back to `stage` for the next try.
    #[must_use]
    pub fn from(self, stage: Stage) -> Self {
        Self { back_to: Some(stage), ..self }
    }
}

/// How a try of a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done: on to the next stage.
    Done,
    /// Done, and the walk goes on at a later stage: an installed node needs no controller to start.
    Jump(Stage),
    /// Not done.
    Wait(Trouble),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Try this stage now.
    Run(Stage),
    /// Pause, or until something changes, then try this stage.
    Pause(Stage, Duration),
    /// The walk is over.
    End,
}

/// A step of the walk.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Console lines, in order.
    pub say: Vec<(Stage, Said)>,
    /// What the node waits for now.
    pub waiting: Option<Trouble>,
    /// A refusal that central has not been told of yet.
    pub event: Option<(Stage, Trouble)>,
    /// The stage that was finished, with the time it took.
    pub finished: Option<(Stage, Duration)>,
    /// What comes next.
    pub next: Next,
}

/// The walk.
#[derive(Debug)]
pub struct Engine {
    stage: Stage,
    last: Stage,
    entered: Duration,
    tries: u32,
    said: Option<(Trouble, Duration)>,
    told: Vec<(&'static str, String)>,
}

/// Distinct refusals remembered, so that central hears each once; a hostile peer cannot make the list grow.
const TOLD: usize = 32;

impl Engine {
    /// A walk that ends after `last`.
    pub fn new(last: Stage) -> Self {
        Self { stage: Stage::Devices, last, entered: Duration::ZERO, tries: 0, said: None, told: Vec::new() }
    }

    /// The stage the walk is in.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Starts the walk.
    pub fn start(&mut self, now: Duration) -> Step {
        self.enter(Stage::Devices, now);
        self.step(vec![(Stage::Devices, Said::Started)], Next::Run(Stage::Devices))
    }

    /// Starts the walk at another stage than the first, for the service.
    pub fn start_at(&mut self, stage: Stage, now: Duration) -> Step {
        self.enter(stage, now);
        self.step(vec![(stage, Said::Started)], Next::Run(stage))
    }

    /// Takes the outcome of a try of the current stage. `random` is in 0..1.
    pub fn outcome(&mut self, outcome: Outcome, now: Duration, random: f64) -> Step {
        match outcome {
            Outcome::Done => self.advance(following(self.stage), now),
            Outcome::Jump(stage) => self.advance(Some(stage), now),
            Outcome::Wait(trouble) => self.wait(trouble, now, random),
        }
    }

    fn advance(&mut self, to: Option<Stage>, now: Duration) -> Step {
        let done = self.stage;
        let finished = Some((done, now.saturating_sub(self.entered)));
        let mut say = vec![(done, Said::Done)];
        let next = match to.filter(|to| done != self.last && *to <= self.last) {
            Some(stage) => {
                self.enter(stage, now);
                say.push((stage, Said::Started));
                Next::Run(stage)
            }
            None => Next::End,
        };
        Step { finished, ..self.step(say, next) }
    }

    fn wait(&mut self, trouble: Trouble, now: Duration, random: f64) -> Step {
        let at = self.stage;
        let mut say = Vec::new();
        let changed = self.said.as_ref().is_none_or(|(said, when)| {
            (said.code, &said.reason) != (trouble.code, &trouble.reason)
                || now.saturating_sub(*when) >= SAY_AGAIN
        });
        if changed {
            if let Some(code) = trouble.code {
                let line = format!("{} | do: {}", clean_text(&trouble.reason), trouble.advice);
                say.push((at, Said::Refused { code: code.to_owned(), line: clean_text(&line) }));
            } else {
                let (reason, advice) = (trouble.reason.clone(), trouble.advice.clone());
                say.push((at, Said::Waiting { reason, advice }));
            }
            self.said = Some((trouble.clone(), now));
        }
        let event = trouble.code.and_then(|code| {
            let key = (code, trouble.reason.clone());
            (!self.told.contains(&key)).then(|| {
                if self.told.len() == TOLD {
                    self.told.remove(0);
                }
                self.told.push(key);
                (at, trouble.clone())
            })
        });
        let pause = match trouble.retry {
            Retry::After(pause) => pause,
            Retry::Backoff => backoff(self.tries, random),
        };
        self.tries = self.tries.saturating_add(1);
        if let Some(back) = trouble.back_to.filter(|back| *back != at) {
            let (tries, said) = (self.tries, self.said.take());
            self.enter(back, now);
            // The pauses go on growing when a stage fails, goes back, and fails again.
            (self.tries, self.said) = (tries, said);
        }
        let next = Next::Pause(self.stage, pause);
        Step { waiting: Some(trouble), event, ..self.step(say, next) }
    }

    fn enter(&mut self, stage: Stage, now: Duration) {
        (self.stage, self.entered) = (stage, now);
        (self.tries, self.said) = (0, None);
    }

    fn step(&self, say: Vec<(Stage, Said)>, next: Next) -> Step {
        Step { say, waiting: None, event: None, finished: None, next }
    }
}

/// The stage after `stage`.
fn following(stage: Stage) -> Option<Stage> {
    Stage::ALL.into_iter().find(|next| *next > stage)
}

/// The pause after `tries` failed tries: doubling, capped, and up to half of it random.
pub fn backoff(tries: u32, random: f64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
    whole.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
}

/// The time limit of one try of `stage`. Reaching it is a waiting reason, not an end.
pub fn time_limit(stage: Stage, speed: Timeouts) -> Duration {
    let seconds = match stage {
        Stage::Identity => 10,
        Stage::Time | Stage::Enrol | Stage::Plan => 30,
        Stage::Devices | Stage::Network | Stage::Handover => 60,
        Stage::Disks | Stage::Activate => 300,
        // The base layer's few hundred MB over a thin line; what was fetched stays for the next try.
        Stage::Fetch => 3600,
        Stage::Verify | Stage::Service => 900,
    };
    // Software emulation is 10 to 20 times slower in CPU work, not in waiting; 4 has been enough.
    Duration::from_secs(if speed == Timeouts::Slow { seconds * 4 } else { seconds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_walk_visits_every_stage_up_to_its_last() {
        let mut engine = Engine::new(Stage::Verify);
        let mut step = engine.start(s(1));
        let mut walked = Vec::new();
        while let Next::Run(stage) = step.next {
            walked.push(stage);
            step = engine.outcome(Outcome::Done, s(2), 0.0);
        }
        assert_eq!(walked, Stage::ALL[..9]);
        assert_eq!(step.next, Next::End);
        assert_eq!(step.say, [(Stage::Verify, Said::Done)]);
        assert_eq!(step.finished, Some((Stage::Verify, s(0))));
    }

    #[test]
    fn an_installed_node_jumps_to_verify() {
        let mut engine = Engine::new(Stage::Handover);
        engine.start(s(1));
        let step = engine.outcome(Outcome::Jump(Stage::Verify), s(4), 0.0);
        assert_eq!(step.next, Next::Run(Stage::Verify));
        assert_eq!(step.say, [(Stage::Devices, Said::Done), (Stage::Verify, Said::Started)]);
        assert_eq!(step.finished, Some((Stage::Devices, s(3))));
    }

    #[test]
    fn the_same_reason_is_said_once_a_minute_another_at_once() {
        let mut engine = Engine::new(Stage::Handover);
        engine.start(s(0));
        let cable = || Outcome::Wait(Trouble::waiting("no link", "plug a cable in"));
        let mut said = Vec::new();
        for (second, outcome) in [
            (0, cable()),
            (30, cable()),
            (60, cable()),
            (61, Outcome::Wait(Trouble::waiting("no address", "start a DHCP server"))),
        ] {
            said.push(engine.outcome(outcome, s(second), 0.0).say.len());
        }
        assert_eq!(said, [1, 0, 1, 1]);
    }

    #[test]
    fn a_refusal_is_told_to_central_once() {
        let mut engine = Engine::new(Stage::Handover);
        engine.start(s(0));
        let refused = || Outcome::Wait(Trouble::refused("ca-pin", "another CA", "check the image"));
        let first = engine.outcome(refused(), s(0), 0.0);
        assert!(matches!(&first.say[..], [(_, Said::Refused { code, .. })] if code == "ca-pin"));
        assert!(first.event.is_some());
        assert!(engine.outcome(refused(), s(99), 0.0).event.is_none());
    }

    #[test]
    fn going_back_keeps_the_pauses_growing() {
        let mut engine = Engine::new(Stage::Handover);
        engine.start(s(0));
        for _ in 0..7 {
            engine.outcome(Outcome::Done, s(0), 0.0);
        }
        assert_eq!(engine.stage(), Stage::Fetch);
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let trouble = Trouble::waiting("the assignment changed", "nothing").from(Stage::Plan);
            let step = engine.outcome(Outcome::Wait(trouble), s(0), 0.0);
            let Next::Pause(stage, pause) = step.next else { panic!("{step:?}") };
            assert_eq!(stage, Stage::Plan);
            pauses.push(pause);
        }
        assert_eq!(pauses, [s(1), s(2), s(4)]);
    }

    #[test]
    fn slow_machines_get_more_time() {
        assert_eq!(time_limit(Stage::Enrol, Timeouts::Fast), s(30));
        assert_eq!(time_limit(Stage::Enrol, Timeouts::Slow), s(120));
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(tries in 0u32..100, random in 0.0f64..1.0) {
            let pause = backoff(tries, random);
            prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
        }
    }
}

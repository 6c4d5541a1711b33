//! Which generation this boot runs. Pure: statuses, the running UKI and the loaders' counters in, a decision out.
//!
//! - The UKI that runs picks the newest generation that names it and has tries left, or is committed.
//! - A generation whose UKI the loaders gave up on has failed, and so has one that used up its own tries.
//! - A UKI that has no generation to run, while another UKI has one, gives way to that other.

use cairn_protocol::generation::Phase;

use crate::loader::Installed;

/// A generation on STATE, as far as the choice goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// Its phase.
    pub phase: Phase,
    /// Boots left.
    pub tries_left: u8,
    /// The version of the UKI that it names.
    pub uki: String,
    /// The sequence of its assignment: a larger one is newer.
    pub sequence: u64,
    /// When it was installed; tells apart two of the same sequence.
    pub installed: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Generations that have failed by now, and why: to be marked so, and reported.
    pub failed: Vec<(String, String)>,
    /// What this boot does.
    pub action: Action,
}

/// What this boot does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run this generation. `count`: it is on trial, so count one try down before handing over.
    Run {
        /// Its id.
        id: String,
        /// Whether a try is to be counted.
        count: bool,
    },
    /// Another UKI on this disk has a generation to run, this one has none: make the loaders give up on this one (where
    /// it is theirs and on trial), and reboot.
    Reboot {
        /// The generation that the other UKI will run.
        id: String,
        /// Its UKI.
        uki: String,
    },
    /// Nothing on this disk can be run: stay in the initramfs and install.
    Nothing,
}

fn is_runnable(candidate: &Candidate) -> bool {
    match candidate.phase {
        Phase::Committed => true,
        Phase::Staged | Phase::Trying => candidate.tries_left > 0,
        Phase::Failed => false,
    }
}

/// Decides. `running` is the version of the UKI that runs (of the image, when it came by network or stick); `loaders`
/// are the UKIs on the ESP, or `None` when the ESP could not be read.
pub fn choose(candidates: &[Candidate], running: &str, loaders: Option<&[Installed]>) -> Choice {
    let mut sorted: Vec<Candidate> = candidates.to_vec();
    sorted.sort_by(|a, b| (b.sequence, b.installed, &b.id).cmp(&(a.sequence, a.installed, &a.id)));
    let mut failed = Vec::new();
    for candidate in &mut sorted {
        if let Some(reason) = reason_to_fail(candidate, running, loaders) {
            candidate.phase = Phase::Failed;
            failed.push((candidate.id.clone(), reason));
        }
    }
    let is_on_disk =
        |uki: &str| loaders.is_some_and(|all| all.iter().any(|one| one.version == uki && !one.is_spent()));
    let mut runnable = sorted.iter().filter(|candidate| is_runnable(candidate));
    let action = if let Some(own) = runnable.clone().find(|candidate| candidate.uki == running) {
        Action::Run { id: own.id.clone(), count: own.phase != Phase::Committed }
    } else if let Some(other) = runnable.find(|candidate| is_on_disk(&candidate.uki)) {
        Action::Reboot { id: other.id.clone(), uki: other.uki.clone() }
    } else {
        Action::Nothing
    };
    Choice { failed, action }
}

/// Why a generation on trial has failed by now.
fn reason_to_fail(candidate: &Candidate, running: &str, loaders: Option<&[Installed]>) -> Option<String> {
    if !matches!(candidate.phase, Phase::Staged | Phase::Trying) {
        return None;
    }
    if candidate.tries_left == 0 {
        return Some("it was booted as often as allowed and did not pass its health checks".to_owned());
    }
    // The running UKI may be on its last counted try right now; only another one's counter is final.
    let spent = loaders?.iter().any(|one| one.version == candidate.uki && one.is_spent());
    (candidate.uki != running && spent).then(|| {
        format!("its boot image {} did not start as often as the boot loader tried it", candidate.uki)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: &str, sequence: u64, uki: &str, phase: Phase, tries_left: u8) -> Candidate {
        Candidate { id: id.to_owned(), phase, tries_left, uki: uki.to_owned(), sequence, installed: 0 }
    }

    fn uki(version: &str, tries_left: Option<u8>) -> Installed {
        Installed { version: version.to_owned(), tries_left }
    }

    fn run(id: &str, count: bool) -> Action {
        Action::Run { id: id.to_owned(), count }
    }

    /// Every combination of phase and tries of a newer generation beside a good one, for each UKI that may run.
    #[test]
    fn all_combinations() {
        use Phase::{Committed, Failed, Staged, Trying};
        // (phase, tries, its UKI, UKI's tries, running, expected action, has it failed now)
        let reboot = |id: &str, uki: &str| Action::Reboot { id: id.to_owned(), uki: uki.to_owned() };
        let cases = [
            // The new one names the same UKI: the agent's own counter alone.
            (Staged, 2, "1", None, "1", run("new", true), false),
            (Staged, 1, "1", None, "1", run("new", true), false),
            (Staged, 0, "1", None, "1", run("old", false), true),
            (Trying, 1, "1", None, "1", run("new", true), false),
            (Trying, 0, "1", None, "1", run("old", false), true),
            (Committed, 0, "1", None, "1", run("new", false), false),
            (Failed, 2, "1", None, "1", run("old", false), false),
            // It brings its own UKI, which runs.
            (Staged, 2, "2", Some(1), "2", run("new", true), false),
            (Trying, 1, "2", Some(0), "2", run("new", true), false),
            (Trying, 0, "2", Some(0), "2", reboot("old", "1"), true),
            (Committed, 0, "2", None, "2", run("new", false), false),
            (Failed, 0, "2", Some(0), "2", reboot("old", "1"), false),
            // The loader fell back to the old UKI, or the new one was not tried yet.
            (Staged, 2, "2", Some(2), "1", run("old", false), false),
            (Staged, 2, "2", Some(0), "1", run("old", false), true),
            (Trying, 1, "2", Some(0), "1", run("old", false), true),
            (Trying, 0, "2", Some(1), "1", run("old", false), true),
            (Committed, 0, "2", None, "1", run("old", false), false),
            (Failed, 2, "2", Some(0), "1", run("old", false), false),
            // A stick or netboot brought a third one.
            (Staged, 2, "2", Some(2), "3", reboot("new", "2"), false),
            (Committed, 0, "2", None, "3", reboot("new", "2"), false),
            (Trying, 0, "2", Some(0), "3", reboot("old", "1"), true),
        ];
        for (phase, tries, its_uki, uki_tries, running, action, fails) in cases {
            let candidates =
                [candidate("old", 1, "1", Committed, 0), candidate("new", 2, its_uki, phase, tries)];
            let mut loaders = vec![uki("1", None)];
            if its_uki != "1" {
                loaders.push(uki(its_uki, uki_tries));
            }
            let choice = choose(&candidates, running, Some(&loaders));
            let what = format!("{phase:?} {tries} {its_uki} {uki_tries:?} {running}");
            assert_eq!(choice.action, action, "{what}");
            assert_eq!(choice.failed.iter().any(|(id, _)| id == "new"), fails, "{what}");
        }
    }

    #[test]
    fn a_first_installation_has_nothing_to_fall_back_to() {
        let first = [candidate("first", 1, "1", Phase::Staged, 2)];
        assert_eq!(choose(&first, "1", Some(&[uki("1", Some(1))])).action, run("first", true));
        let spent = [candidate("first", 1, "1", Phase::Trying, 0)];
        let choice = choose(&spent, "1", Some(&[uki("1", Some(0))]));
        assert_eq!((choice.action, choice.failed.len()), (Action::Nothing, 1));
        assert_eq!(choose(&[], "1", None).action, Action::Nothing);
    }

    #[test]
    fn without_an_esp_nobody_is_sent_away() {
        let other = [candidate("old", 1, "1", Phase::Committed, 0)];
        assert_eq!(choose(&other, "2", None).action, Action::Nothing);
        assert_eq!(choose(&other, "2", Some(&[])).action, Action::Nothing);
        assert_eq!(choose(&other, "1", None).action, run("old", false));
    }

    #[test]
    fn the_newest_is_by_sequence_then_by_time() {
        let mut both =
            vec![candidate("a", 2, "1", Phase::Committed, 0), candidate("b", 1, "1", Phase::Committed, 0)];
        both[1].installed = 9;
        assert_eq!(choose(&both, "1", None).action, run("a", false));
        both[1].sequence = 2;
        assert_eq!(choose(&both, "1", None).action, run("b", false));
    }

    proptest! {
        #[test]
        fn a_choice_keeps_its_promises(
            raw in prop::collection::vec((0_u8..4, 0_u8..3, 0_u8..3, 0_u64..4), 0..6),
            ukis in prop::collection::vec((0_u8..3, prop::option::of(0_u8..3)), 0..3), running in 0_u8..3, known: bool
        ) {
            let phases = [Phase::Staged, Phase::Trying, Phase::Committed, Phase::Failed];
            let candidates: Vec<Candidate> = raw.iter().enumerate()
                .map(|(n, (phase, tries, uki, sequence))| candidate(&n.to_string(), *sequence, &uki.to_string(), phases[usize::from(*phase)], *tries))
                .collect();
            let loaders: Vec<Installed> = ukis.iter().map(|(version, tries)| uki(&version.to_string(), *tries)).collect();
            let choice = choose(&candidates, &running.to_string(), known.then_some(loaders.as_slice()));
            let find = |id: &str| candidates.iter().find(|c| c.id == id).unwrap();
            for (id, _) in &choice.failed {
                prop_assert!(matches!(find(id).phase, Phase::Staged | Phase::Trying));
            }
            match &choice.action {
                Action::Run { id, count } => {
                    let chosen = find(id);
                    prop_assert_eq!(&chosen.uki, &running.to_string());
                    prop_assert_eq!(*count, chosen.phase != Phase::Committed);
                    prop_assert!(chosen.phase == Phase::Committed || chosen.tries_left > 0);
                    prop_assert!(!choice.failed.iter().any(|(failed, _)| failed == id));
                }
                Action::Reboot { id, uki } => {
                    prop_assert!(known && *uki != running.to_string() && *uki == find(id).uki);
                }
                Action::Nothing => {
                    prop_assert!(!candidates.iter().any(|c| c.phase == Phase::Committed && c.uki == running.to_string()));
                }
            }
        }
    }
}

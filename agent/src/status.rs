//! `cairn-agent status`: what the node does now, for a person at its shell.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use cairn_protocol::stage::Stage;

use crate::paths::Paths;
use crate::report::{Facts, read_json};

/// Prints the status. Exit code 0 when there is one, 1 when no agent runs here.
pub fn main(root: &Path) -> ExitCode {
    let paths = Paths::new(root);
    let Some(facts) = read_json::<Facts>(&paths.status()) else {
        eprintln!("cairn-agent: {} cannot be read: no agent has run in this boot", paths.status().display());
        return ExitCode::FAILURE;
    };
    let stages: Vec<(Stage, f64)> = read_json(&paths.stages()).unwrap_or_default();
    print!("{}", text(&facts, &stages));
    ExitCode::SUCCESS
}

/// The status as text.
pub fn text(facts: &Facts, stages: &[(Stage, f64)]) -> String {
    let mut out = String::new();
    let none = || "-".to_owned();
    let name =
        |name: &Option<cairn_protocol::ids::Name>| name.as_ref().map_or_else(none, ToString::to_string);
    let state = serde_json::to_value(facts.state).ok().and_then(|v| v.as_str().map(str::to_owned));
    let mut row = |key: &str, value: String| {
        let _ = writeln!(out, "{key:<12} {value}");
    };
    row("node", format!("{} of site {}", name(&facts.node), name(&facts.site)));
    row("state", state.unwrap_or_else(none));
    row("stage", facts.stage.to_string());
    if let Some(waiting) = &facts.waiting {
        row("waiting", waiting.reason.clone());
        row("do", waiting.advice.clone());
    }
    if let Some(words) = &facts.words {
        row("words", words.clone());
    }
    row("generation", facts.generation.clone().unwrap_or_else(none));
    if let Some(failed) = &facts.failed {
        row("failed", format!("{}: {}", failed.id, failed.reason));
    }
    row("controller", facts.controller.clone().unwrap_or_else(none));
    row("heartbeats", format!("{} ({} events wait)", facts.heartbeats, facts.spooled));
    if let Some((done, total)) = facts.progress {
        row("fetched", format!("{done} of {total} bytes"));
    }
    for check in &facts.health {
        row(
            "health",
            format!("{} {}: {}", if check.passed { "ok  " } else { "FAIL" }, check.name, check.line),
        );
    }
    if let Some(cluster) = &facts.cluster {
        row("cluster", cluster.line.clone());
    }
    for step in &facts.bootstrap {
        let state = serde_json::to_value(step.state).ok().and_then(|v| v.as_str().map(str::to_owned));
        let line = format!("{:<8} {} {} s", state.unwrap_or_default(), step.name, step.seconds);
        row("step", line);
        if let Some(waiting) = &step.waiting {
            row("", format!("{} | do: {}", waiting.reason, waiting.advice));
        }
    }
    if !stages.is_empty() {
        let list: Vec<_> = stages.iter().map(|(stage, seconds)| format!("{stage} {seconds:.1} s")).collect();
        row("stages", list.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use cairn_protocol::heartbeat::Waiting;

    use super::*;

    #[test]
    fn a_waiting_node_says_why_and_what_to_do() {
        let facts = Facts {
            stage: Stage::Network,
            waiting: Some(Waiting { reason: "no link".to_owned(), advice: "plug a cable in".to_owned() }),
            ..Facts::default()
        };
        let text = text(&facts, &[(Stage::Devices, 1.25)]);
        for line in [
            "stage        network\n",
            "waiting      no link\n",
            "do           plug a cable in\n",
            "devices 1.2 s",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
    }
}

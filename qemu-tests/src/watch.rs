//! Watching a rack until everything that its file expects is true, or cannot become true any more.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::central::Watch;
use crate::progress::Progress;
use crate::rack::Rack;
use crate::report::Report;
use crate::signals::Asked;
use crate::summary::{NodeSummary, Summary};
use crate::table::{self, Row};

/// How often consoles and controller are looked at; also the pace of the live table.
const TICK: Duration = Duration::from_millis(250);
/// Columns of the live table where the terminal does not say.
const WIDTH: usize = 120;

/// The outcome of a watch: how far each node came, and what ended it early.
#[derive(Debug)]
pub struct Outcome {
    progress: Vec<Progress>,
    failure: Option<String>,
    wall: Duration,
}

struct View {
    live: bool,
    width: usize,
    drawn: usize,
}

impl View {
    fn new() -> Self {
        let live = std::io::stdout().is_terminal() && std::env::var_os("CI").is_none();
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        Self { live, width: columns.unwrap_or(WIDTH), drawn: 0 }
    }

    fn line(&mut self, report: &Report, text: &str) {
        self.clear();
        report.line(text);
    }

    fn clear(&mut self) {
        print!("{}", table::rewind(self.drawn));
        self.drawn = 0;
    }

    fn draw(&mut self, rows: &[Row<'_>]) {
        if self.live {
            self.clear();
            println!("{}", table::render(rows, self.width));
            self.drawn = rows.len() + 1;
        }
        let _ = std::io::stdout().flush();
    }
}

/// Watches until every expectation holds, the deadline passes, a machine or the controller ends by itself, or somebody asks to
/// stop.
pub fn watch(rack: &mut Rack, central: Option<&Watch>, report: &Report, asked: &Asked) -> Outcome {
    let expect = rack.spec().expect.clone();
    let start = Instant::now();
    let mut view = View::new();
    let mut progress: Vec<Progress> = rack.nodes().iter().map(|_| Progress::default()).collect();
    let mut marks = vec![0; progress.len()];
    let failure = loop {
        let known = central.map(Watch::nodes).unwrap_or_default();
        for ((node, progress), mark) in rack.nodes().iter().zip(&mut progress).zip(&mut marks) {
            let name = &node.spec().name;
            let lines = node.console().since(*mark);
            *mark += lines.len();
            let mut news: Vec<String> =
                lines.iter().filter_map(|line| progress.console(&line.text, &expect)).collect();
            if let Some(found) = known.iter().find(|view| view.node == *name) {
                news.extend(progress.central(found.clone()));
            }
            let on = node.powered().is_some();
            if on && progress.finished.is_none() && progress.missing(&expect, central.is_some()).is_none() {
                progress.finished = Some(start.elapsed());
                news.push(format!("all that is expected holds after {:.1} s", start.elapsed().as_secs_f64()));
            }
            for text in news {
                view.line(report, &format!("{name}: {text}"));
            }
        }
        view.draw(&rows(rack, &progress, start.elapsed()));
        // A machine that was never powered on is not waited for.
        let waited_for = rack.nodes().iter().zip(&progress).filter(|(node, _)| node.powered().is_some());
        if waited_for.into_iter().all(|(_, progress)| progress.finished.is_some()) {
            break None;
        }
        if let Some(failure) = ended(rack, &progress) {
            break Some(failure);
        }
        if asked.yes() {
            break Some("stopped on request".to_owned());
        }
        if start.elapsed() > expect.deadline.0 {
            break Some(format!("the deadline of {} s passed", expect.deadline.0.as_secs()));
        }
        std::thread::sleep(TICK);
    };
    view.clear();
    Outcome { progress, failure, wall: start.elapsed() }
}

/// A machine that is off or a controller that ended: nothing more will come of it.
fn ended(rack: &mut Rack, progress: &[Progress]) -> Option<String> {
    if let Some(status) = rack.site.controller_ended() {
        return Some(format!("the controller ended by itself ({status})"));
    }
    for (node, progress) in rack.nodes().iter_mut().zip(progress) {
        if progress.finished.is_none() && node.powered().is_some() && !node.running() {
            return Some(format!("{} switched itself off", node.spec().name));
        }
    }
    None
}

fn rows<'a>(rack: &'a mut Rack, progress: &'a [Progress], wall: Duration) -> Vec<Row<'a>> {
    let nodes = rack.nodes().iter().zip(progress);
    nodes
        .map(|(node, progress)| Row {
            name: &node.spec().name,
            boot: node.spec().boot.word(),
            progress,
            wall,
            cpu: node.cpu_seconds(),
        })
        .collect()
}

impl Outcome {
    /// Whether every expectation held.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failure.is_none()
    }

    /// The final table, without colours or cursor movement.
    #[must_use]
    pub fn table(&self, rack: &mut Rack) -> String {
        table::render(&rows(rack, &self.progress, self.wall), usize::MAX)
    }

    /// The summary; call it while the nodes still run, so that their cost is known.
    #[must_use]
    pub fn summary(&self, rack: &mut Rack, prepare: Duration, controller: bool) -> Summary {
        let expect = rack.spec().expect.clone();
        let (central, site) = (rack.central().cloned(), rack.spec().site.name.clone());
        let steps = |node: &str| {
            let central = central.as_ref().filter(|_| controller);
            central.and_then(|central| central.steps(&site, node).ok()).unwrap_or_default()
        };
        let nodes: Vec<NodeSummary> = rack
            .nodes()
            .iter()
            .zip(&self.progress)
            .map(|(node, progress)| {
                let view = progress.view.clone().unwrap_or_default();
                let stages = progress.stage_seconds.iter();
                NodeSummary {
                    name: node.spec().name.clone(),
                    serial: node.spec().serial(),
                    boot: node.spec().boot.word(),
                    state: view.state,
                    generation: view.generation,
                    heartbeats: view.heartbeats,
                    boots: progress.boots,
                    wall_seconds: progress.finished.unwrap_or(self.wall).as_secs_f64(),
                    cpu_seconds: node.cpu_seconds(),
                    stage_seconds: stages.map(|(stage, seconds)| (stage.to_string(), *seconds)).collect(),
                    bootstrap: if view.cluster.is_some() { steps(&node.spec().name) } else { Vec::new() },
                    agent_rss_bytes: view.agent_rss_bytes,
                    agent_cpu_millis: view.agent_cpu_millis,
                    missing: node.powered().and_then(|_| progress.missing(&expect, controller)),
                }
            })
            .collect();
        let dirs = rack.dirs();
        let evidence = if self.ok() { Vec::new() } else { vec![dirs.serial(), dirs.logs(), dirs.work()] };
        Summary {
            rack: rack.spec().name.clone(),
            ok: self.ok(),
            accel: rack.accel(),
            prepare_seconds: prepare.as_secs_f64(),
            wall_seconds: self.wall.as_secs_f64(),
            failure: self.failure.clone(),
            evidence,
            nodes,
        }
    }
}

//! The rack as a table: for the live view and for the end. Pure.

use std::time::Duration;

use crate::progress::Progress;
use crate::report::clock;

/// One node's row.
#[derive(Debug)]
pub struct Row<'a> {
    /// Name.
    pub name: &'a str,
    /// Boot way.
    pub boot: &'a str,
    /// How far it is.
    pub progress: &'a Progress,
    /// Since power-on.
    pub wall: Duration,
    /// Processor seconds.
    pub cpu: f64,
}

/// Widths of the columns but the last.
const WIDTHS: [usize; 8] = [12, 10, 10, 11, 6, 14, 6, 7];
const TITLES: [&str; 9] = ["NODE", "BOOT", "STAGE", "STATE", "BEATS", "GENERATION", "TIME", "CPU-S", ""];

/// The table, `width` columns wide at most, without a final newline.
#[must_use]
pub fn render(rows: &[Row<'_>], width: usize) -> String {
    let mut lines = vec![line(&TITLES.map(str::to_owned), width)];
    lines.extend(rows.iter().map(|row| line(&cells(row), width)));
    lines.join("\n")
}

fn cells(row: &Row<'_>) -> [String; 9] {
    let progress = row.progress;
    let view = progress.view.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".to_owned());
    let wall = progress.finished.unwrap_or(row.wall);
    [
        row.name.to_owned(),
        row.boot.to_owned(),
        progress.stage.map_or_else(|| "firmware".to_owned(), |stage| stage.to_string()),
        text(view.and_then(|view| view.state.as_ref())),
        view.map_or(0, |view| view.heartbeats).to_string(),
        text(view.and_then(|view| view.generation.as_ref())),
        clock(wall),
        format!("{:.1}", row.cpu),
        progress.note.clone(),
    ]
}

fn line(cells: &[String; 9], width: usize) -> String {
    let mut out = String::new();
    for (cell, room) in cells.iter().zip(WIDTHS) {
        let cut: String = cell.chars().take(room).collect();
        out.push_str(&format!("{cut:<room$} "));
    }
    out.push_str(&cells[8]);
    out.chars().take(width).collect::<String>().trim_end().to_owned()
}

/// The escape sequence that goes back over `lines` lines and clears them (ECMA-48: CPL, ED).
#[must_use]
pub fn rewind(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F\x1b[J") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::central::NodeView;

    #[test]
    fn looks_like_a_table() {
        let view = NodeView {
            state: Some("ready".to_owned()),
            generation: Some("0123456789abcdef0123".to_owned()),
            heartbeats: 3,
            ..NodeView::default()
        };
        let mut ready = Progress::default();
        ready.central(view);
        ready.note = "all well".to_owned();
        let new = Progress::default();
        let row = |name, progress| Row {
            name,
            boot: "uefi-pxe",
            progress,
            wall: Duration::from_secs(83),
            cpu: 41.26,
        };
        let table = render(&[row("node-a", &ready), row("node-b", &new)], 100);
        assert_eq!(
            table,
            "NODE         BOOT       STAGE      STATE       BEATS  GENERATION     TIME   CPU-S\n\
             node-a       uefi-pxe   firmware   ready       3      0123456789abcd 1:23   41.3    all well\n\
             node-b       uefi-pxe   firmware   -           0      -              1:23   41.3"
        );
        assert!(render(&[row("node-a", &ready)], 20).lines().all(|line| line.chars().count() <= 20));
    }
}

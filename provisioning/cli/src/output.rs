//! Printing data: a plain table for people, JSON for programs.

use std::io::Write as _;

use serde::Serialize;

use crate::error::Error;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and lines
    Text,
    /// One JSON document, or one to a line for what goes on
    Json,
}

/// Where data goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Error> {
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(value).map_err(Error::failed)?,
            Format::Text => text(value),
        };
        line(&text)
    }

    /// Prints one of many: JSON on one line.
    pub(crate) fn print_line<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        let text = match self.format {
            Format::Json => serde_json::to_string(value).map_err(Error::failed)?,
            Format::Text => text(value),
        };
        line(&text)
    }
}

/// Writes text as it is.
pub(crate) fn raw(text: &str) -> Result<(), Error> {
    line(text)
}

/// Writes to standard output; a reader that went away (`| head`) is no failure to shout about.
fn line(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Error::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Columns of a terminal; `None` where there is none, and nothing is shortened.
fn screen() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0.into())
}

/// A table: columns as wide as their widest cell; on a terminal that is narrower, the widest cells are cut.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    table_within(head, rows, screen())
}

fn table_within(head: &[&str], rows: &[Vec<String>], screen: Option<usize>) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let clean = |cell: &String| cairn_protocol::limits::clean_text(cell);
    let rows: Vec<Vec<String>> =
        std::iter::once(&head).chain(rows).map(|row| row.iter().map(clean).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..head.len()).map(width).collect();
    if let Some(screen) = screen {
        fit(&mut widths, screen);
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", cut(cell, *width)));
        text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// Between two columns.
const GAP: &str = "  ";
/// No column is cut below this: fewer letters say nothing.
const NARROWEST: usize = 8;

/// Takes from the widest columns what does not fit.
fn fit(widths: &mut [usize], screen: usize) {
    let room = screen.saturating_sub(GAP.len() * widths.len().saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > NARROWEST) else { return };
        *widest -= 1;
    }
}

/// A cell of at most `width` letters; the last says that there were more.
fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `-` for nothing.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// How long ago, in the largest unit that says enough.
pub(crate) fn ago(now: u64, then: Option<u64>) -> String {
    let Some(then) = then else { return "-".to_owned() };
    match now.saturating_sub(then) {
        seconds @ 0..=119 => format!("{seconds}s"),
        seconds @ 120..=7_199 => format!("{}m", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Bytes in units of a thousand, as disks and lines are sold.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", bytes / size, bytes % size / (size / 10)),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["n1".to_owned(), "ready".to_owned()], vec!["longer".to_owned(), "x\ny".to_owned()]];
        assert_eq!(table(&["NODE", "STATE"], &rows), "NODE    STATE\nn1      ready\nlonger  x y\n");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_cells() {
        let rows = [vec!["n1".to_owned(), "waiting".to_owned(), "x".repeat(40)]];
        let text = table_within(&["NODE", "STATE", "WHY"], &rows, Some(30));
        assert_eq!(text, format!("NODE  STATE    WHY\nn1    waiting  {}…\n", "x".repeat(14)));
        assert!(text.lines().all(|line| line.chars().count() <= 30));
        let whole = table_within(&["NODE", "STATE", "WHY"], &rows, None);
        assert!(whole.contains(&"x".repeat(40)));
        // What cannot fit at all is not cut to nothing.
        assert!(table_within(&["NODE", "STATE", "WHY"], &rows, Some(3)).contains("waiting"));
    }

    #[test]
    fn units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_999), "1.9 kB");
        assert_eq!(bytes(105_279_488), "105.2 MB");
        assert_eq!(ago(1000, Some(995)), "5s");
        assert_eq!(ago(1000, Some(2000)), "0s");
        assert_eq!(ago(100_000, Some(0)), "27h");
        assert_eq!(ago(1, None), "-");
    }
}

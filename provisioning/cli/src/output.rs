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

/// Writes to standard output; a reader that went away (`| head`) is no failure to shout about.
fn line(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Error::Failed(format!("cannot write to standard output: {error}"))),
    }
}

/// A table: columns as wide as their widest cell, no cell wider than it has to be.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let clean = |cell: &String| cairn_protocol::limits::clean_text(cell);
    let rows: Vec<Vec<String>> =
        std::iter::once(&head).chain(rows).map(|row| row.iter().map(clean).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
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

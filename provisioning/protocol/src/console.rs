//! The lines a node writes on serial and screen, and their reading back by the lab.
//!
//! `cairn[  12.345] enrol: started`. The number is seconds since the kernel started (CLOCK_BOOTTIME).

use std::fmt;

use crate::limits::clean_text;
use crate::stage::Stage;

/// What a console line says about a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The stage began.
    Started,
    /// The stage is done.
    Done,
    /// The stage cannot go on by itself now; it tries again.
    Waiting {
        /// Why, in one line.
        reason: String,
        /// What a person can do about it.
        advice: String,
    },
    /// Something was refused for good reason; nothing was lost. The code is stable, for machines.
    Refused {
        /// A stable word such as `ca-pin` or `metadata-expired`.
        code: String,
        /// What was refused and why, in one line.
        line: String,
    },
    /// Anything else worth a line.
    Note(
        /// The text.
        String,
    ),
}

/// One console line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Milliseconds since the kernel started.
    pub millis: u64,
    /// The stage it is about.
    pub stage: Stage,
    /// What it says.
    pub said: Said,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cairn[{:4}.{:03}] {}: ", self.millis / 1000, self.millis % 1000, self.stage)?;
        match &self.said {
            Said::Started => f.write_str("started"),
            Said::Done => f.write_str("done"),
            Said::Waiting { reason, advice } => {
                write!(f, "waiting: {} | do: {}", clean_text(reason), clean_text(advice))
            }
            Said::Refused { code, line } => write!(f, "refused [{code}]: {}", clean_text(line)),
            Said::Note(text) => f.write_str(&clean_text(text)),
        }
    }
}

impl Line {
    /// Reads a line that [`fmt::Display`] wrote, wherever on a serial line it starts; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.trim_end().split_once("cairn[")?;
        let (clock, rest) = rest.split_once("] ")?;
        let (seconds, millis) = clock.trim_start().split_once('.')?;
        let (stage, rest) = rest.split_once(": ")?;
        let said = match rest {
            "started" => Said::Started,
            "done" => Said::Done,
            _ => {
                if let Some((reason, advice)) =
                    rest.strip_prefix("waiting: ").and_then(|waiting| waiting.split_once(" | do: "))
                {
                    Said::Waiting { reason: reason.to_owned(), advice: advice.to_owned() }
                } else if let Some((code, line)) =
                    rest.strip_prefix("refused [").and_then(|refused| refused.split_once("]: "))
                {
                    Said::Refused { code: code.to_owned(), line: line.to_owned() }
                } else {
                    Said::Note(rest.to_owned())
                }
            }
        };
        let millis = seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(millis.parse().ok()?)?;
        Some(Self { millis, stage: Stage::parse(stage)?, said })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_look_as_documented() {
        let line = Line { millis: 12_345, stage: Stage::Enrol, said: Said::Started };
        assert_eq!(line.to_string(), "cairn[  12.345] enrol: started");
        let refused =
            Said::Refused { code: "ca-pin".to_owned(), line: "the controller's CA\nis another".to_owned() };
        assert_eq!(
            Line { millis: 7, stage: Stage::Time, said: refused }.to_string(),
            "cairn[   0.007] time: refused [ca-pin]: the controller's CA is another"
        );
    }

    proptest! {
        #[test]
        fn lines_read_back(millis in 0u64..10_000_000, stage in 0usize..12, reason in "[a-zA-Z0-9 ,.()]{1,80}", kind in 0..4) {
            let reason = format!("x{}x", reason);
            let said = match kind {
                0 => Said::Started,
                1 => Said::Done,
                2 => Said::Waiting { reason, advice: "look at the cable".to_owned() },
                _ => Said::Refused { code: "ca-pin".to_owned(), line: reason },
            };
            let line = Line { millis, stage: Stage::ALL[stage], said };
            prop_assert_eq!(Line::parse(&format!("[  1.0] {line}\r\n")), Some(line));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            let _ = Line::parse(&text);
        }
    }
}

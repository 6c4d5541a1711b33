//! What the worker tells PID 1 through the control pipe: one short line per message. Pure.
//!
//! The pipe is also the sign of life: PID 1 feeds the hardware watchdog only while messages arrive.

use std::fmt;

use cairn_protocol::stage::Stage;

/// The environment variable that tells the worker that its standard input is the pipe's writing end. (Standard input,
/// because a safe program can take it over, and because no helper that the worker starts ever writes to it.)
pub const VARIABLE: &str = "CAIRN_CONTROL";

/// The longest line PID 1 keeps while it waits for its end, bytes; a longer one is dropped.
pub const LINE_LIMIT: usize = 512;

/// A message from the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The walk goes on: a stage was tried, or is within its time limit.
    Tick,
    /// The worker is in this stage now; PID 1 names it when the worker crashes.
    Stage(Stage),
    /// Reboot in an orderly way.
    Reboot {
        /// Why, one line.
        reason: String,
    },
    /// Make `root` the root and start its init; the worker has prepared everything.
    Handover {
        /// The prepared root, an absolute path.
        root: String,
        /// The program to start in it.
        init: String,
    },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => f.write_str("tick"),
            Self::Stage(stage) => write!(f, "stage {stage}"),
            Self::Reboot { reason } => write!(f, "reboot {}", cairn_protocol::limits::clean_text(reason)),
            Self::Handover { root, init } => write!(f, "handover {root} {init}"),
        }
    }
}

impl Message {
    /// Reads one line without its newline; `None` for anything else.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "tick" if rest.is_empty() => Some(Self::Tick),
            "stage" => Some(Self::Stage(Stage::parse(rest)?)),
            "reboot" => Some(Self::Reboot { reason: rest.to_owned() }),
            "handover" => {
                let (root, init) = rest.split_once(' ')?;
                let absolute =
                    |path: &str| path.starts_with('/') && !path.contains(' ') && !path.contains("..");
                (absolute(root) && absolute(init))
                    .then(|| Self::Handover { root: root.to_owned(), init: init.to_owned() })
            }
            _ => None,
        }
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct Reader {
    pending: Vec<u8>,
}

impl Reader {
    /// Takes what was read and returns the messages it completed; unreadable lines are dropped.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                messages.extend(std::str::from_utf8(&self.pending).ok().and_then(Message::parse));
                self.pending.clear();
            } else if self.pending.len() < LINE_LIMIT {
                self.pending.push(byte);
            }
        }
        messages
    }
}

/// The worker's end of the pipe; without PID 1 (tests, the service) messages go nowhere.
#[derive(Debug)]
pub struct Control(Option<std::fs::File>);

impl Control {
    /// Takes the pipe over from standard input where PID 1 said so.
    pub fn of_process() -> Self {
        use std::os::fd::AsFd as _;
        let given = std::env::var_os(VARIABLE).is_some();
        let pipe = given.then(|| std::io::stdin().as_fd().try_clone_to_owned().ok()).flatten();
        Self(pipe.map(std::fs::File::from))
    }

    /// Whether PID 1 listens.
    pub fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Tells PID 1. A pipe that broke means that PID 1 started anew; it will kill this process in a moment.
    pub fn send(&self, message: &Message) {
        if let Some(mut pipe) = self.0.as_ref() {
            let _ = std::io::Write::write_all(&mut pipe, format!("{message}\n").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_read_back_in_any_pieces() {
        let messages = [
            Message::Tick,
            Message::Stage(Stage::Enrol),
            Message::Reboot { reason: "the new generation is staged".to_owned() },
            Message::Handover { root: "/run/cairn/root".to_owned(), init: "/sbin/init".to_owned() },
        ];
        let text: String = messages.iter().map(|message| format!("{message}\n")).collect();
        for piece in 1..10 {
            let mut reader = Reader::default();
            let read: Vec<_> = text.as_bytes().chunks(piece).flat_map(|bytes| reader.push(bytes)).collect();
            assert_eq!(read, messages);
        }
    }

    #[test]
    fn anything_else_is_dropped() {
        for bad in ["", "tock", "stage nowhere", "handover / ", "handover root /init", "handover /../x /init"]
        {
            assert_eq!(Message::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Reader::default().push(&bytes);
        }
    }
}

//! QEMU's control socket, as far as a lab needs it (QEMU docs/interop/qmp-spec).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// Longest message read. A reply to what we ask is far shorter.
pub const MAX_MESSAGE: u64 = 1 << 20;
/// Messages read while waiting for a reply; more without one is no QEMU.
const MAX_EVENTS: usize = 1024;
/// QEMU answers at once unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed: QEMU is gone, or hangs.
    #[error("QMP: no connection to QEMU while asked to {command}")]
    Io {
        /// What was asked.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came back is not QMP.
    #[error("QMP: unexpected answer to {command}: {answer}")]
    Protocol {
        /// What was asked.
        command: String,
        /// The beginning of what came back.
        answer: String,
    },
    /// QEMU refused.
    #[error("QMP: {command} refused: {class}: {description}")]
    Refused {
        /// What was asked.
        command: String,
        /// QEMU's error class.
        class: String,
        /// QEMU's own words.
        description: String,
    },
}

/// What a message is.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// The first one.
    Greeting,
    /// A reply.
    Return(Value),
    /// A refusal.
    Error {
        /// Class.
        class: String,
        /// Words.
        description: String,
    },
    /// Something happened.
    Event(String),
}

/// Reads one message; `None` if it is none.
#[must_use]
pub fn parse(line: &str) -> Option<Message> {
    let mut value: Value = serde_json::from_str(line).ok()?;
    let object = value.as_object_mut()?;
    if object.contains_key("QMP") {
        return Some(Message::Greeting);
    }
    if let Some(value) = object.remove("return") {
        return Some(Message::Return(value));
    }
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    if let Some(error) = object.get("error") {
        return Some(Message::Error {
            class: text(error.get("class"))?,
            description: text(error.get("desc"))?,
        });
    }
    text(object.get("event")).map(Message::Event)
}

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves negotiation mode.
    ///
    /// # Errors
    /// When nobody listens there, or it is no QEMU.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { command: "connect".to_owned(), source };
        let stream = UnixStream::connect(path).map_err(io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        match qmp.read("greet")? {
            Message::Greeting => {}
            other => {
                return Err(Error::Protocol { command: "greet".to_owned(), answer: format!("{other:?}") });
            }
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Runs one command and waits for its reply; events in between are passed over.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let request = if arguments.is_null() {
            json!({ "execute": command })
        } else {
            json!({ "execute": command, "arguments": arguments })
        };
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|source| Error::Io { command: command.to_owned(), source })?;
        for _ in 0..MAX_EVENTS {
            match self.read(command)? {
                Message::Return(value) => return Ok(value),
                Message::Error { class, description } => {
                    return Err(Error::Refused { command: command.to_owned(), class, description });
                }
                Message::Event(_) | Message::Greeting => {}
            }
        }
        Err(Error::Protocol { command: command.to_owned(), answer: "events without end".to_owned() })
    }

    fn read(&mut self, command: &str) -> Result<Message, Error> {
        let mut line = String::new();
        let io = |source| Error::Io { command: command.to_owned(), source };
        let count = (&mut self.stream).take(MAX_MESSAGE).read_line(&mut line).map_err(io)?;
        if count == 0 {
            return Err(io(io::ErrorKind::UnexpectedEof.into()));
        }
        parse(&line).ok_or_else(|| Error::Protocol {
            command: command.to_owned(),
            answer: line.chars().take(200).collect(),
        })
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn reset(&mut self) -> Result<(), Error> {
        self.execute("system_reset", &Value::Null).map(drop)
    }

    /// Presses the power button, for an orderly shutdown by the guest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn power_button(&mut self) -> Result<(), Error> {
        self.execute("system_powerdown", &Value::Null).map(drop)
    }

    /// Plugs a card's cable in or out, as the guest sees it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn link(&mut self, nic: usize, up: bool) -> Result<(), Error> {
        self.execute("set_link", &json!({ "name": format!("nic{nic}"), "up": up })).map(drop)
    }

    /// Pulls the USB stick out.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn eject_stick(&mut self) -> Result<(), Error> {
        self.execute("device_del", &json!({ "id": "stick0" })).map(drop)
    }

    /// Saves a picture of the screen (PPM) at a path that QEMU can write.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn screendump(&mut self, path: &Path) -> Result<(), Error> {
        self.execute("screendump", &json!({ "filename": path })).map(drop)
    }

    /// The run state, such as `running`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&mut self) -> Result<String, Error> {
        let value = self.execute("query-status", &Value::Null)?;
        let status = value.get("status").and_then(Value::as_str).map(str::to_owned);
        status
            .ok_or_else(|| Error::Protocol { command: "query-status".to_owned(), answer: value.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_messages_apart() {
        let cases = [
            (r#"{"QMP": {"version": {}}}"#, Some(Message::Greeting)),
            (r#"{"return": {}}"#, Some(Message::Return(json!({})))),
            (
                r#"{"error": {"class": "GenericError", "desc": "no"}}"#,
                Some(Message::Error { class: "GenericError".to_owned(), description: "no".to_owned() }),
            ),
            (r#"{"timestamp": {}, "event": "RESET"}"#, Some(Message::Event("RESET".to_owned()))),
            (r#"{"error": {"class": 1}}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (line, want) in cases {
            assert_eq!(parse(line), want, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in ".{0,200}") {
            let _ = parse(&line);
        }
    }
}

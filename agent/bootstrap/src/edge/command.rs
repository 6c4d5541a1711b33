//! Programs with a time limit, whose last lines are kept.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use cairn_protocol::limits::{STEP_LOG_LINES, clean_text};

use crate::engine::Trouble;

/// Of what a program says, this much of its end is kept for the log, bytes.
const LOG_BYTES: usize = 8 << 10;
/// Where the layer's programs lie.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to run.
#[derive(Debug)]
pub struct Run<'a> {
    /// Its name, found in the usual directories.
    pub program: &'a str,
    /// Its words. No secret goes here: everybody on the machine can read them.
    pub words: &'a [&'a str],
    /// What it reads.
    pub input: Option<&'a str>,
    /// How long it may take.
    pub limit: Duration,
    /// How many bytes of its output are wanted.
    pub output: usize,
}

/// How a program ended that was run to its end.
#[derive(Debug)]
pub struct Ran {
    /// Whether it says that it succeeded.
    pub ok: bool,
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    /// Its output, as much of it as was wanted.
    pub output: String,
    /// The last lines it said, on both channels.
    pub log: Vec<String>,
}

impl<'a> Run<'a> {
    /// `program` with `words`, output for the log alone.
    pub fn new(program: &'a str, words: &'a [&'a str], limit: Duration) -> Self {
        Self { program, words, input: None, limit, output: 0 }
    }

    fn text(&self) -> String {
        format!("{} {}", self.program, self.words.join(" "))
    }

    /// Runs it to its end or its limit.
    ///
    /// # Errors
    /// [`Trouble`] where it could not be started or took too long.
    pub async fn run(self) -> Result<Ran, Trouble> {
        let mut command = Command::new(self.program);
        command.args(self.words).env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            Trouble::new(
                format!("{} cannot be started: {error}", self.program),
                "is the kubernetes bundle complete? see its manifest",
            )
        })?;
        if let (Some(input), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A program that does not read its input says so itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (output, errors, status) =
                tokio::join!(collect(stdout, self.output), collect(stderr, 0), child.wait());
            (output, errors, status)
        };
        let Ok((output, errors, status)) = timeout(self.limit, work).await else {
            return Err(Trouble::passing(format!(
                "{} took longer than {} s and was ended",
                self.text(),
                self.limit.as_secs()
            )));
        };
        let status = status.map_err(|error| Trouble::passing(format!("{}: {error}", self.text())))?;
        let mut log = lines(&output.tail);
        log.extend(lines(&errors.tail));
        let from = log.len().saturating_sub(STEP_LOG_LINES);
        Ok(Ran {
            ok: status.success(),
            code: status.code(),
            output: String::from_utf8_lossy(&output.head).into_owned(),
            log: log.split_off(from),
        })
    }

    /// Runs it; a failure is trouble that carries its last lines.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn succeed(self) -> Result<Ran, Trouble> {
        let text = self.text();
        let ran = self.run().await?;
        if ran.ok {
            return Ok(ran);
        }
        let last = ran.log.last().cloned().unwrap_or_default();
        let code = ran.code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
        Err(Trouble {
            reason: format!("{text} ended with {code}: {last}"),
            advice: "see the step's log; the node tries again by itself".to_owned(),
            log: ran.log,
        })
    }
}

#[derive(Default)]
struct Collected {
    head: Vec<u8>,
    tail: Vec<u8>,
}

/// Reads to the end; keeps the first `head` bytes and the last [`LOG_BYTES`].
async fn collect(channel: Option<impl AsyncRead + Unpin>, head: usize) -> Collected {
    let mut collected = Collected::default();
    let Some(mut channel) = channel else { return collected };
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = channel.read(&mut buffer).await {
        let piece = &buffer[..length];
        let room = head.saturating_sub(collected.head.len()).min(length);
        collected.head.extend_from_slice(&piece[..room]);
        collected.tail.extend_from_slice(piece);
        let over = collected.tail.len().saturating_sub(LOG_BYTES);
        collected.tail.drain(..over);
    }
    collected
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(clean_text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn output_log_and_failure() {
        let ran = Run { output: 4, ..Run::new("sh", &["-c", "echo first; echo last >&2"], SECOND) };
        let ran = ran.succeed().await.unwrap();
        assert_eq!((ran.output.as_str(), ran.log), ("firs", vec!["first".to_owned(), "last".to_owned()]));
        let trouble = Run::new("sh", &["-c", "echo why; exit 3"], SECOND).succeed().await.unwrap_err();
        assert!(trouble.reason.contains("status 3: why"), "{}", trouble.reason);
        let ran = Run { input: Some("text"), output: 10, ..Run::new("cat", &[], SECOND) };
        assert_eq!(ran.succeed().await.unwrap().output, "text");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let run = Run::new("sleep", &["60"], Duration::from_millis(50));
        assert!(run.run().await.unwrap_err().reason.contains("took longer"));
        let missing = Run::new("no-such-program", &[], SECOND).run().await.unwrap_err();
        assert!(missing.reason.contains("cannot be started"));
    }

    #[tokio::test]
    async fn a_flood_is_cut() {
        let run = Run::new("sh", &["-c", "yes | head -c 1000000; echo end"], SECOND);
        let ran = run.succeed().await.unwrap();
        assert!(ran.log.len() <= STEP_LOG_LINES && ran.log.last().unwrap() == "end");
    }
}

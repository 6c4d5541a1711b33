//! The command line, and which part of the agent a process is.

use std::path::PathBuf;
use std::process::ExitCode;

use cairn_protocol::stage::Stage;

/// What `cairn-agent --help` prints.
pub const HELP: &str = "\
cairn-agent: Cairn's Edge Agent

  cairn-agent service              run as the service of the booted root (systemd starts it)
  cairn-agent status [--root DIR]  what this node does now and what it waits for
  cairn-agent worker [options]     walk the stages (PID 1 starts it)
      --root DIR       everything lies below DIR (default /)
      --hosted         no machine of its own: no modules, network, clock or disks; lines on standard output
      --serial TEXT    hosted: the chassis serial
      --disk PATH      hosted: a disk image or block device, repeatable
      --seed FILE      a seed file, in place of the one on a stick
      --rate BYTES     fetch at most so many bytes per second
      --until STAGE    stop after this stage
      --clock SECONDS  hosted: the machine's clock starts here, seconds since 1970
  cairn-agent --version

As /init (PID 1) it takes no options; see docs/boot.md.
";

/// Options of the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerOptions {
    /// Everything lies below this.
    pub root: PathBuf,
    /// No machine of its own.
    pub hosted: bool,
    /// Hosted: the chassis serial.
    pub serial: Option<String>,
    /// Hosted: disks.
    pub disks: Vec<PathBuf>,
    /// A seed file.
    pub seed: Option<PathBuf>,
    /// Bytes per second at most.
    pub rate: Option<u64>,
    /// Stop after this stage.
    pub until: Stage,
    /// Hosted: the machine's clock.
    pub clock: Option<u64>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            hosted: false,
            serial: None,
            disks: Vec::new(),
            seed: None,
            rate: None,
            until: Stage::Handover,
            clock: None,
        }
    }
}

/// What to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The child of PID 1.
    Worker(WorkerOptions),
    /// The service of the booted root.
    Service {
        /// Everything lies below this.
        root: PathBuf,
    },
    /// Print what the node does.
    Status {
        /// Everything lies below this.
        root: PathBuf,
    },
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// One line that says what is wrong.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, String> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(args);
    let mut word = None;
    let mut options = WorkerOptions::default();
    let text = |e: lexopt::Error| e.to_string();
    while let Some(arg) = parser.next().map_err(text)? {
        match arg {
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Value(value) if word.is_none() => word = Some(value.string().map_err(text)?),
            Long("root") => options.root = parser.value().map_err(text)?.into(),
            Long("hosted") => options.hosted = true,
            Long("serial") => options.serial = Some(parser.value().map_err(text)?.string().map_err(text)?),
            Long("disk") => options.disks.push(parser.value().map_err(text)?.into()),
            Long("seed") => options.seed = Some(parser.value().map_err(text)?.into()),
            Long("rate") => options.rate = Some(parser.value().map_err(text)?.parse().map_err(text)?),
            Long("clock") => options.clock = Some(parser.value().map_err(text)?.parse().map_err(text)?),
            Long("until") => {
                let name = parser.value().map_err(text)?.string().map_err(text)?;
                options.until = Stage::parse(&name).ok_or_else(|| format!("{name:?} is not a stage"))?;
            }
            other => return Err(text(other.unexpected())),
        }
    }
    let root = options.root.clone();
    match word.as_deref() {
        Some("worker") => Ok(Command::Worker(options)),
        Some("service") => Ok(Command::Service { root }),
        Some("status") => Ok(Command::Status { root }),
        Some("help") | None => Ok(Command::Help),
        Some(other) => Err(format!("{other:?} is not a command; see --help")),
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().map(PathBuf::from).unwrap_or_default();
    let name = name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if std::process::id() == 1 && name != "modprobe" {
        crate::pid1::run();
    }
    if name == "modprobe" {
        let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
        return ExitCode::from(crate::kmod::load::modprobe(&args));
    }
    match parse(args) {
        Ok(Command::Worker(options)) => crate::worker::main(options),
        Ok(Command::Service { root }) => crate::service::main(root),
        Ok(Command::Status { root }) => crate::status::main(&root),
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Command::Version) => {
            println!("cairn-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("cairn-agent: {line}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Command, String> {
        parse(text.split_whitespace().map(std::ffi::OsString::from))
    }

    #[test]
    fn commands() {
        assert_eq!(of("worker"), Ok(Command::Worker(WorkerOptions::default())));
        assert_eq!(
            of(
                "worker --root /t --hosted --serial S1 --disk /d --until verify --clock 12 --seed /s --rate 9"
            ),
            Ok(Command::Worker(WorkerOptions {
                root: "/t".into(),
                hosted: true,
                serial: Some("S1".to_owned()),
                disks: vec!["/d".into()],
                seed: Some("/s".into()),
                rate: Some(9),
                until: Stage::Verify,
                clock: Some(12),
            }))
        );
        assert_eq!(of("status --root /t"), Ok(Command::Status { root: "/t".into() }));
        assert_eq!(of(""), Ok(Command::Help));
        for bad in ["dance", "worker --until nowhere", "worker --clock x", "worker --what", "service twice"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}

//! The Edge Controller's command line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use cairn_controller::clock::Clock;
use cairn_controller::dir::Dir;
use cairn_controller::patience::Patience;
use cairn_controller::serve::{self, Options};
use cairn_controller::{config, pki};
use cairn_protocol::ids::Name;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// The Edge Controller: enrolment, plans, bundle repository, heartbeats.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new controller: CA, keys, database, a first operator
    Init {
        /// The folder to make
        #[arg(long)]
        dir: PathBuf,
        /// The SPIFFE trust domain, such as cairn.lab
        #[arg(long)]
        trust_domain: String,
        /// A DNS name or address under which it is reached; may be given several times
        #[arg(long = "name", required = true)]
        names: Vec<String>,
    },
    /// Run the controller
    Serve(Serve),
    /// Make another operator's credential
    Operator {
        /// The controller's folder
        #[arg(long)]
        dir: PathBuf,
        /// The operator's name
        #[arg(long)]
        name: Name,
        /// Where to write ca.crt, client.crt and client.key
        #[arg(long, required_unless_present = "revoke")]
        out: Option<PathBuf>,
        /// Revoke all of this operator's certificates instead
        #[arg(long, conflicts_with = "out")]
        revoke: bool,
    },
}

#[derive(Debug, Args)]
struct Serve {
    /// The controller's folder
    #[arg(long)]
    dir: PathBuf,
    /// Where the API listens (HTTPS)
    #[arg(long, default_value = "[::]:8443")]
    listen: SocketAddr,
    /// Where the boot service listens (plain HTTP)
    #[arg(long, requires = "boot_dir")]
    boot_listen: Option<SocketAddr>,
    /// The folder with vmlinuz, initramfs.img, cairn.efi and, if it is there, cmdline
    #[arg(long, requires = "boot_listen")]
    boot_dir: Option<PathBuf>,
    /// The kernel command line for netboot [default: the boot folder's cmdline file]
    #[arg(long)]
    boot_cmdline: Option<String>,
    /// Where metrics are served (plain HTTP)
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    /// The folder with the snapshot and timestamp keys, to keep the timestamp fresh
    #[arg(long)]
    online_keys: Option<PathBuf>,
    /// Connections at once, for each listener
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(8..=1_000_000))]
    max_connections: u32,
    /// Of these, connections of one address (IPv6: of one /64 network) [default: a quarter, at least 8]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections_per_address: Option<u32>,
    /// Seconds that a connection may be open without a request
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle_seconds: u64,
    /// Seconds that a body or an answer may pause, and after which it has to keep up 1 KiB a second on average
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    slow_seconds: u64,
    /// Life of node certificates in seconds
    #[arg(long, default_value_t = pki::NODE_LIFE, value_parser = clap::value_parser!(u64).range(60..=7 * 86_400))]
    node_certificate_seconds: u64,
    /// Seconds added to the system's clock, for tests and labs
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, hide = true)]
    clock_offset: i64,
    /// How to log
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> std::process::ExitCode {
    match run(Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-controller: {}", line(&error));
            std::process::ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line, each said once: some messages have their cause in them already.
fn line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let now = Clock::default().now();
    match cli.command {
        Command::Init { dir, trust_domain, names } => {
            let pin = config::init(&Dir::at(&dir), &trust_domain, &names, now)?;
            println!("made {} with CA pin {pin}", dir.display());
            Ok(())
        }
        Command::Operator { dir, name, revoke: true, .. } => {
            let revoked = config::revoke_operator(&Dir::at(dir), &name, now)?;
            println!(
                "revoked {revoked} certificates of {name}; a running controller sees it within 10 seconds"
            );
            Ok(())
        }
        Command::Operator { dir, name, out, .. } => {
            let dir = Dir::at(dir);
            let out = out.context("--out is missing")?;
            let identity = config::load(&dir)?;
            config::operator(&dir, &identity.ca, &identity.settings.names, &name, &out, now)?;
            println!("made the credential of {name} in {}", out.display());
            Ok(())
        }
        Command::Serve(serve) => start(serve),
    }
}

fn start(serve: Serve) -> anyhow::Result<()> {
    log_to_stderr(serve.log_format);
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let options = Options {
        dir: Dir::at(serve.dir),
        listen: serve.listen,
        boot: serve.boot_listen.zip(serve.boot_dir),
        boot_cmdline: serve.boot_cmdline,
        metrics: serve.metrics_listen,
        online_keys: serve.online_keys,
        patience: Patience {
            idle: Duration::from_secs(serve.idle_seconds),
            slow: Duration::from_secs(serve.slow_seconds),
            connections: serve.max_connections as usize,
            per_address: serve.max_connections_per_address.unwrap_or((serve.max_connections / 4).max(8))
                as usize,
        },
        node_life: serve.node_certificate_seconds,
        clock: Clock { offset_seconds: serve.clock_offset },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stopper, stop) = tokio::sync::watch::channel(false);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping");
            let _ = stopper.send(true);
        });
        serve::run(options, stop, |address| {
            tracing::info!(%address, "ready");
            let mut stdout = std::io::stdout();
            // Whoever waits for this line may be gone.
            let _ = writeln!(stdout, "ready https://{address}").and_then(|()| stdout.flush());
        })
        .await
    })
}

fn log_to_stderr(format: LogFormat) {
    let wanted = std::env::var_os("CAIRN_LOG").map(|text| text.to_string_lossy().into_owned());
    let (filter, wrong) = log_filter(wanted.as_deref());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    if let Some(error) = wrong {
        tracing::warn!(
            value = wanted,
            error,
            "CAIRN_LOG is not a filter; write it like `info,cairn_controller=debug`"
        );
    }
}

/// What is logged for a value of `CAIRN_LOG`, and why not what it says.
fn log_filter(wanted: Option<&str>) -> (tracing_subscriber::EnvFilter, Option<String>) {
    use tracing_subscriber::EnvFilter;
    match wanted.filter(|text| !text.trim().is_empty()).map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new("info"), Some(error.to_string())),
        None => (EnvFilter::new("info"), None),
    }
}

/// Each connection is a file; the usual soft limit of 1024 is for select(2), which nothing here uses.
fn raise_file_limit() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

#[cfg(test)]
mod tests {
    use cairn_controller::store::StoreError;

    #[test]
    fn a_filter_that_cannot_be_read_is_told_and_info_is_logged() {
        for (wanted, filter, wrong) in [
            (None, "info", false),
            (Some(" "), "info", false),
            (Some("debug"), "debug", false),
            (Some("cairn_controller=loud"), "info", true),
        ] {
            let (found, error) = super::log_filter(wanted);
            assert_eq!((found.to_string().as_str(), error.is_some()), (filter, wrong), "{wanted:?}");
        }
    }

    #[test]
    fn a_cause_is_said_once() {
        let sqlite = rusqlite::Error::InvalidPath("x".into());
        let why = sqlite.to_string();
        let error = anyhow::Error::from(StoreError::from(sqlite)).context("cannot start");
        let line = super::line(&error);
        assert_eq!(line.matches(&why).count(), 1, "{line}");
        assert!(line.starts_with("cannot start: the database failed"), "{line}");
        let unlike = anyhow::anyhow!("inner").context("outer");
        assert_eq!(super::line(&unlike), "outer: inner");
    }
}

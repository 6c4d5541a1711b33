//! A TUF client on the command line: this crate's [`cairn_bundle::tuf::Updater`] with a network and a directory.
//!
//! The command line is the one that the suite theupdateframework/tuf-conformance drives clients by (CLIENT-CLI.md). Exit
//! status 0: done; 1: not, with one line on standard error.

use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn_bundle::durable;
use cairn_bundle::tuf::{
    Answer, Date, DirStore, Limits, Request, Step, TargetInfo, TufError, Updater, quote,
};
use clap::{Parser, Subcommand};

/// The most bytes of a target: this program holds one in memory.
const MAX_TARGET_BYTES: u64 = 64 << 20;
/// For a whole request. A repository that takes longer is not there.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a TUF repository: keeps trusted metadata up to date and downloads verified targets.
#[derive(Parser)]
#[command(name = "cairn-tuf", version)]
struct Cli {
    /// Where trusted metadata is kept
    #[arg(long, value_name = "DIR")]
    metadata_dir: PathBuf,
    /// Where the repository's metadata is
    #[arg(long, value_name = "URL")]
    metadata_url: Option<String>,
    /// A target to download; may be repeated
    #[arg(long, value_name = "PATH")]
    target_name: Vec<String>,
    /// Where the repository's targets are
    #[arg(long, value_name = "URL")]
    target_base_url: Option<String>,
    /// Where targets go, each under its percent-encoded path
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Begin to trust a root
    Init {
        /// The root, come by a way that is trusted already
        trusted_root: PathBuf,
    },
    /// Bring the trusted metadata up to date
    Refresh,
    /// Refresh, then download the targets
    Download,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("cairn-tuf: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    match &cli.verb {
        Verb::Init { trusted_root } => init(&cli.metadata_dir, trusted_root),
        Verb::Refresh => refresh(cli).map(|_| ()),
        Verb::Download => download(cli),
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn init(metadata_dir: &Path, trusted_root: &Path) -> Result<(), String> {
    let root = durable::read(trusted_root, Limits::default().root).map_err(text)?;
    let root = root.ok_or_else(|| format!("there is no {}", trusted_root.display()))?;
    std::fs::create_dir_all(metadata_dir).map_err(|error| format!("{}: {error}", metadata_dir.display()))?;
    durable::write(&metadata_dir.join("root.json"), &root).map_err(text)
}

fn refresh(cli: &Cli) -> Result<Updater<DirStore>, String> {
    let store = DirStore::open(&cli.metadata_dir).map_err(text)?;
    let mut updater = Updater::open(store, None, Date::now(), Limits::default()).map_err(text)?;
    let step = updater.refresh();
    drive(cli, &mut updater, step)?;
    Ok(updater)
}

/// Fetches what is asked for until there is a result.
fn drive(
    cli: &Cli,
    updater: &mut Updater<DirStore>,
    mut step: Result<Step, TufError>,
) -> Result<Option<TargetInfo>, String> {
    let base = cli.metadata_url.as_deref().ok_or("--metadata-url is missing")?;
    loop {
        match step.map_err(text)? {
            Step::Need(Request { path, max_length, .. }) => {
                step = match get(base, &path, max_length)? {
                    Some(bytes) => updater.feed(Answer::Bytes(&bytes)),
                    None => updater.feed(Answer::NotFound),
                };
            }
            Step::Refreshed => return Ok(None),
            Step::Found(target) => return Ok(Some(target)),
        }
    }
}

fn download(cli: &Cli) -> Result<(), String> {
    let base = cli.target_base_url.as_deref().ok_or("--target-base-url is missing")?;
    let dir = cli.target_dir.as_deref().ok_or("--target-dir is missing")?;
    if cli.target_name.is_empty() {
        return Err("--target-name is missing".to_owned());
    }
    let mut updater = refresh(cli)?;
    for name in &cli.target_name {
        let step = updater.lookup(name);
        let target = drive(cli, &mut updater, step)?.ok_or("the search ended without a target")?;
        fetch_target(base, dir, &target)?;
    }
    Ok(())
}

fn fetch_target(base: &str, dir: &Path, target: &TargetInfo) -> Result<(), String> {
    let length = target.file.length;
    if length > MAX_TARGET_BYTES {
        return Err(format!("{} has {length} bytes, more than the {MAX_TARGET_BYTES} allowed", target.path));
    }
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // One flat name: a path of the repository's choosing leads nowhere else.
    let path = dir.join(quote(&target.path));
    if durable::read(&path, length)
        .is_ok_and(|bytes| bytes.is_some_and(|bytes| target.verify(&bytes).is_ok()))
    {
        return Ok(());
    }
    let bytes = get(base, &target.request, length)?
        .ok_or_else(|| format!("the repository has no {}", target.path))?;
    target.verify(&bytes).map_err(text)?;
    durable::write(&path, &bytes).map_err(text)
}

/// `None` where the server says that there is no such file. One byte more than `max_length` is read, so that the client
/// sees what is too long.
fn get(base: &str, path: &str, max_length: u64) -> Result<Option<Vec<u8>>, String> {
    let url = format!("{}/{path}", base.trim_end_matches('/'));
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
    match agent.get(&url).call() {
        Ok(response) => {
            let mut bytes = Vec::new();
            let reader = response.into_body().into_reader();
            reader.take(max_length + 1).read_to_end(&mut bytes).map_err(|error| format!("{url}: {error}"))?;
            Ok(Some(bytes))
        }
        // Object stores that do not let themselves be listed say 403 for what is not there.
        Err(ureq::Error::StatusCode(403 | 404)) => Ok(None),
        Err(error) => Err(format!("{url}: {error}")),
    }
}

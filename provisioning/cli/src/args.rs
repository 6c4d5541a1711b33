//! The command line.

use std::path::PathBuf;

use cairn_protocol::ids::Name;
use clap::{Args, Parser, Subcommand};

use crate::output::Format;

/// Shown below every command's help.
const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the controller, 4 controller not reachable, \
5 an input file is not what it should be";

/// Cairn's command for operators and release engineers.
#[derive(Debug, Parser)]
#[command(name = "cairnctl", version, about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The folder with an operator's ca.crt, client.crt and client.key
    #[arg(long, global = true, env = "CAIRN_CREDENTIALS", value_name = "DIR")]
    pub(crate) credentials: Option<PathBuf>,
    /// The controller's base URL [default: the credentials' file controller.url]
    #[arg(long, global = true, env = "CAIRN_CONTROLLER", value_name = "URL")]
    pub(crate) controller: Option<String>,
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Seconds since 1970 to sign with, in place of this machine's clock; for tests
    #[arg(long, global = true, hide = true, value_name = "SECONDS")]
    pub(crate) now: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Release keys, kept offline
    #[command(subcommand)]
    Keys(Keys),
    /// The release repository
    #[command(subcommand)]
    Repo(Repo),
    /// Bundles: build one, add it to the repository
    #[command(subcommand)]
    Bundle(Bundle),
    /// Upload what the controller lacks of a repository
    Publish(Publish),
    /// What an image has to trust
    #[command(subcommand)]
    Trust(Trust),
    /// Sites and their plans
    #[command(subcommand)]
    Site(Site),
    /// Nodes, and keys that wait for approval
    #[command(subcommand)]
    Node(Node),
    /// Check and preview plans
    #[command(subcommand)]
    Plan(Plan),
    /// Show nodes as they change, until interrupted
    Watch {
        /// Stop after the present state was shown
        #[arg(long)]
        once: bool,
    },
    /// Print a shell's completion script
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a full set: 5 root, 3 targets, 3 for each kind of bundle, snapshot, timestamp
    Init {
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// List the keys in a folder by id
    List {
        /// The folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Where keys lie.
#[derive(Debug, Args)]
pub(crate) struct KeysAt {
    /// The folder with the keys that sign
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: PathBuf,
}

/// Where a repository lies.
#[derive(Debug, Args)]
pub(crate) struct RepoAt {
    /// The repository's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) repo: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Repo {
    /// Make an empty repository: root 3 of 5, targets and each kind of bundle 2 of 3
    Init {
        #[command(flatten)]
        keys: KeysAt,
        #[command(flatten)]
        repo: RepoAt,
        /// Days that a root lives
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
        root_days: u64,
        /// Days that lists of bundles live
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
        targets_days: u64,
        /// Days that a snapshot lives
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3650))]
        snapshot_days: u64,
        /// Days that a timestamp lives: how long an update can be held back unseen
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3650))]
        timestamp_days: u64,
    },
    /// Sign a new timestamp, and a new snapshot when the present one is past half its life
    Refresh {
        #[command(flatten)]
        keys: KeysAt,
        #[command(flatten)]
        repo: RepoAt,
    },
    /// Replace the keys of root, snapshot and timestamp by those in another folder
    RotateRoot {
        #[command(flatten)]
        keys: KeysAt,
        /// The folder with the new keys; made by `keys init`
        #[arg(long, value_name = "DIR")]
        new_keys: PathBuf,
        #[command(flatten)]
        repo: RepoAt,
    },
    /// Show what is staged, whose signatures are missing, and what is published
    Status {
        #[command(flatten)]
        repo: RepoAt,
    },
    /// Sign what is staged with one key file: for a holder who keeps a key elsewhere
    Sign {
        /// The key file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        repo: RepoAt,
    },
    /// Publish what is staged, once enough holders have signed
    Commit {
        #[command(flatten)]
        keys: KeysAt,
        #[command(flatten)]
        repo: RepoAt,
    },
    /// Read the repository as a new node would
    Check {
        #[command(flatten)]
        repo: RepoAt,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    /// Build a bundle from a recipe
    Build(BundleBuild),
    /// Add a built bundle to the repository, and sign it
    Add {
        /// The folder that `bundle build` wrote
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        keys: KeysAt,
        #[command(flatten)]
        repo: RepoAt,
    },
    /// List the bundles of a repository
    List {
        #[command(flatten)]
        repo: RepoAt,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BundleBuild {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    pub(crate) recipe: PathBuf,
    /// The folder to write: manifest.json, indexes/, chunks.castr/, the layer
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// A unified kernel image to carry; its version is read from it
    #[arg(long, value_name = "FILE")]
    pub(crate) uki: Option<PathBuf>,
    /// The bundle's version [default: the recipe's]
    #[arg(long, value_name = "VERSION")]
    pub(crate) bundle_version: Option<String>,
    /// Take this erofs image for the layer, and build none
    #[arg(long, value_name = "FILE")]
    pub(crate) layer: Option<PathBuf>,
    /// zstd's level for chunks
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub(crate) level: i32,
    /// Stop when the archive has not exactly what the lock file names
    #[arg(long, conflicts_with = "update_lock")]
    pub(crate) locked: bool,
    /// Take today's versions, and write them to the lock file beside the recipe
    #[arg(long)]
    pub(crate) update_lock: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) repo: RepoAt,
    /// The folder with snapshot.pem and timestamp.pem, to sign anew when the controller has signed since
    #[arg(long, value_name = "DIR")]
    pub(crate) keys: Option<PathBuf>,
    /// Uploads at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) parallel: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trust {
    /// Write root.json, ca.pin and image.json, which go into an image
    Export {
        #[command(flatten)]
        repo: RepoAt,
        /// Also check that the repository's root was made with the keys in this folder
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
        /// The image's version
        #[arg(long, value_name = "VERSION")]
        image_version: String,
        /// Seconds since 1970 below which the image believes no clock [default: SOURCE_DATE_EPOCH, else now]
        #[arg(long, value_name = "SECONDS")]
        build_time: Option<u64>,
        /// The folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// A site's plan
    #[command(subcommand)]
    Plan(SitePlan),
    /// List the sites
    List,
    /// Show a site's plan
    Show {
        /// The site
        site: Name,
    },
    /// Make a one-time token for enrolment
    Token {
        /// The site
        site: Name,
        /// Seconds that it is good for, 60 to 7776000
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        ttl: u64,
    },
    /// Make a signed seed: what a node may be told before it reaches the controller
    Seed {
        /// The site
        site: Name,
        /// A netplan document for the site's nodes
        #[arg(long, value_name = "FILE")]
        network: Option<PathBuf>,
        /// A controller's URL to try before the image's own; may be given several times
        #[arg(long = "suggest", value_name = "URL")]
        controllers: Vec<String>,
        /// Put a one-time token in
        #[arg(long)]
        with_token: bool,
        /// Seconds that the token is good for
        #[arg(long, value_name = "SECONDS", requires = "with_token")]
        ttl: Option<u64>,
        /// The file to write: cairn-seed.json in the root of a stick
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SitePlan {
    /// Check a plan and make it the site's
    Apply {
        /// The plan
        file: PathBuf,
    },
}

/// A node of a site.
#[derive(Debug, Args)]
pub(crate) struct NodeAt {
    /// The site
    pub(crate) site: Name,
    /// The node
    pub(crate) node: Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// List nodes
    List {
        /// Of this site alone
        #[arg(long)]
        site: Option<Name>,
    },
    /// Show one node: heartbeat, hardware, assignment, certificates, last events
    Show {
        #[command(flatten)]
        node: NodeAt,
    },
    /// Show a node's events
    Events {
        #[command(flatten)]
        node: NodeAt,
        /// The most events to show, newest first
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=5000))]
        limit: u64,
    },
    /// List the keys that wait for approval, with their words
    Quarantine,
    /// List enrolments that were refused
    Refusals,
    /// Approve a waiting key as a node of a plan, after comparing its words with the node's console
    Approve {
        /// The number in `node quarantine`
        id: u64,
        #[command(flatten)]
        node: NodeAt,
        /// The words on the console: approves only if the key has the same
        #[arg(long)]
        words: Option<String>,
    },
    /// Refuse a waiting key
    Refuse {
        /// The number in `node quarantine`
        id: u64,
    },
    /// Let another machine enrol in a node's place; the present one's certificates are revoked
    Release {
        #[command(flatten)]
        node: NodeAt,
    },
    /// Order a node to wipe its system disk and install again
    Reinstall {
        #[command(flatten)]
        node: NodeAt,
        /// Without this, nothing is ordered
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// Check a plan; names the line of what is wrong
    Check {
        /// The plan
        file: PathBuf,
    },
    /// Show for each node which disk would be written to, and what would be lost
    Preview {
        /// A plan that is not applied yet
        #[arg(required_unless_present = "site", conflicts_with = "site")]
        file: Option<PathBuf>,
        /// The plan that a site has
        #[arg(long)]
        site: Option<Name>,
    },
}

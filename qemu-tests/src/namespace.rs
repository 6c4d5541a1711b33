//! A lab lives in namespaces of its own: mount, network and process ids.
//!
//! `unshare --fork --kill-child` makes the inner program process 1 of a new process-id namespace and ties its life to the outer
//! one. When the lab is killed, even by SIGKILL, the kernel kills process 1, and with it every process in the namespace; the
//! network and mount namespaces go with the last of them. Cgroups of container nodes are removed by a process that outlives the
//! lab for a moment ([`crate::container::groups::Janitor`]).

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use cairn_image::toolbox::Turn;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::container::groups::{self, Janitor};

/// Set inside, so that a program knows that it is there already.
const INSIDE: &str = "CAIRN_LAB_INSIDE";

/// Short-lived sockets live here: a tmpfs of the lab's own, over a directory that every Debian has, hidden only inside.
/// Unix socket paths end at 107 bytes, which a run directory may exceed.
pub const SOCKETS: &str = "/media";

/// What can go wrong with namespaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be run.
    #[error("cannot run {program}; the lab needs util-linux and iproute2")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {status}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// Its exit status.
        status: ExitStatus,
    },
    /// A mount failed.
    #[error("cannot mount a tmpfs on {path}")]
    Mount {
        /// Where.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Called outside.
    #[error("this must run inside the lab's namespaces, see cairn_lab::namespace")]
    Outside,
}

/// Whether this process is process 1 of a lab.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some_and(|value| value == "1") && std::process::id() == 1
}

/// The command that runs `program` as process 1 of new namespaces and dies with the thread that starts it.
///
/// Without root, the whole goes through `sudo -n`.
#[must_use]
pub fn command<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let unshare = ["--fork", "--pid", "--mount", "--net", "--kill-child", "--mount-proc"];
    let mut words: Vec<OsString> = Vec::new();
    if !Uid::effective().is_root() {
        words.extend(["sudo", "-n", "-E"].map(OsString::from));
    }
    words.extend(["setpriv", "--pdeathsig", "KILL", "unshare"].map(OsString::from));
    words.extend(unshare.map(OsString::from));
    words.push(program.into());
    words.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env(INSIDE, "1").env(groups::VARIABLE, groups::run_name());
    command
}

/// Runs this very program again, inside, with the same arguments, and waits for it. SIGINT and SIGTERM are handed on to it; it.
///
/// # Errors
/// When it cannot be started.
pub fn reenter(environment: &[(&str, &str)], started: impl FnOnce(u32)) -> Result<ExitStatus, Error> {
    let program = std::env::current_exe().map_err(|source| run_error("myself", source))?;
    let _janitor = Janitor::start(&groups::run_name());
    // Signals must be blocked before the first thread exists, and unblocked for the child by `unshare`'s exec'd program.
    let signals = blocked_signals();
    let mut child = command(&program, std::env::args_os().skip(1))
        .envs(environment.iter().copied())
        .spawn()
        .map_err(|source| run_error("setpriv unshare", source))?;
    started(child.id());
    hand_on_signals(&signals, child.id());
    child.wait().map_err(|source| run_error("unshare", source))
}

fn run_error(program: &str, source: io::Error) -> Error {
    Error::Run { program: program.to_owned(), source }
}

fn blocked_signals() -> SigSet {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    // Failing to block means only that the default action, ending at once, stays; the children die with us either way.
    let _ = set.thread_block();
    set
}

/// A thread that waits for signals and sends SIGTERM to process 1 of the namespace.
fn hand_on_signals(signals: &SigSet, unshare: u32) {
    let signals = *signals;
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while signals.wait().is_ok() {
            for child in children(unshare) {
                let _ = kill(Pid::from_raw(child), Signal::SIGTERM);
            }
        }
    });
}

fn children(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Inside: mounts the socket directory and brings the loopback up. Call once, before anything else.
///
/// # Errors
/// When called outside, or when the kernel refuses.
pub fn prepare() -> Result<(), Error> {
    if !inside() {
        return Err(Error::Outside);
    }
    hide(SOCKETS)?;
    // Ten queued datagrams per socket, the default, drop every TCP burst. Per network namespace; absent on old kernels.
    let _ = std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "1024");
    ip(&["link", "set", "lo", "up"])
}

/// Hides a folder of the host, made if missing, behind a tmpfs of the lab's own. Only inside.
///
/// # Errors
/// When called outside, or when the kernel refuses.
pub fn hide(path: &'static str) -> Result<(), Error> {
    if !inside() {
        return Err(Error::Outside);
    }
    let failed = |source| Error::Mount { path, source };
    std::fs::create_dir_all(path).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("cairn-lab"), path, Some("tmpfs"), flags, Some("mode=0700,size=64m"))
        .map_err(|errno| failed(errno.into()))
}

/// Runs iproute2's `ip` here.
///
/// # Errors
/// When it is missing or fails.
pub fn ip(arguments: &[&str]) -> Result<(), Error> {
    let program = format!("ip {}", arguments.join(" "));
    let status = Command::new("ip").args(arguments).status().map_err(|source| run_error(&program, source))?;
    if status.success() { Ok(()) } else { Err(Error::Failed { program, status }) }
}

/// For tests: runs `body` inside. Outside, it starts this test binary again for the one test `name`, inside, and passes its
/// result on. The test must be the caller's own full name.
///
/// # Panics
/// When the test inside fails, as a test does.
pub fn run_test_inside(name: &str, body: impl FnOnce()) {
    if inside() {
        prepare().unwrap_or_else(|error| panic!("{error}"));
        body();
        return;
    }
    let _turn = Turn::take().unwrap_or_else(|error| panic!("{error}"));
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("no own path: {error}"));
    let arguments = ["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"];
    let _janitor = Janitor::start(&groups::run_name());
    let mut child: Child = command(&program, arguments)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot enter namespaces: {error}"));
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{name} failed inside its namespaces: {status}");
}

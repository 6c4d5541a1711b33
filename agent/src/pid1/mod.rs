//! PID 1 in the initramfs: mounts, consoles, reaping, watchdog and the supervision of one child that does the work.
//!
//! It never exits and never waits for the child: everything hangs on one poll(2). Should it panic, it starts itself
//! anew in place (the panic hook), because the end of PID 1 is the end of the kernel.

pub mod crash;
mod leave;
pub mod mounts;
pub mod supervise;
mod watchdog;

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use cairn_protocol::console::Said;
use cairn_protocol::stage::Stage;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::clock;
use crate::cmdline::Cmdline;
use crate::console::Console;
use crate::container;
use crate::control::{Message, Reader, VARIABLE};
use crate::paths::Paths;
use supervise::Supervisor;

/// The longest one poll waits: the watchdog is looked after at least this often.
const LOOP: Duration = Duration::from_secs(5);

/// The state of PID 1.
struct Pid1 {
    console: Console,
    paths: Paths,
    supervisor: Supervisor,
    watchdog: watchdog::Keeper,
    worker: Option<Worker>,
    stage: Stage,
}

/// The running child and the reading end of its pipe.
struct Worker {
    pid: Pid,
    control: fs::File,
    reader: Reader,
    open: bool,
}

/// Runs PID 1. Does not return: what cannot go on here is tried again.
pub fn run() -> ! {
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut kmsg) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = std::io::Write::write_all(
                &mut kmsg,
                format!("<2>cairn: PID 1 panicked: {info}\n").as_bytes(),
            );
        }
        // Exec keeps the process: the kernel never sees PID 1 end.
        let _ = Command::new("/proc/self/exe").arg0("init").exec();
    }));
    let in_container = container::is_one();
    let mut troubles = mounts::mount_all();
    if in_container {
        let words: Vec<_> = std::env::args().skip(1).collect();
        troubles.extend(container::begin(&words.join(" ")));
    }
    let cmdline = Cmdline::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let console = Console::of_node();
    for trouble in troubles {
        console.note(Stage::Devices, trouble);
    }
    console.note(Stage::Devices, format!("Cairn agent {} is PID 1", env!("CARGO_PKG_VERSION")));
    if !in_container {
        prepare_kernel(&console);
    }
    // After a restart in place the old worker may still run, with a pipe that nobody reads.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);

    let mut pid1 = Pid1 {
        console,
        paths: Paths::new("/"),
        supervisor: Supervisor::new(clock::since_boot()),
        watchdog: watchdog::Keeper::new(!cmdline.watchdog_off),
        worker: None,
        stage: Stage::Devices,
    };
    let signals = loop {
        match signals() {
            Ok(signals) => break signals,
            Err(error) => {
                pid1.console.note(Stage::Devices, format!("signals cannot be taken over: {error}"));
                std::thread::sleep(LOOP);
            }
        }
    };
    loop {
        pid1.turn(&signals);
    }
}

/// Settings of the kernel that the agent relies on.
fn prepare_kernel(console: &Console) {
    if let Err(error) = cairn_sys::power::catch_ctrl_alt_del() {
        console.note(Stage::Devices, error.to_string());
    }
    // The kernel asks for file systems, ciphers and device-mapper targets through this program: the agent itself.
    if !std::path::Path::new("/sbin/modprobe").exists() {
        let _ = fs::create_dir_all("/sbin");
        if let Err(error) = std::os::unix::fs::symlink("/init", "/sbin/modprobe") {
            console.note(Stage::Devices, format!("/sbin/modprobe could not be made: {error}"));
        }
    }
    // A panic resets the machine: nobody is there to press a button. 10 s leave the text on the screen for a photo.
    if fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|text| text.trim() == "0") {
        let _ = fs::write("/proc/sys/kernel/panic", "10");
    }
}

fn signals() -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter([
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

impl Pid1 {
    /// One turn of the loop: whatever is due, then one bounded wait.
    fn turn(&mut self, signals: &SignalFd) {
        let now = clock::since_boot();
        if self.supervisor.start_due(now) {
            self.start_worker(now);
        }
        if self.supervisor.hangs(now)
            && let Some(worker) = &self.worker
        {
            self.console.note(
                self.stage,
                format!("the worker said nothing for {} s; it is killed", supervise::SILENCE_LIMIT.as_secs()),
            );
            let _ = kill(worker.pid, Signal::SIGKILL);
        }
        self.watchdog.turn(now, self.supervisor.makes_progress(now), &self.console);

        let wait = self.supervisor.next_due(now).min(self.watchdog.next_due()).min(LOOP);
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if let Some(worker) = self.worker.as_ref().filter(|worker| worker.open) {
            fds.push(PollFd::new(worker.control.as_fd(), PollFlags::POLLIN));
        }
        let millis = u16::try_from(wait.as_millis()).unwrap_or(u16::MAX).max(10);
        let _ = poll(&mut fds, PollTimeout::from(millis));
        self.read_control();
        self.take_signals(signals);
        // Whatever signal was lost: zombies are collected at every turn.
        self.reap();
    }

    fn start_worker(&mut self, now: Duration) {
        match spawn() {
            Ok(worker) => {
                self.worker = Some(worker);
                self.supervisor.started(now);
            }
            Err(error) => {
                let pause = self.supervisor.ended(now);
                self.console.note(
                    self.stage,
                    format!("the worker could not be started: {error}; again in {} s", pause.as_secs()),
                );
            }
        }
    }

    fn read_control(&mut self) {
        let Some(worker) = self.worker.as_mut().filter(|worker| worker.open) else { return };
        let mut bytes = [0; 4096];
        let messages = match worker.control.read(&mut bytes) {
            Ok(0) => {
                worker.open = false;
                return;
            }
            Ok(length) => worker.reader.push(&bytes[..length]),
            Err(_) => return,
        };
        for message in messages {
            self.supervisor.sign_of_life(clock::since_boot());
            match message {
                Message::Tick => {}
                Message::Stage(stage) => self.stage = stage,
                Message::Reboot { reason } => self.reboot(&reason, cairn_sys::power::Next::Reboot),
                Message::Handover { root, init } => self.hand_over(&root, &init),
            }
        }
    }

    fn take_signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            match i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGINT) => {
                    self.reboot("Ctrl-Alt-Del was pressed", cairn_sys::power::Next::Reboot)
                }
                Some(Signal::SIGTERM) => self.reboot("asked by SIGTERM", cairn_sys::power::Next::Reboot),
                Some(Signal::SIGUSR2) => self.reboot("asked by SIGUSR2", cairn_sys::power::Next::PowerOff),
                _ => {}
            }
        }
    }

    /// Collects every child that ended; most are orphans of nobody's interest, one may be the worker.
    fn reap(&mut self) {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, crash::How::Exit(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, crash::How::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            if self.worker.as_ref().is_some_and(|worker| worker.pid == pid) {
                self.read_control();
                self.worker = None;
                let now = clock::since_boot();
                let pause = self.supervisor.ended(now);
                let panic = crash::take_panic(&self.paths.panic());
                let crash = crash::Crash::new(now, self.stage, how, panic);
                self.console
                    .note(self.stage, format!("{}; it starts again in {} s", crash.line, pause.as_secs()));
                crash.keep(&self.paths.crashes());
            }
        }
    }

    fn stop_worker(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        let _ = kill(worker.pid, Signal::SIGTERM);
        for _ in 0..50 {
            match waitpid(worker.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(100)),
                _ => return,
            }
        }
        let _ = kill(worker.pid, Signal::SIGKILL);
        let _ = waitpid(worker.pid, None);
    }

    fn reboot(&mut self, reason: &str, next: cairn_sys::power::Next) {
        let what = if next == cairn_sys::power::Next::Reboot { "rebooting" } else { "powering off" };
        self.console.note(self.stage, format!("{what}: {reason}"));
        self.stop_worker();
        leave::reboot(next, &self.console, self.stage);
        // The kernel refused: go on, the worker starts anew.
        self.supervisor.ended(clock::since_boot());
    }

    fn hand_over(&mut self, root: &str, init: &str) {
        self.stop_worker();
        self.watchdog.hand_over();
        self.console.say(Stage::Handover, Said::Note(format!("the root is {root}, starting {init}")));
        let _ = SigSet::empty().thread_set_mask();
        let new = cairn_disk::root::NewRoot { path: root.into() };
        let last = || if container::is_one() { container::share_mounts() } else { Ok(()) };
        let Err(error) = cairn_disk::root::switch(&new, std::path::Path::new(init), &[], last);
        let line = format!("the root could not be switched: {error}");
        self.console.note(Stage::Handover, line.clone());
        crash::Crash { stage: Stage::Handover, line }.keep(&self.paths.crashes());
        // Mounts may have been moved already; only a reboot leads back to a known state.
        self.reboot("the root could not be switched", cairn_sys::power::Next::Reboot);
    }
}

/// Starts the worker with the writing end of a new control pipe.
fn spawn() -> std::io::Result<Worker> {
    let (read, write): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let child = Command::new("/proc/self/exe")
        .arg0("cairn-agent")
        .arg("worker")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env(VARIABLE, "stdin")
        .stdin(write)
        .spawn()?;
    // A pid is at most 2^22 (kernel: PID_MAX_LIMIT).
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    Ok(Worker { pid, control: fs::File::from(read), reader: Reader::default(), open: true })
}

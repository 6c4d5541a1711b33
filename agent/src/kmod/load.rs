//! Loading modules of the running kernel.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::index::{FILE_LIMIT, Index, canonical};
use super::urgency::{Urgency, urgency};

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    dir: PathBuf,
    index: Index,
    loaded: BTreeSet<String>,
    tried: BTreeSet<String>,
    /// Devices whose drivers can wait.
    waiting: BTreeSet<(Urgency, String)>,
}

impl Modules {
    /// The modules below `/lib/modules/<running version>`; empty where the directory is missing: a kernel without
    /// modules is fine.
    pub fn of_running_kernel() -> Self {
        let version =
            nix::sys::utsname::uname().map(|name| name.release().to_os_string()).unwrap_or_default();
        Self::open(Path::new("/lib/modules").join(version))
    }

    /// The modules in `dir`.
    pub fn open(dir: PathBuf) -> Self {
        let text = |name: &str| {
            let mut text = String::new();
            if let Ok(file) = File::open(dir.join(name)) {
                let _ = file.take(FILE_LIMIT).read_to_string(&mut text);
            }
            text
        };
        let index = Index::new(
            text("modules.dep"),
            text("modules.alias"),
            text("modules.softdep"),
            text("modules.builtin"),
        );
        Self { dir, index, loaded: BTreeSet::new(), tried: BTreeSet::new(), waiting: BTreeSet::new() }
    }

    /// Loads what `request` (a modalias or a name) needs. Returns how many modules were loaded, and one line for each
    /// that was refused by the kernel. The same request is answered once.
    pub fn request(&mut self, request: &str) -> (usize, Vec<String>) {
        if !self.tried.insert(request.to_owned()) {
            return (0, Vec::new());
        }
        let (mut count, mut troubles) = (0, Vec::new());
        for file in self.index.files_for(request) {
            let name = canonical(file);
            if self.loaded.contains(&name) || Path::new("/sys/module").join(&name).join("initstate").exists()
            {
                continue;
            }
            match cairn_sys::module::load(&self.dir.join(file), parameters(&name)) {
                Ok(()) => {
                    self.loaded.insert(name);
                    count += 1;
                }
                // A driver that finds no hardware of its kind says ENODEV; that is not worth a line.
                Err(error) if error.errno() == Some(nix::errno::Errno::ENODEV as i32) => {}
                Err(error) => troubles.push(error.to_string()),
            }
        }
        (count, troubles)
    }

    /// As [`Modules::request`] for a device that needs its driver at once; any other device is kept for
    /// [`Modules::catch_up`].
    pub fn request_if_urgent(&mut self, modalias: &str) -> (usize, Vec<String>) {
        match urgency(modalias) {
            Urgency::First => self.request(modalias),
            later => {
                if !self.tried.contains(modalias) {
                    self.waiting.insert((later, modalias.to_owned()));
                }
                (0, Vec::new())
            }
        }
    }

    /// Keeps a device that urgency alone would not let wait for the last.
    pub fn put_off(&mut self, modalias: &str) {
        if !self.tried.contains(modalias) {
            self.waiting.insert((Urgency::Rest, modalias.to_owned()));
        }
    }

    /// Loads what waits with an urgency of `which`.
    pub fn catch_up(&mut self, which: &[Urgency]) -> (usize, Vec<String>) {
        let (mut count, mut troubles) = (0, Vec::new());
        let (now, later) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(urgency, _)| which.contains(urgency));
        self.waiting = later;
        let now: BTreeSet<(Urgency, String)> = now;
        for (_, modalias) in now {
            let (more, said) = self.request(&modalias);
            count += more;
            troubles.extend(said);
        }
        (count, troubles)
    }

    /// Whether devices wait for their drivers.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Forgets which requests were answered, so that a device that came back is looked at again.
    pub fn forget(&mut self) {
        self.tried.clear();
    }
}

/// Parameters that a module needs to behave on a node.
fn parameters(name: &str) -> &'static str {
    match name {
        // Without it the bonding driver makes a bond0 of its own that no plan asked for.
        "bonding" => "max_bonds=0",
        // A soft-locked machine must reset, not wait.
        "softdog" => "nowayout=0",
        _ => "",
    }
}

/// The kernel's own requests: it starts `/sbin/modprobe -q -- NAME`, which is this program. Returns the exit status.
pub fn modprobe(args: &[String]) -> u8 {
    let mut modules = Modules::of_running_kernel();
    let mut failed = false;
    for request in args.iter().skip_while(|arg| arg.starts_with('-')) {
        let (_, troubles) = modules.request(request);
        failed |= !troubles.is_empty();
        for trouble in troubles {
            eprintln!("cairn modprobe: {trouble}");
        }
    }
    u8::from(failed)
}

//! The cgroups of container nodes: below the one that the lab itself runs in, in every hierarchy, so that its limits and
//! accounting still hold.
//!
//! `<the lab's>/cairn-lab-<pid>-<start>/<node>` carries the limits; the node gets what is below, `payload`, as its own. The
//! name says whose it is: one whose process is gone was left behind. Hosts with controllers of version 1, hybrid or not, and
//! hosts with version 2 alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::clean::Proof;
use crate::units::Bytes;

/// The environment variable that tells the inner lab its run's name.
pub const VARIABLE: &str = "CAIRN_LAB_GROUP";
/// How names start.
const PREFIX: &str = "cairn-lab-";
/// The node's own cgroup below the one with its limits.
const PAYLOAD: &str = "payload";
/// Period of processor limits in microseconds, the kernel's default (Documentation/scheduler/sched-bwc.rst).
const PERIOD: u64 = 100_000;
/// Killed processes leave their cgroups within milliseconds; on a loaded machine it takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How deep below a hierarchy's root a lab's cgroup is looked for: `user.slice/user-0.slice/session-1.scope/...`.
const DEPTH: usize = 8;

/// A cgroup could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} cgroup {}", path.display())]
pub struct Error {
    /// What was being done.
    pub action: &'static str,
    /// To which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn fail<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error { action, path: path.to_owned(), source }
}

/// A mounted hierarchy, and where this process is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers; empty for version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// This process's cgroup.
    pub own: PathBuf,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

/// The hierarchies of this process: every one that is mounted.
#[must_use]
pub fn hierarchies() -> Vec<Hierarchy> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
}

/// The same from the texts of `/proc/self/cgroup` (cgroups(7)) and `/proc/self/mountinfo`.
#[must_use]
pub fn parse(cgroup: &str, mountinfo: &str) -> Vec<Hierarchy> {
    let find = |controllers: &[String], path: &str| {
        mountinfo.lines().find_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let (front, back): (Vec<_>, Vec<_>) = (front.split(' ').collect(), back.split(' ').collect());
            let options: Vec<&str> = back.get(2)?.split(',').collect();
            let ours = match *back.first()? {
                "cgroup2" => controllers.is_empty(),
                "cgroup" => {
                    !controllers.is_empty() && controllers.iter().all(|own| options.contains(&own.as_str()))
                }
                _ => false,
            };
            // In a container the mount may show a part of the hierarchy alone.
            let (root, mount) = (*front.get(3)?, PathBuf::from(*front.get(4)?));
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let own = if below.as_os_str().is_empty() { mount.clone() } else { mount.join(below) };
            ours.then(|| Hierarchy { controllers: controllers.to_vec(), mount, own })
        })
    };
    let rows = cgroup.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    rows.filter_map(|(controllers, path)| {
        let controllers: Vec<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        find(&controllers, path)
    })
    .collect()
}

/// The name of a run: that of its outermost process.
#[must_use]
pub fn run_name() -> String {
    let proof = Proof::of(std::process::id());
    let (pid, start) = proof.map_or((0, 0), |proof| (proof.pid, proof.start));
    format!("{PREFIX}{pid}-{start}")
}

/// Whose a run's cgroup is.
fn owner(name: &str) -> Option<Proof> {
    let (pid, start) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some(Proof { pid: pid.parse().ok()?, start: start.parse().ok()? })
}

/// The cgroups of one node.
#[derive(Debug)]
pub struct Groups {
    /// With its hierarchy, the cgroup with the limits.
    all: Vec<(Hierarchy, PathBuf)>,
    unified: bool,
}

impl Groups {
    /// Those of `node` in the run that the environment names; nothing is made yet.
    #[must_use]
    pub fn of(node: &str) -> Self {
        let run = std::env::var(VARIABLE).unwrap_or_else(|_| run_name());
        let hierarchies = hierarchies();
        let unified = hierarchies.iter().all(|hierarchy| hierarchy.controllers.is_empty());
        let at = |hierarchy: &Hierarchy| hierarchy.own.join(&run).join(node);
        Self {
            all: hierarchies.into_iter().map(|hierarchy| (hierarchy.clone(), at(&hierarchy))).collect(),
            unified,
        }
    }

    /// Whether the host has version 2 alone.
    #[must_use]
    pub fn unified(&self) -> bool {
        self.unified
    }

    /// The cgroup with the limits of `controller`.
    #[must_use]
    pub fn limits(&self, controller: &str) -> Option<PathBuf> {
        let mut with = self.all.iter().filter(|(hierarchy, _)| self.unified || hierarchy.has(controller));
        with.next().map(|(_, limits)| limits.clone())
    }

    /// The node's own cgroups, one in each hierarchy.
    #[must_use]
    pub fn payloads(&self) -> Vec<PathBuf> {
        self.all.iter().map(|(_, limits)| limits.join(PAYLOAD)).collect()
    }

    /// Makes them anew, with these limits; what was left there goes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(&self, memory: Bytes, cpus: u8) -> Result<(), Error> {
        self.remove()?;
        let quota = u64::from(cpus) * PERIOD;
        for (hierarchy, limits) in &self.all {
            let payload = limits.join(PAYLOAD);
            fs::create_dir_all(&payload).map_err(fail("make", &payload))?;
            let levels = [limits.parent().unwrap_or(limits), limits, &payload];
            if hierarchy.has("cpuset") {
                // Without both a cgroup takes no process (Documentation/admin-guide/cgroup-v1/cpusets.rst, 1.3).
                for (level, file) in
                    levels.iter().flat_map(|level| [(level, "cpuset.cpus"), (level, "cpuset.mems")])
                {
                    inherit(level, file)?;
                }
                levels.iter().try_for_each(|level| set(level, "cgroup.clone_children", "1"))?;
            }
            if hierarchy.has("memory") {
                set(limits, "memory.limit_in_bytes", &memory.0.to_string())?;
            }
            if hierarchy.has("cpu") {
                set(limits, "cpu.cfs_period_us", &PERIOD.to_string())?;
                set(limits, "cpu.cfs_quota_us", &quota.to_string())?;
            }
            if self.unified {
                for level in [Some(&*hierarchy.own), limits.parent(), Some(limits)].into_iter().flatten() {
                    set(level, "cgroup.subtree_control", "+cpu +memory +pids")?;
                }
                set(limits, "memory.max", &memory.0.to_string())?;
                set(limits, "cpu.max", &format!("{quota} {PERIOD}"))?;
            }
        }
        Ok(())
    }

    /// Processor seconds used in them so far, by what runs and what has ended.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let number =
            |path: PathBuf| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<f64>().ok());
        let accounted = self.all.iter().find(|(hierarchy, _)| hierarchy.has("cpuacct"));
        if let Some((_, limits)) = accounted {
            return number(limits.join("cpuacct.usage")).unwrap_or_default() / 1e9;
        }
        let stat = self.all.iter().find_map(|(_, limits)| fs::read_to_string(limits.join("cpu.stat")).ok());
        let used =
            stat.as_deref().and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("usage_usec ")));
        used.and_then(|text| text.parse::<f64>().ok()).unwrap_or_default() / 1e6
    }

    /// Removes them with all that the node made below, once their processes are gone.
    ///
    /// # Errors
    /// When a process stays in one.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        for (_, limits) in &self.all {
            remove_tree(limits, deadline)?;
            if let Some(run) = limits.parent() {
                // Other nodes of the run may still be in it.
                let _ = fs::remove_dir(run);
            }
        }
        Ok(())
    }
}

/// Removes a cgroup and those below it; one that is not there is fine.
fn remove_tree(path: &Path, deadline: Instant) -> Result<(), Error> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), deadline)?;
        }
    }
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process that was killed is still on its way out.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(fail("remove", path)(error)),
        }
    }
}

fn set(group: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = group.join(file);
    fs::write(&path, value).map_err(fail("limit", &path))
}

fn inherit(group: &Path, file: &str) -> Result<(), Error> {
    let above = group.parent().unwrap_or(group).join(file);
    let value = fs::read_to_string(&above).map_err(fail("read", &above))?;
    set(group, file, value.trim())
}

/// The cgroups of runs whose outermost process is gone. To be called outside of any lab.
#[must_use]
pub fn left_behind() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        look(&hierarchy.mount, DEPTH, &mut found);
    }
    found
}

fn look(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match owner(&entry.file_name().to_string_lossy()) {
            Some(owner) if !owner.alive() => found.push(entry.path()),
            // A living lab's nodes have none of another lab.
            Some(_) => {}
            None if depth > 0 => look(&entry.path(), depth - 1, found),
            None => {}
        }
    }
}

/// Removes cgroups that were left behind; `say` gets a line for each.
///
/// # Errors
/// When a process stays in one.
pub fn sweep(say: &dyn Fn(&str)) -> Result<(), Error> {
    for path in left_behind() {
        say(&format!("removing cgroup {}", path.display()));
        remove_tree(&path, Instant::now() + PATIENCE)?;
    }
    Ok(())
}

/// Removes directories from the deepest up until none is left, for 30 s at most, once standard input ends.
const JANITOR: &str = "trap '' INT TERM HUP; cat >/dev/null
for try in $(seq 300); do
  left=no
  for dir; do [ -d \"$dir\" ] && { left=yes; find \"$dir\" -depth -type d -exec rmdir {} + 2>/dev/null; }; done
  [ $left = no ] && exit 0
  sleep 0.1
done";

/// A process that outlives a killed lab for a moment and removes its cgroups, which the kernel does not do by itself.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Janitor {
    /// Starts it for the run of this name. None where there are no cgroups, or nobody to start; `cairn-lab clean` does the
    /// same later.
    #[must_use]
    pub fn start(run: &str) -> Option<Self> {
        let dirs: Vec<PathBuf> = hierarchies().iter().map(|hierarchy| hierarchy.own.join(run)).collect();
        if dirs.is_empty() {
            return None;
        }
        let mut words = if Uid::effective().is_root() { vec![] } else { vec!["sudo", "-n"] };
        words.extend(["sh", "-c", JANITOR, "sh"]);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(dirs)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().ok()?;
        let stdin = child.stdin.take();
        Some(Self { child, stdin })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                          31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                          32 30 0:27 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn every_hierarchy_and_the_place_in_it() {
        let own = "9:name=systemd:/a.service\n4:memory:/box/lab\n5:pids:/x\n2:cpu,cpuacct:/\n0::/a.service\n";
        let found = parse(own, MOUNTS);
        let places: Vec<_> =
            found.iter().map(|h| (h.controllers.join(","), h.own.to_string_lossy().into_owned())).collect();
        let place =
            |controllers: &str, path: &str| (controllers.to_owned(), format!("/sys/fs/cgroup/{path}"));
        // pids is not mounted; of memory a part is.
        assert_eq!(
            places,
            [
                place("name=systemd", "systemd/a.service"),
                place("memory", "memory/lab"),
                place("cpu,cpuacct", "cpu,cpuacct"),
                place("", "unified/a.service"),
            ]
        );
        assert_eq!(parse("odd\n\n", "odd\n"), []);
        let two = parse("0::/u/s\n", "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(two[0].own, Path::new("/sys/fs/cgroup/u/s"));
    }

    #[test]
    fn a_name_says_whose_it_is() {
        let owner = owner(&run_name()).unwrap();
        assert!(owner.alive());
        for name in ["cairn-lab-", "cairn-lab-1", "cairn-lab-x-1", "other-1-2"] {
            assert_eq!(super::owner(name), None, "{name}");
        }
    }
}

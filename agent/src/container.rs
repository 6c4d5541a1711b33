//! A node that is a container of the lab: what PID 1 does before the rest, and what the lab says in place of hardware.
//!
//! Kernel, devices and clock are the host's. The lab hands over words as the arguments of `/init`; PID 1 shows them in place
//! of `/proc/cmdline`, so that the worker, and the service of the booted root, read them where they read a kernel's.

use std::fs;
use std::path::{Path, PathBuf};

use cairn_disk::discover::Found;
use cairn_disk::folder;
use cairn_protocol::inventory::{self, Cpu, Disk, Nic};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// The link of `/proc/self/ns/pid` in the kernel's first process-id namespace (include/linux/proc_ns.h,
/// PROC_PID_INIT_INO). No boot loader can forge it, so that no word on a command line turns a machine into a container.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
/// The words, for the whole boot.
const WORDS: &str = "/run/cairn/cmdline";
/// Where the lab shows the folders that stand for disks.
const DISKS: &str = "disks";
/// The most disks that are read of the words: the most that a rack file may give a node.
const MAX_DISKS: usize = 16;
/// Loop devices that get a node: loop devices are the host's, and its own /dev is not seen here. Debian's kernels make
/// them on demand, from the lowest free number on.
const LOOPS: u64 = 256;
/// Major number of loop devices, and both of `/dev/loop-control` (Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;
const LOOP_CONTROL: (u64, u64) = (10, 237);
/// Settings of the kernel that the kubelet wants so, and writes where they are not: of the host, so they are shown as
/// files that say what it wants to read.
const SETTINGS: [(&str, &str); 6] = [
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The host's kernel log has other machines' lines in it: the journal leaves it alone.
const JOURNAL: &str = "[Journal]\nReadKMsg=no\n";

/// Whether this process runs in a container.
pub fn is_one() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link != Path::new(FIRST_NAMESPACE))
}

/// What stands in for hardware, from the words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `cairn.serial=TEXT`: in place of the chassis serial number.
    pub serial: String,
    /// `cairn.memory=BYTES`: the memory that its cgroup allows.
    pub memory_bytes: u64,
    /// `cairn.cpus=NUMBER`: the processors that its cgroup allows.
    pub cpus: u32,
    /// `cairn.disk=NAME,BYTES,SERIAL`, each.
    pub disks: Vec<Disk>,
}

impl Machine {
    /// Reads the words; what is not known is skipped.
    pub fn parse(text: &str) -> Self {
        let mut machine = Self::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "cairn.serial" => machine.serial = cairn_protocol::limits::clean_text(value),
                "cairn.memory" => machine.memory_bytes = value.parse().unwrap_or(0),
                "cairn.cpus" => machine.cpus = value.parse().unwrap_or(0),
                "cairn.disk" if machine.disks.len() < MAX_DISKS => machine.disks.extend(disk(value)),
                _ => {}
            }
        }
        machine
    }

    /// The disks as far as they are there, below `run` (`/run/cairn`).
    pub fn found(&self, run: &Path) -> Vec<Found> {
        let at = |disk: &Disk| run.join(DISKS).join(&disk.name);
        self.disks.iter().map(|disk| folder::found(&at(disk), disk.clone())).collect()
    }

    /// Vendor, product and serial number.
    pub fn machine(&self) -> inventory::Machine {
        inventory::Machine {
            vendor: "Cairn".to_owned(),
            product: "Lab container".to_owned(),
            serial: self.serial.clone(),
            uuid: String::new(),
        }
    }

    /// Processor and memory, the host's as far as the lab lets the node use it.
    pub fn cpu_and_memory(&self, cpu: Cpu, memory: u64) -> (Cpu, u64) {
        let at_most = |own: u32, limit: u32| if limit == 0 { own } else { own.min(limit) };
        let (threads, cores) = (at_most(cpu.threads, self.cpus), at_most(cpu.cores, self.cpus));
        let memory = if self.memory_bytes == 0 { memory } else { memory.min(self.memory_bytes) };
        (Cpu { threads, cores, ..cpu }, memory)
    }
}

/// `NAME,BYTES,SERIAL`. The transport is what the lab's other disks have, so that one plan fits both kinds of node.
fn disk(value: &str) -> Option<Disk> {
    let mut parts = value.splitn(3, ',');
    let name =
        parts.next().filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    Some(Disk {
        name: name.to_owned(),
        model: "folder".to_owned(),
        size_bytes: parts.next()?.parse().ok()?,
        serial: cairn_protocol::limits::clean_text(parts.next()?),
        transport: "virtio".to_owned(),
        path: format!("folder-{name}"),
        sector_bytes: 512,
        ..Disk::default()
    })
}

/// The lab's links: virtual ones, so they have no device behind them.
pub fn nics(sys: &Path) -> Vec<Nic> {
    let read =
        |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let entries = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut nics: Vec<Nic> = names
        .filter(|name| name.starts_with("host"))
        .map(|name| {
            let dir = sys.join("class/net").join(&name);
            let (mac, link) = (read(dir.join("address")), read(dir.join("carrier")) == "1");
            Nic { name, mac, driver: "tun".to_owned(), link, ..Nic::default() }
        })
        .collect();
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

/// For PID 1, once /run is there: makes of what systemd-nspawn set up what a machine would have. `words` are the arguments
/// of `/init`. Returns one line for each thing that could not be done. Done already, it does nothing.
pub fn begin(words: &str) -> Vec<String> {
    if Path::new(WORDS).exists() {
        return Vec::new();
    }
    let mut troubles = Vec::new();
    let mut note = |what: String, done: Result<(), std::io::Error>| {
        if let Err(error) = done {
            troubles.push(format!("{what}: {error}"));
        }
    };
    // Mounts are moved at the handover, which the kernel refuses below shared ones.
    note("/ cannot be made private".to_owned(), propagate(MsFlags::MS_PRIVATE));
    for at in read_only_cgroups(&fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        let done = mount(None::<&str>, at.as_str(), None::<&str>, flags, None::<&str>);
        note(format!("{at} cannot be made writable"), done.map_err(Into::into));
    }
    for (name, value) in SETTINGS {
        let shown = Path::new("/run/cairn/sysctl").join(name.replace('/', "."));
        let at = Path::new("/proc/sys").join(name);
        if at.exists() {
            note(format!("{} cannot be shown", at.display()), show(&shown, &format!("{value}\n"), &at));
        }
    }
    note("loop devices cannot be made".to_owned(), make_loops(Path::new("/dev")));
    note(
        "/proc/cmdline cannot be shown".to_owned(),
        show(Path::new(WORDS), &format!("{words}\n"), Path::new("/proc/cmdline")),
    );
    troubles
}

/// Mounts made from now on are seen in the mount namespaces made below, which containers of the node need: systemd sets
/// this up on a machine and leaves it to the manager in a container.
///
/// # Errors
/// The system's.
pub fn share_mounts() -> std::io::Result<()> {
    propagate(MsFlags::MS_SHARED)
}

/// Configuration of the booted root that only a container needs, below `run` (`/run`).
///
/// # Errors
/// The system's.
pub fn configure(run: &Path) -> std::io::Result<()> {
    let dir = run.join("systemd/journald.conf.d");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("60-container.conf"), JOURNAL)
}

fn propagate(how: MsFlags) -> std::io::Result<()> {
    Ok(mount(None::<&str>, "/", None::<&str>, how | MsFlags::MS_REC, None::<&str>)?)
}

/// Writes a file and shows it at `at`.
fn show(file: &Path, text: &str, at: &Path) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(file, text)?;
    Ok(mount(Some(file), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// The cgroup hierarchies of a mount table that cannot be written to: systemd-nspawn mounts controllers of version 1 so.
fn read_only_cgroups(table: &str) -> Vec<String> {
    let rows = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    rows.filter(|row| {
        row.get(2) == Some(&"cgroup")
            && row.get(3).is_some_and(|options| options.split(',').any(|o| o == "ro"))
    })
    .filter_map(|row| row.get(1).map(|at| (*at).to_owned()))
    .collect()
}

fn make_loops(dev: &Path) -> std::io::Result<()> {
    let make = |name: &str, kind: SFlag, major: u64, minor: u64| {
        let path = dev.join(name);
        if path.exists() {
            return Ok(());
        }
        mknod(&path, kind, Mode::from_bits_truncate(0o600), makedev(major, minor))
    };
    make("loop-control", SFlag::S_IFCHR, LOOP_CONTROL.0, LOOP_CONTROL.1)?;
    for number in 0..LOOPS {
        make(&format!("loop{number}"), SFlag::S_IFBLK, LOOP_MAJOR, number)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_stand_in_for_hardware() {
        let machine = Machine::parse(
            "cairn.boot=container cairn.serial=LAB-A cairn.memory=1073741824 cairn.cpus=2 \
             cairn.disk=disk0,21474836480,a-disk0 cairn.disk=../x,1,y cairn.disk=disk1,none,z quiet\n",
        );
        assert_eq!((machine.serial.as_str(), machine.memory_bytes, machine.cpus), ("LAB-A", 1 << 30, 2));
        assert_eq!(machine.disks.len(), 1);
        let disk = &machine.disks[0];
        assert_eq!(
            (disk.name.as_str(), disk.serial.as_str(), disk.size_bytes),
            ("disk0", "a-disk0", 20 << 30)
        );
        let host = Cpu { threads: 8, cores: 4, ..Cpu::default() };
        let (cpu, memory) = machine.cpu_and_memory(host.clone(), 64 << 30);
        assert_eq!((cpu.threads, cpu.cores, memory), (2, 2, 1 << 30));
        assert_eq!(Machine::default().cpu_and_memory(host.clone(), 5), (host, 5));
    }

    #[test]
    fn hierarchies_that_cannot_be_written_to() {
        let table = "tmpfs /sys/fs/cgroup tmpfs ro,nosuid 0 0\n\
                     cgroup /sys/fs/cgroup/memory cgroup ro,nosuid,memory 0 0\n\
                     cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,name=systemd 0 0\nodd\n";
        assert_eq!(read_only_cgroups(table), ["/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn the_labs_links_are_the_nics() {
        let sys = tempfile::tempdir().unwrap();
        for (name, mac) in [("host0", "52:54:00:ca:01:00\n"), ("lo", "00:00:00:00:00:00\n")] {
            let dir = sys.path().join("class/net").join(name);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("address"), mac).unwrap();
            fs::write(dir.join("carrier"), "1\n").unwrap();
        }
        let nics = nics(sys.path());
        assert_eq!(nics.len(), 1);
        assert_eq!(
            (nics[0].name.as_str(), nics[0].mac.as_str(), nics[0].link),
            ("host0", "52:54:00:ca:01:00", true)
        );
    }

    proptest! {
        #[test]
        fn any_words_are_read_without_a_panic(text in ".{0,200}", disk in "cairn.disk=.{0,40}") {
            let machine = Machine::parse(&format!("{text} {disk}"));
            prop_assert!(machine.disks.iter().all(|disk| !disk.name.contains('/')));
        }
    }
}

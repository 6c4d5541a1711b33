//! The `/init` of the VM test (tests/vm): PID 1 of a real machine that makes a disk, boots from it, and switches root.
//!
//! Without `vm.version=` on the kernel's command line it installs; with it, it is what the loaders started: version 2.0
//! fails at once, version 1.0 goes on into the layer, whose `/sbin/init` is this program again.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use cairn_disk::discover::{self, Found, Sources};
use cairn_disk::layer::{self, Depth, Layer};
use cairn_disk::loader::{LoaderFiles, Loaders, install_loaders};
use cairn_disk::mounts::{self, Mounts};
use cairn_disk::record::InstallRecord;
use cairn_disk::root::{self, RootPlan};
use cairn_disk::system::SystemDisk;
use cairn_disk::tool::Tools;
use cairn_disk::{choose, installed, system};
use cairn_protocol::ids::Name;
use cairn_protocol::inventory::DiskContent;
use cairn_protocol::plan::{Disks, Selector, Size, SystemDisk as Wanted};
use cairn_sys::power::{self, Next};
use nix::mount::{MsFlags, mount};

/// crc32c comes first: libcrc32c, which erofs needs, asks for it by name and not by symbol.
const MODULES: &[&str] = &[
    "crc32c_generic",
    "crc32c_intel",
    "virtio_pci",
    "virtio_blk",
    "loop",
    "dm_mod",
    "dm_verity",
    "erofs",
    "overlay",
    "ext4",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];
/// Drivers of the other buses; not in every kernel.
const BUSES: &[&str] = &["nvme", "ahci", "sd_mod", "virtio_scsi", "xhci_pci", "usb_storage"];
const PAYLOAD: &str = "/mnt/payload";

fn main() {
    // Run by hand, as root, it must not touch the developer's machine.
    if std::process::id() != 1 {
        eprintln!("cairn-vm-init: this is an init for the VM test");
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        println!("vm: FAILED {panic}");
        let _ = power::now(Next::PowerOff);
    }));
    if std::env::args().nth(1).as_deref() == Some("second") {
        return second_stage();
    }
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).unwrap();
    }
    load_modules(MODULES);
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap();
    match cmdline.split_whitespace().find_map(|word| word.strip_prefix("vm.version=")) {
        None => install(),
        Some("1.0") => good(),
        Some("disks") => disks(),
        Some(other) => {
            println!("vm: started {other}");
            end(Next::Reboot);
        }
    }
    end(Next::PowerOff);
}

fn end(next: Next) {
    panic!("{}", power::now(next).unwrap_err());
}

/// Loads what is a module here, dependencies first.
fn load_modules(names: &[&str]) {
    let dir = fs::read_dir("/lib/modules").unwrap().next().unwrap().unwrap().path();
    let dep = fs::read_to_string(dir.join("modules.dep")).unwrap();
    let stem = |path: &str| path.rsplit('/').next().unwrap().split('.').next().unwrap().replace('-', "_");
    for name in names {
        let Some((path, needs)) =
            dep.lines().filter_map(|l| l.split_once(':')).find(|(p, _)| stem(p) == *name)
        else {
            continue;
        };
        for file in needs.split_whitespace().rev().chain([path]) {
            cairn_sys::module::load(&dir.join(file), "").unwrap();
        }
    }
}

fn wanted() -> Wanted {
    Wanted {
        selector: Selector { serial: Some("SYSTEM".to_owned()), ..Selector::default() },
        esp_size: Some(Size(512 << 20)),
        state_size: Some(Size(256 << 20)),
        ..Wanted::default()
    }
}

fn names() -> (Name, Name) {
    (Name::new("s1").unwrap(), Name::new("n1").unwrap())
}

fn find() -> Vec<Found> {
    discover::disks(&Sources::default(), Path::new("/run/scratch"))
}

fn payload(found: &[Found]) -> PathBuf {
    let disk = found.iter().find(|found| found.disk.serial == "PAYLOAD").unwrap();
    assert_eq!(disk.disk.content, DiskContent::Foreign { what: "erofs".to_owned() });
    let at = PathBuf::from(PAYLOAD);
    fs::create_dir_all(&at).unwrap();
    mount(Some(&disk.node), &at, Some("erofs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    at
}

/// The layer as the test described it: `<root hash> <salt> <data blocks> <block with the file to damage>`.
fn describe(payload: &Path, data: &Path) -> (Layer, u64) {
    let text = fs::read_to_string(payload.join("layer.txt")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let salt = (0..words[1].len())
        .step_by(2)
        .map(|n| u8::from_str_radix(&words[1][n..n + 2], 16).unwrap())
        .collect();
    let layer = Layer {
        name: "base".to_owned(),
        file: data.join("layers/base.erofs"),
        tree: data.join("layers/base.verity"),
        root_hash: words[0].parse().unwrap(),
        salt,
        data_blocks: words[2].parse().unwrap(),
    };
    (layer, words[3].parse().unwrap())
}

/// Waits until all disks that the command line counts are there, and describes them.
fn disks() {
    load_modules(BUSES);
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap();
    let count: usize =
        cmdline.split_whitespace().find_map(|word| word.strip_prefix("vm.disks=")).unwrap().parse().unwrap();
    while find().len() < count {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for found in find() {
        let disk = found.disk;
        println!(
            "vm: disk {} {} [{}] {} {} {} {}",
            disk.serial,
            disk.transport,
            disk.model,
            disk.path,
            disk.size_bytes,
            disk.sector_bytes,
            disk.removable
        );
        println!("vm: disk {} {:?} {}", disk.serial, disk.content, disk.wwn);
    }
}

fn install() {
    let found = find();
    for one in &found {
        println!(
            "vm: disk {} {} {} {:?}",
            one.disk.name, one.disk.transport, one.disk.path, one.disk.content
        );
    }
    let payload = payload(&found);
    let (site, node) = names();
    let chosen = choose::system(&found, &wanted(), &site, &node).unwrap();
    let disk =
        system::prepare(chosen, &wanted(), &Tools::default(), false, &|line| println!("vm: {line}")).unwrap();
    let at = Mounts::below(Path::new("/run/cairn"));
    disk.mount(&at, &Tools::default()).unwrap();
    disk.mount_esp(&at).unwrap();
    install_loaders(&disk, &at.esp, &LoaderFiles::default()).unwrap();
    damage(&payload, &at.data);
    let loaders = Loaders::open(&at.esp).unwrap();
    loaders.install("1.0", &payload.join("1.0.efi"), 2, &[]).unwrap();
    loaders.bless("1.0").unwrap();
    loaders.install("2.0", &payload.join("2.0.efi"), 2, &["1.0"]).unwrap();
    finish(&disk, &at);
    let again = find();
    let again = installed::find(&again).unwrap().unwrap();
    assert_eq!(again.disk.content, DiskContent::Cairn { site: "s1".to_owned(), node: "n1".to_owned() });
    println!("vm: installed");
}

fn finish(disk: &SystemDisk, at: &Mounts) {
    let (site, node) = names();
    let plan = Disks { system: wanted() };
    disk.finish(&at.state, &InstallRecord { version: 1, site, node, reinstall: 0, plan }).unwrap();
    for dir in [&at.esp, &at.state, &at.data] {
        mounts::detach(dir).unwrap();
    }
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

/// A verity root that is whole, one with a flipped byte in a file, one with a flipped byte where it is mounted by.
fn damage(payload: &Path, data: &Path) {
    fs::create_dir(data.join("layers")).unwrap();
    for name in ["base.erofs", "base.verity"] {
        fs::copy(payload.join(name), data.join("layers").join(name)).unwrap();
    }
    let (layer, block) = describe(payload, data);
    let at = Path::new("/run/cairn/layers/base");
    let file = at.join("usr/share/file");
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(&file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    println!("vm: dm {:?}", cairn_sys::dm::Control::open().unwrap().version().unwrap());
    layer::check(&layer, Depth::Full).unwrap();
    let attached = layer::attach(&layer, at).unwrap();
    assert_eq!(read().unwrap(), 1 << 20);
    let status =
        |device: &str| cairn_sys::dm::Control::open().unwrap().status(device).unwrap()[0].text.clone();
    assert_eq!(status(&attached.device), "V");
    attached.detach().unwrap();
    println!("vm: verity reads");

    flip(&layer.file, block * 4096 + 100);
    let attached = layer::attach(&layer, at).unwrap();
    assert_eq!(read().unwrap_err().raw_os_error(), Some(nix::libc::EIO));
    assert_eq!(status(&attached.device), "C");
    assert!(layer::check(&layer, Depth::Full).unwrap_err().to_string().contains(&format!("block {block} ")));
    assert_eq!(layer::bad_ranges(&layer, 64 << 10).unwrap(), [block / 16]);
    attached.detach().unwrap();
    flip(&layer.file, block * 4096 + 100);
    println!("vm: a flipped byte is EIO");

    flip(&layer.file, 1024);
    let error = layer::attach(&layer, at).unwrap_err();
    assert_eq!(error.code(), Some("layer-corrupt"), "{error}");
    flip(&layer.file, 1024);
    println!("vm: {error}");
    layer::check(&layer, Depth::Full).unwrap();
}

/// What the good version does: tells what the loaders counted, has 2.0 tried again at the next boot, and goes on.
fn good() {
    println!("vm: started 1.0");
    let found = find();
    let payload = payload(&found);
    let disk = system::open(installed::find(&found).unwrap().unwrap()).unwrap();
    let at = Mounts::below(Path::new("/run/cairn"));
    disk.mount(&at, &Tools::default()).unwrap();
    disk.mount_esp(&at).unwrap();
    // Looked at again while it is mounted, it is still the same disk.
    assert!(installed::find(&find()).unwrap().is_some());
    let loaders = Loaders::open(&at.esp).unwrap();
    for one in loaders.list().unwrap() {
        println!("vm: {} has {:?}", one.version, one.tries_left);
    }
    loaders.install("2.0", &payload.join("2.0.efi"), 2, &["1.0"]).unwrap();
    drop(loaders);
    mounts::detach(&at.esp).unwrap();
    let (layer, _) = describe(&payload, &at.data);
    let attached = layer::attach(&layer, Path::new("/run/cairn/layers/base")).unwrap();
    let plan = RootPlan {
        at: "/newroot".into(),
        scratch: "/run/cairn/etc".into(),
        layers: vec![attached.at],
        stack: layer.root_hash.to_string(),
        state: at.state,
        data: at.data,
        persist_etc: vec!["keep".to_owned()],
        hostname: Some("n1".to_owned()),
    };
    let new = root::prepare(&plan).unwrap();
    panic!("{}", root::switch(&new, Path::new("/sbin/init"), &["second"], || Ok(())).unwrap_err());
}

fn second_stage() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let of =
        |at: &str| mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(at)).unwrap_or("").to_owned();
    for (at, kind) in [
        ("/", "erofs"),
        ("/etc", "overlay"),
        ("/var", "ext4"),
        ("/tmp", "tmpfs"),
        ("/run", "tmpfs"),
        ("/dev", "devtmpfs"),
    ] {
        assert_eq!(of(at).split(' ').nth(2), Some(kind), "{at}: {mounts}");
    }
    assert!(of("/").starts_with("/dev/dm-"), "{mounts}");
    assert!(fs::write("/usr/new", b"").is_err());
    assert_eq!(fs::read_to_string("/etc/hostname").unwrap(), "n1\n");
    let boots = fs::read_to_string("/var/boots").unwrap_or_default() + "x";
    fs::write("/var/boots", &boots).unwrap();
    // What became of the initramfs: its memory is free again.
    let rootfs = fs::read_dir("/lib/modules").is_err();
    println!("vm: second stage, boot {} of this disk, modules gone: {rootfs}", boots.len());
    nix::unistd::sync();
    end(Next::PowerOff);
}

//! Disks made, mounted and changed for real: files as disks, loop devices, a private mount namespace. Needs root and
//! loop devices; where there are none the tests say so and pass, and the VM test covers the same ground.
#![allow(clippy::unwrap_used)]

mod making;
mod stacking;

use std::path::{Path, PathBuf};

use cairn_disk::discover::{self, Found};
use cairn_disk::tool::Tools;
use cairn_protocol::plan::{Selector, Size, SystemDisk};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A directory whose mounts nobody else sees: the thread gets a mount namespace of its own, which ends with it.
pub(crate) struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    /// `None` where mounting is not allowed or loop devices are missing.
    pub(crate) fn enter() -> Option<Self> {
        let loops = Path::new("/dev/loop-control").exists();
        if !loops || unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).is_err() {
            eprintln!("not run: needs root and loop devices");
            return None;
        }
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        Some(Self { dir: tempfile::tempdir().unwrap() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A sparse file as a disk.
    pub(crate) fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Runs a program of the toolbox on this room's files; it must succeed.
    pub(crate) fn toolbox(&self, command: &[&str]) -> String {
        let toolbox = cairn_image::toolbox::Toolbox::ensure(&|line| eprintln!("{line}")).unwrap();
        let output =
            toolbox.enter().bind(self.dir.path()).command(command[0]).args(&command[1..]).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        said
    }

    pub(crate) fn look(&self, disk: &Path) -> Found {
        discover::given(disk, &self.path("scratch")).unwrap()
    }
}

pub(crate) fn tools() -> Tools {
    Tools::default()
}

/// The smallest disk that a plan can ask for: 256 MiB of ESP and STATE, 1 GiB of DATA.
pub(crate) fn small() -> SystemDisk {
    SystemDisk {
        selector: Selector { path: Some("*".to_owned()), ..Selector::default() },
        esp_size: Some(Size(256 << 20)),
        state_size: Some(Size(256 << 20)),
        ..SystemDisk::default()
    }
}

pub(crate) const SMALL_BYTES: u64 = 2 << 30;

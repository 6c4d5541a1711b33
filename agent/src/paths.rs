//! Where things lie, below one root: `/` on a node, a directory in tests.

use std::path::{Path, PathBuf};

/// All paths of the agent. CONTRACT of the house: see docs/agent.md.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// image.json, ca.pin, root.json: `/etc/cairn` in the initramfs, `/run/cairn/trust` in the booted root.
    pub fn trust(&self) -> PathBuf {
        let carried = self.in_run("trust");
        if carried.join("image.json").exists() { carried } else { self.root.join("etc/cairn") }
    }

    /// `/run/cairn`: everything that lives for one boot.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/cairn")
    }

    /// A file or directory of `/run/cairn`.
    pub fn in_run(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }

    /// The STATE partition's mount.
    pub fn state(&self) -> PathBuf {
        self.in_run("state")
    }

    /// The DATA partition's mount.
    pub fn data(&self) -> PathBuf {
        self.in_run("data")
    }

    /// The ESP's mount.
    pub fn esp(&self) -> PathBuf {
        self.in_run("esp")
    }

    /// The agent's state for `cairn-agent status`.
    pub fn status(&self) -> PathBuf {
        self.in_run("status.json")
    }

    /// Stage timings of this boot, carried over the handover.
    pub fn stages(&self) -> PathBuf {
        self.in_run("stages.json")
    }

    /// Crashes of the worker that central has not been told of yet, written by PID 1.
    pub fn crashes(&self) -> PathBuf {
        self.in_run("crashes")
    }

    /// What the last panic said, for PID 1 to add to the crash's reason.
    pub fn panic(&self) -> PathBuf {
        self.in_run("panic")
    }
}

//! A real controller and the real command, in a folder of their own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub struct Bench {
    pub dir: tempfile::TempDir,
    controller: Option<Child>,
    pub url: String,
}

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The controller's binary, beside ours; built when it is not there.
fn controller_binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_cairnctl")).with_file_name("cairn-controller");
    if !path.exists() {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "-p", "cairn-controller"]);
        if path.parent().is_some_and(|dir| dir.ends_with("release")) {
            command.arg("--release");
        }
        assert!(command.status().unwrap().success());
    }
    path
}

impl Bench {
    /// A folder without a controller.
    pub fn offline() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), controller: None, url: String::new() }
    }

    /// With a running controller.
    pub fn new() -> Self {
        let mut bench = Self::offline();
        let made = Command::new(controller_binary())
            .args(["init", "--trust-domain", "cairn.test", "--name", "127.0.0.1", "--dir"])
            .arg(bench.path("ctl"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        bench.start();
        bench
    }

    fn start(&mut self) {
        let mut child = Command::new(controller_binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
            .arg(self.path("ctl"))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.path("controller.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.controller = Some(child);
        let log = std::fs::read_to_string(self.path("controller.log")).unwrap();
        line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line}{log}")).trim().clone_into(&mut self.url);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairnctl"));
        command.args(args).current_dir(self.dir.path());
        for name in ["CAIRN_CREDENTIALS", "CAIRN_CONTROLLER", "SOURCE_DATE_EPOCH"] {
            command.env_remove(name);
        }
        if !self.url.is_empty() {
            command.env("CAIRN_CREDENTIALS", self.path("ctl/operator")).env("CAIRN_CONTROLLER", &self.url);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().unwrap())
    }

    /// As [`Bench::run`], with JSON, and it must work.
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--output", "json"]].concat()).ok().json()
    }

    /// Keys in `K`, a repository in `R`.
    pub fn repository(&self) {
        self.run(&["keys", "init", "--dir", "K"]).ok();
        self.run(&["repo", "init", "--keys", "K", "--repo", "R"]).ok();
    }

    /// Builds a bundle of noise as `version` in the folder of that name.
    pub fn bundle(&self, version: &str) -> Ran {
        let mut noise = u64::from_le_bytes(*b"cairnctl") ^ version.len() as u64;
        let bytes: Vec<u8> = (0..400 * 4096)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (noise >> 56) as u8
            })
            .collect();
        self.write("small.erofs", bytes);
        self.write("small.toml", RECIPE);
        let args =
            ["bundle", "build", "small.toml", "--layer", "small.erofs", "--level", "3", "--out", version];
        self.run(&[&args[..], &["--bundle-version", version]].concat()).ok()
    }
}

const RECIPE: &str = "format = 1\n[bundle]\nname = \"os/base\"\nversion = \"0\"\n\
                      [layer]\nname = \"base\"\nsuite = \"trixie\"\npackages = [\"systemd\"]\n";

pub const PLAN: &str = "version: 1\nsite: s1\nbundles: { os/base: 1.0.0 }\n\
                        disks: { system: { match: { transport: virtio } } }\n\
                        nodes:\n  n1: { serial: A-1 }\n  n2: {}\n";

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

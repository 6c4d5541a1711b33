//! A real controller, real agents, and conditions to wait on.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::{Duration, Instant};

use cairn_protocol::console::{Line, Said};
use cairn_protocol::stage::Stage;

/// Long enough for a loaded machine of two cores; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A program of the workspace: from `CAIRN_BIN_DIR` where whoever runs the tests has built it, else built once.
pub fn program(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("CAIRN_BIN_DIR") {
        return PathBuf::from(dir).join(name);
    }
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "-p", "cairn-controller", "-p", "cairnctl"])
            .status()
            .unwrap();
        assert!(status.success(), "cairn-controller and cairnctl do not build");
    });
    Path::new(env!("CARGO_BIN_EXE_cairn-agent")).with_file_name(name)
}

/// Waits until `condition` gives something.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running controller with its own directory.
pub struct Controller {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    pub url: String,
}

impl Controller {
    /// Made anew; not started.
    pub fn made() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new(program("cairn-controller"))
            .args([
                "init",
                "--trust-domain",
                "cairn.lab",
                "--name",
                "localhost",
                "--name",
                "127.0.0.1",
                "--dir",
            ])
            .arg(dir.path().join("ctl"))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        Self { dir, child: None, url: String::new() }
    }

    /// Made and started.
    pub fn started() -> Self {
        let mut controller = Self::made();
        controller.start();
        controller
    }

    /// Made and started, with a plan.
    pub fn with_plan(plan: &str) -> Self {
        let controller = Self::started();
        controller.apply(plan);
        controller
    }

    pub fn ctl(&self) -> PathBuf {
        self.dir.path().join("ctl")
    }

    /// Starts it, at the address it had before where it had one.
    pub fn start(&mut self) {
        let listen = self.url.strip_prefix("https://").unwrap_or("127.0.0.1:0").to_owned();
        let mut child = Command::new(program("cairn-controller"))
            .args(["serve", "--listen", &listen, "--dir"])
            .arg(self.ctl())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.url = line.trim().strip_prefix("ready ").expect("the controller is ready").to_owned();
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Runs cairnctl and gives its JSON.
    pub fn cairnctl(&self, args: &[&str]) -> serde_json::Value {
        let output = Command::new(program("cairnctl"))
            .args(["--output", "json", "--controller", &self.url, "--credentials"])
            .arg(self.ctl().join("operator"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "cairnctl {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).unwrap_or(serde_json::Value::Null)
    }

    pub fn apply(&self, plan: &str) {
        let file = self.dir.path().join("plan.yaml");
        std::fs::write(&file, plan).unwrap();
        self.cairnctl(&["site", "plan", "apply", file.to_str().unwrap()]);
    }

    /// What central knows of a node.
    pub fn node(&self, site: &str, node: &str) -> serde_json::Value {
        self.cairnctl(&["node", "show", site, node])
    }

    /// Waits until central knows of an event with this code.
    pub fn wait_for_event(&self, site: &str, node: &str, code: &str) -> serde_json::Value {
        wait_until(&format!("event {code} at central"), || {
            let events = self.cairnctl(&["node", "events", site, node]);
            let all = events.as_array()?.clone();
            all.into_iter().find(|event| event.to_string().contains(&format!("\"{code}\"")))
        })
    }

    /// The pin as the image would have it.
    pub fn pin(&self) -> String {
        std::fs::read_to_string(self.ctl().join("ca.pin")).unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
    }
}

type Lines = Arc<(Mutex<Vec<Line>>, Condvar)>;

/// A node's root directory, and the agent in it.
pub struct Node {
    pub root: tempfile::TempDir,
    serial: String,
    child: Option<Child>,
    lines: Lines,
}

impl Node {
    /// A node whose image trusts `pin` and calls `url`.
    pub fn new(serial: &str, pin: &str, url: &str) -> Self {
        Self::with_controllers(serial, pin, &[url])
    }

    /// A node whose image names several controllers.
    pub fn with_controllers(serial: &str, pin: &str, urls: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let trust = root.path().join("etc/cairn");
        std::fs::create_dir_all(&trust).unwrap();
        std::fs::write(trust.join("ca.pin"), pin).unwrap();
        let image = serde_json::json!({
            "version": 1, "image_version": "0.1.0", "build_time": 1_700_000_000_u64,
            "controllers": urls, "trust_domain": "cairn.lab",
        });
        std::fs::write(trust.join("image.json"), image.to_string()).unwrap();
        Self { root, serial: serial.to_owned(), child: None, lines: Lines::default() }
    }

    /// A node of `controller`.
    pub fn of(controller: &Controller, serial: &str) -> Self {
        Self::new(serial, &controller.pin(), &controller.url)
    }

    /// Starts the agent with more arguments; lines of before are forgotten.
    pub fn start(&mut self, args: &[&str]) {
        self.kill();
        self.lines.0.lock().unwrap().clear();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cairn-agent"))
            .args(["worker", "--hosted", "--serial", &self.serial, "--root"])
            .arg(self.root.path())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, lines) = (child.stdout.take().unwrap(), Arc::clone(&self.lines));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(line) = Line::parse(&line) {
                    lines.0.lock().unwrap().push(line);
                    lines.1.notify_all();
                }
            }
        });
        self.child = Some(child);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits for a line.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        let begun = Instant::now();
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "waited in vain for {what}; the console said:\n{}", text(&lines));
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until a stage is done.
    pub fn wait_done(&self, stage: Stage) -> Line {
        self.wait_for(&format!("{stage}: done"), |line| line.stage == stage && line.said == Said::Done)
    }

    /// Waits until a stage began.
    pub fn wait_started(&self, stage: Stage) -> Line {
        self.wait_for(&format!("{stage}: started"), |line| line.stage == stage && line.said == Said::Started)
    }

    /// Waits until something is refused with this code; gives its line.
    pub fn wait_refused(&self, wanted: &str) -> String {
        let line = self.wait_for(
            &format!("refused [{wanted}]"),
            |line| matches!(&line.said, Said::Refused { code, .. } if code == wanted),
        );
        match line.said {
            Said::Refused { line, .. } => line,
            _ => unreachable!(),
        }
    }

    /// Waits for a waiting line of a stage; gives its reason.
    pub fn wait_waiting(&self, stage: Stage) -> String {
        let line = self.wait_for(&format!("{stage}: waiting"), |line| {
            line.stage == stage && matches!(line.said, Said::Waiting { .. })
        });
        match line.said {
            Said::Waiting { reason, .. } => reason,
            _ => unreachable!(),
        }
    }

    /// Whether a line was seen so far.
    pub fn has_said(&self, wanted: impl Fn(&Line) -> bool) -> bool {
        self.lines.0.lock().unwrap().iter().any(wanted)
    }

    pub fn run(&self, name: &str) -> PathBuf {
        self.root.path().join("run/cairn").join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

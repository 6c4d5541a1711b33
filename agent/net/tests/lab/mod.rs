//! A network of its own for each test: namespaces, veth pairs, a real dnsmasq. Needs root or user namespaces, and
//! `ip`, `unshare`, `nsenter` and `dnsmasq` (packages iproute2, util-linux, dnsmasq-base).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const INSIDE: &str = "CAIRN_NET_INSIDE";
/// No condition in these tests takes a machine longer, unless it never holds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` in a network namespace of its own: the test program starts itself there with only this test.
pub fn isolated(test: &str, body: impl AsyncFnOnce(Lab)) {
    if std::env::var_os(INSIDE).is_some() {
        // Shown when the test fails.
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
        let lab = Lab::new();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(lab));
        return;
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("dnsmasq", "dnsmasq-base"),
    ] {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let found = path.split(':').any(|folder| Path::new(folder).join(program).exists());
        assert!(found, "this test needs `{program}`: apt-get install {package}");
    }
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut command = Command::new("unshare");
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg("--").arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("1 passed"), "{text}");
    assert!(output.status.success(), "{text}");
}

/// Runs a command and shows what it said when it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// `ip` with words split at spaces.
pub fn ip(words: &str) -> String {
    run("ip", &words.split(' ').collect::<Vec<_>>())
}

/// The test's own namespace.
pub struct Lab {
    pub folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        ip("link set lo up");
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> cairn_net::NetConfig {
        let mut config = cairn_net::NetConfig::new(self.path("resolv.conf"));
        config.also = vec!["eth*".to_owned()];
        config.state_file = Some(self.path("network.json"));
        config.hostname = Some("node-1".to_owned());
        config
    }

    /// The other end of the cable of `link`, which is made: a namespace where `link` is called `srv0`.
    pub fn peer(&self, link: &str, addresses: &[&str]) -> Peer {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let peer = Peer { pid: keeper.id().to_string(), keeper, folder: self.folder.path().to_owned() };
        ip(&format!("link add {link} type veth peer name srv0 netns {}", peer.pid));
        for address in addresses {
            peer.ip(&format!("address add {address} dev srv0"));
        }
        peer.ip("link set srv0 up");
        peer
    }
}

/// A namespace at the other end; ends when dropped, and with the test program.
pub struct Peer {
    keeper: Child,
    pid: String,
    folder: PathBuf,
}

impl Peer {
    pub fn ip(&self, words: &str) -> String {
        self.run(&format!("ip {words}"))
    }

    pub fn run(&self, words: &str) -> String {
        let mut args = vec!["-t", &self.pid, "-n", "--"];
        args.extend(words.split(' '));
        run("nsenter", &args)
    }

    /// A bash script in the namespace.
    pub fn shell(&self, script: &str) {
        run("nsenter", &["-t", &self.pid, "-n", "--", "bash", "-c", script]);
    }

    /// A dnsmasq on srv0. Its leases are in a file of their own, empty at first.
    pub fn dnsmasq(&self, name: &str, options: &[&str]) -> Dnsmasq {
        let leases = self.folder.join(format!("{name}.leases"));
        let _ = std::fs::remove_file(&leases);
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.pid,
            "-n",
            "--",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
        ]);
        command.args([
            "--user=root",
            "--group=root",
            "--port=0",
            "--interface=srv0",
            "--bind-dynamic",
            "--no-ping",
        ]);
        command.args(["--log-dhcp", "--log-facility=-", "--pid-file="]);
        command.arg(format!("--dhcp-leasefile={}", leases.display())).args(options);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (reader, writer) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                writer.lock().unwrap().push(line);
            }
        });
        let dnsmasq = Dnsmasq { child, log };
        dnsmasq.blocking_wait("IP range|RA|started");
        dnsmasq
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A running dnsmasq; ends when dropped.
pub struct Dnsmasq {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Dnsmasq {
    /// Lines of its log that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    fn blocking_wait(&self, any: &str) {
        let end = Instant::now() + PATIENCE;
        while !any.split('|').any(|text| self.count(text) > 0) {
            assert!(Instant::now() < end, "dnsmasq did not say {any}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `count` lines contain `text`.
    pub async fn said(&self, text: &str, count: usize) {
        until(&format!("dnsmasq says {text} {count} times"), || self.count(text) >= count).await;
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `holds`, looking often.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the network's status satisfies `holds`.
pub async fn status(
    network: &cairn_net::Network,
    what: &str,
    holds: impl FnMut(&cairn_net::NetStatus) -> bool,
) -> cairn_net::NetStatus {
    let mut watch = network.watch();
    match tokio::time::timeout(PATIENCE, watch.wait_for(holds)).await {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("never: {what}: {:#?}\n{}", network.status(), ip("address")),
    }
}

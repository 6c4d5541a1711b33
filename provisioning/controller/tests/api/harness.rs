//! A controller of one's own, and clients of every kind.
#![allow(unreachable_pub, reason = "a module of one test binary")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_protocol::enrol::EnrolAnswer;
use cairn_protocol::ids::Sha256Digest;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cairn-controller");

/// A plan with two nodes, one with a serial.
pub const PLAN: &str = "version: 1
site: s1
heartbeat: { interval-seconds: 1 }
disks: { system: { match: { path: '*' } } }
nodes:
  n1: { serial: SERIAL-1 }
  n2: {}
";

/// A controller's folder and, while it runs, its process.
pub struct Controller {
    tmp: TempDir,
    child: Option<Child>,
    pub url: String,
    operator: Client,
}

/// What a machine is: a key, and a certificate once it has enrolled.
pub struct Machine {
    pub key: KeyPair,
    pub serial: String,
    pub token: Option<String>,
}

/// The client that shows no certificate, or the one given as PEM with its key.
pub fn client(ca: &str, identity: Option<(&str, &str)>) -> Client {
    client_with(ca, identity, &[b"h2", b"http/1.1"])
}

/// As [`client`], speaking one of these protocols.
pub fn client_with(ca: &str, identity: Option<(&str, &str)>, alpn: &[&[u8]]) -> Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certs, key)) => {
            let chain = CertificateDer::pem_slice_iter(certs.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Client::builder().tls_backend_preconfigured(config).timeout(Duration::from_secs(20)).build().unwrap()
}

impl Controller {
    /// Makes a controller and starts it.
    pub fn new() -> Self {
        let mut controller = Self::stopped();
        controller.start(&[]);
        controller
    }

    /// Makes a controller.
    pub fn stopped() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("c");
        let made = Command::new(PROGRAM)
            .args(["init", "--trust-domain", "cairn.test", "--name", "127.0.0.1", "--dir"])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let read = |name: &str| std::fs::read_to_string(dir.join("operator").join(name)).unwrap();
        let operator = client(&read("ca.crt"), Some((&read("client.crt"), &read("client.key"))));
        Self { tmp, child: None, url: String::new(), operator }
    }

    pub fn dir(&self) -> PathBuf {
        self.tmp.path().join("c")
    }

    pub fn log_path(&self) -> PathBuf {
        self.tmp.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    pub fn command(&self, flags: &[&str]) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--dir"]).arg(self.dir()).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(&mut self, flags: &[&str]) {
        assert!(self.child.is_none());
        let mut child = self.command(flags).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("ready ").unwrap_or_else(|| panic!("{line:?}: {}", self.log()));
        self.url = url.to_owned();
        self.child = Some(child);
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL: no code of the program runs any more.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let status = child.wait().unwrap();
        let mut rest = String::new();
        child.stdout.unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "only the ready line is on standard output");
        status
    }

    /// SIGTERM, and the end.
    pub fn stop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(self.wait().success(), "{}", self.log());
    }

    pub fn restart(&mut self, flags: &[&str]) {
        self.stop();
        self.start(flags);
    }

    pub fn ca(&self) -> String {
        std::fs::read_to_string(self.dir().join("ca.crt")).unwrap()
    }

    pub fn pin(&self) -> Sha256Digest {
        std::fs::read_to_string(self.dir().join("ca.pin")).unwrap().trim().parse().unwrap()
    }

    /// The address that a log line with this message names.
    pub fn logged_address(&self, message: &str) -> String {
        let log = self.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.rfind(|line| line["message"] == message).unwrap();
        line["address"].as_str().unwrap().to_owned()
    }

    /// A client without a certificate.
    pub fn anyone(&self) -> Client {
        client(&self.ca(), None)
    }

    /// A request of the operator.
    pub fn operator(&self, method: Method, path: &str) -> RequestBuilder {
        self.operator.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.operator(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    pub async fn put_plan(&self, site: &str, yaml: &str) -> Answer {
        let path = format!("/v1/sites/{site}/plan");
        Answer::of(self.operator(Method::PUT, &path).body(yaml.to_owned())).await
    }

    pub async fn apply(&self, yaml: &str) -> Value {
        let answer = self.put_plan("s1", yaml).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn token(&self, ttl: u64) -> String {
        let request = self.operator(Method::POST, "/v1/sites/s1/tokens").json(&json!({"ttl_seconds": ttl}));
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// Enrols `machine` and answers the client with its certificate.
    pub async fn member(&self, machine: &Machine) -> Client {
        let answer = machine.enrol(self).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let EnrolAnswer::Enrolled { certificates, .. } = serde_json::from_value(answer.body).unwrap() else {
            panic!("in quarantine")
        };
        client(&self.ca(), Some((&certificates, &machine.key.serialize_pem())))
    }

    /// Waits until the refusals have one with this code; answers it.
    pub async fn refusal(&self, code: &str) -> Value {
        eventually(async || {
            let all = self.get("/v1/refusals").await;
            all.as_array().unwrap().iter().find(|refusal| refusal["code"] == code).cloned()
        })
        .await
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: reqwest::header::HeaderMap,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        if status >= 400 {
            let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
            assert_eq!(kind, Some("application/problem+json"), "{status} {text}");
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, body, headers }
    }

    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> &str {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        self.body["detail"].as_str().unwrap()
    }
}

impl Machine {
    pub fn new(serial: &str) -> Self {
        Self { key: KeyPair::generate().unwrap(), serial: serial.to_owned(), token: None }
    }

    pub fn with_token(serial: &str, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::new(serial) }
    }

    pub fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub fn csr(&self) -> String {
        CertificateParams::default().serialize_request(&self.key).unwrap().pem().unwrap()
    }

    pub fn request(&self) -> Value {
        json!({"csr": self.csr(), "serial": self.serial, "token": self.token, "inventory": {}})
    }

    pub async fn enrol(&self, controller: &Controller) -> Answer {
        let url = format!("{}/v1/enrol", controller.url);
        Answer::of(controller.anyone().post(url).json(&self.request())).await
    }
}

/// Runs `cairn-controller operator`; whether it worked, and what it said.
pub fn operator_command(controller: &Controller, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(PROGRAM);
    let out = command.args(["operator", "--dir"]).arg(controller.dir()).args(words).output().unwrap();
    (out.status.success(), String::from_utf8(out.stderr).unwrap())
}

/// A heartbeat with these events.
pub fn beat(sequence: u64, generation: Option<&str>, events: &[u64]) -> Value {
    let event = |id: &u64| {
        json!({"id": id, "boot_id": "boot-1", "unix_seconds": 1, "stage": "fetch", "severity": "warning",
               "code": "metadata-expired", "line": format!("event {id}")})
    };
    json!({
        "sequence": sequence, "boot_id": "boot-1", "stage": "service", "state": "ready", "generation": generation,
        "status_digest": Sha256Digest::of(b"").to_string(), "uptime_seconds": 5, "agent_rss_bytes": 1,
        "agent_cpu_millis": 1, "events": events.iter().map(event).collect::<Vec<_>>()
    })
}

/// Asks again until there is an answer. The limit is for a test that would hang, not for one that passes.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! Time, certificates, and who may ask what.

use std::sync::Arc;

use cairn_protocol::signed::SignedTime;
use reqwest::Method;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde_json::json;

use crate::harness::{Answer, Controller, Machine, PLAN, beat, client, operator_command};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const TEN_YEARS: u64 = 315_360_000;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

async fn time(controller: &Controller, query: &str) -> Answer {
    Answer::of(controller.anyone().get(format!("{}/v1/time{query}", controller.url))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_is_signed_over_the_nonce() {
    let controller = Controller::new();
    let answer = time(&controller, &format!("?nonce={NONCE}")).await;
    let signed: SignedTime = serde_json::from_value(answer.body).unwrap();
    let (seconds, _) = signed.verify(controller.pin(), NONCE).unwrap();
    assert!(seconds.abs_diff(now()) < 60);
    assert!(signed.verify(controller.pin(), &NONCE.replace('0', "1")).is_err(), "it answers one question");
    for bad in [
        "",
        "?nonce=",
        "?nonce=00",
        &format!("?nonce={NONCE}00"),
        &format!("?nonce={}", NONCE.to_uppercase()),
    ] {
        time(&controller, bad).await.refused(400, "bad-nonce");
    }
    time(&controller, &format!("?nonce={NONCE}&nonce={NONCE}")).await.refused(400, "bad-query");
}

/// A client that judges nothing, as an agent judges no dates before it has the signed time.
fn dateless() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judgeless(provider)))
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(config).build().unwrap()
}

#[derive(Debug)]
struct Judgeless(Arc<CryptoProvider>);

impl ServerCertVerifier for Judgeless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_whose_clock_is_ten_years_off_serves_or_says_so() {
    let mut controller = Controller::stopped();
    // Ahead: nothing tells it; what it signs is what it believes, and the server's certificate was renewed.
    controller.start(&["--clock-offset", &TEN_YEARS.to_string()]);
    let url = format!("{}/v1/time?nonce={NONCE}", controller.url);
    let signed: SignedTime = dateless().get(url).send().await.unwrap().json().await.unwrap();
    assert!(signed.verify(controller.pin(), NONCE).unwrap().0.abs_diff(now() + TEN_YEARS) < 60);
    controller.stop();
    // Behind: before its own CA was made it does not start.
    let refused = controller.command(&["--clock-offset", &format!("-{TEN_YEARS}")]).spawn().unwrap();
    assert!(!refused.wait_with_output().unwrap().status.success());
    assert!(
        controller.log().contains("clock is before the controller's CA was made"),
        "{}",
        controller.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_asks_for_its_own_certificate() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let anyone = controller.anyone();
    let url = |path: &str| format!("{}{path}", controller.url);
    for path in ["/v1/sites", "/v1/nodes", "/v1/quarantine", "/v1/refusals", "/v1/watch", "/v1/nodes/s1/n1"] {
        Answer::of(anyone.get(url(path))).await.refused(401, "certificate-required");
        Answer::of(node.get(url(path))).await.refused(403, "wrong-certificate");
    }
    for path in [
        "/v1/sites/s1/tokens",
        "/v1/sites/s1/seed",
        "/v1/nodes/s1/n1/release",
        "/v1/nodes/s1/n2/reinstall",
        "/v1/quarantine/1/approve",
        "/v1/repo/missing",
    ] {
        Answer::of(anyone.post(url(path)).json(&json!({}))).await.refused(401, "certificate-required");
        Answer::of(node.post(url(path)).json(&json!({}))).await.refused(403, "wrong-certificate");
    }
    Answer::of(node.put(url("/v1/sites/s1/plan")).body(PLAN)).await.refused(403, "wrong-certificate");
    Answer::of(node.put(url("/v1/repo/metadata/1.root.json")).body("{}"))
        .await
        .refused(403, "wrong-certificate");
    for path in ["/v1/node/assignment", "/v1/repo/metadata/timestamp.json"] {
        Answer::of(anyone.get(url(path))).await.refused(401, "certificate-required");
    }
    Answer::of(controller.operator(Method::GET, "/v1/node/assignment"))
        .await
        .refused(403, "wrong-certificate");
    Answer::of(controller.operator(Method::POST, "/v1/node/heartbeat").json(&beat(1, None, &[])))
        .await
        .refused(403, "wrong-certificate");
    Answer::of(anyone.get(url("/nothing"))).await.refused(404, "no-such-route");
    Answer::of(anyone.delete(url("/v1/time"))).await.refused(405, "method-not-allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sees_and_changes_its_own_things_alone() {
    let controller = Controller::new();
    controller.apply(&PLAN.replace("n2: {}", "n2: { serial: SERIAL-2 }")).await;
    let one = controller.member(&Machine::new("SERIAL-1")).await;
    let two = controller.member(&Machine::new("SERIAL-2")).await;
    let url = |path: &str| format!("{}{path}", controller.url);
    for (client, name) in [(&one, "n1"), (&two, "n2")] {
        let envelope = Answer::of(client.get(url("/v1/node/assignment"))).await.body;
        let payload: serde_json::Value = serde_json::from_str(envelope["payload"].as_str().unwrap()).unwrap();
        assert_eq!((&payload["site"], &payload["node"]), (&json!("s1"), &json!(name)));
    }
    // The name is in the certificate; nothing in a request says another.
    Answer::of(one.post(url("/v1/node/heartbeat")).json(&beat(1, None, &[1]))).await;
    let nodes = controller.get("/v1/nodes?site=s1").await;
    assert_eq!((&nodes[0]["heartbeats"], &nodes[1]["heartbeats"]), (&json!(1), &json!(0)));
    assert_eq!(controller.get("/v1/nodes/s1/n2/events").await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_controller_ends_the_handshake_and_is_seen() {
    let (controller, other) = (Controller::new(), Controller::new());
    other.apply(PLAN).await;
    let machine = Machine::new("SERIAL-1");
    let EnrolledPem(certificates) = enrolled(&other, &machine).await;
    let stranger = client(&controller.ca(), Some((&certificates, &machine.key.serialize_pem())));
    assert!(stranger.get(format!("{}/v1/node/assignment", controller.url)).send().await.is_err());
    let refusal = controller.refusal("client-certificate").await;
    assert_eq!(refusal["address"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_pins_another_ca_is_seen() {
    let (controller, other) = (Controller::new(), Controller::new());
    let wrong = client(&other.ca(), None);
    assert!(wrong.get(format!("{}/v1/time?nonce={NONCE}", controller.url)).send().await.is_err());
    let refusal = controller.refusal("ca-pin").await;
    assert_eq!(refusal["address"], "127.0.0.1");
    assert!(refusal["detail"].as_str().unwrap().contains("pins another one"), "{refusal}");
    let lines = controller.log().lines().filter(|line| line.contains("\"ca-pin\"")).count();
    assert_eq!(lines, 1, "one clear line");
}

struct EnrolledPem(String);

async fn enrolled(controller: &Controller, machine: &Machine) -> EnrolledPem {
    let answer = machine.enrol(controller).await;
    EnrolledPem(answer.body["certificates"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_gets_a_clear_answer_and_enrolling_again_helps() {
    let mut controller = Controller::stopped();
    controller.start(&["--node-certificate-seconds", "60"]);
    controller.apply(PLAN).await;
    let machine = Machine::new("SERIAL-1");
    let node = controller.member(&machine).await;
    let url = |controller: &Controller| format!("{}/v1/node/assignment", controller.url);
    assert_eq!(Answer::of(node.get(url(&controller))).await.status, 200);
    controller.restart(&["--clock-offset", "120"]);
    let answer = Answer::of(node.get(url(&controller))).await;
    assert!(answer.refused(403, "certificate-expired").contains("enrols again"));
    controller.refusal("certificate-expired").await;
    let node = controller.member(&machine).await;
    assert_eq!(Answer::of(node.get(url(&controller))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_for_the_same_key_or_a_new_one() {
    let controller = Controller::new();
    controller.apply(&PLAN.replace("n2: {}", "n2: { serial: SERIAL-2 }")).await;
    let (machine, next, other) =
        (Machine::new("SERIAL-1"), Machine::new("SERIAL-1"), Machine::new("SERIAL-2"));
    let node = controller.member(&machine).await;
    controller.member(&other).await;
    let url = |path: &str| format!("{}{path}", controller.url);
    for machine in [&machine, &next] {
        let answer = Answer::of(node.post(url("/v1/node/renew")).json(&json!({"csr": machine.csr()}))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let certificates = answer.body["certificates"].as_str().unwrap();
        let renewed = client(&controller.ca(), Some((certificates, &machine.key.serialize_pem())));
        assert_eq!(Answer::of(renewed.get(url("/v1/node/assignment"))).await.status, 200);
    }
    let taken = Answer::of(node.post(url("/v1/node/renew")).json(&json!({"csr": other.csr()}))).await;
    taken.refused(409, "key-taken");
    let bad = Answer::of(node.post(url("/v1/node/renew")).json(&json!({"csr": "none"}))).await;
    bad.refused(400, "bad-csr");
    Answer::of(controller.anyone().post(url("/v1/node/renew")).json(&json!({"csr": machine.csr()})))
        .await
        .refused(401, "certificate-required");
    let detail = controller.get("/v1/nodes/s1/n1").await;
    assert_eq!(detail["certificates"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_be_added_and_revoked_while_the_controller_runs() {
    let controller = Controller::new();
    let run = |words: &[&str]| assert!(operator_command(&controller, words).0);
    let out = controller.dir().join("alice");
    run(&["--name", "alice", "--out", out.to_str().unwrap()]);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let alice = client(&controller.ca(), Some((&read("client.crt"), &read("client.key"))));
    let url = format!("{}/v1/sites", controller.url);
    assert_eq!(Answer::of(alice.get(&url)).await.status, 200);
    run(&["--name", "alice", "--revoke"]);
    crate::harness::eventually(async || (Answer::of(alice.get(&url)).await.status == 403).then_some(()))
        .await;
    Answer::of(alice.get(&url)).await.refused(403, "certificate-revoked");
    assert_eq!(controller.get("/v1/sites").await, json!([]));
}

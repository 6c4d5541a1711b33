//! Becoming a node: by serial, by token and approval, or not at all.

use cairn_protocol::enrol::EnrolAnswer;
use cairn_protocol::seed::{self, SignedSeed};
use cairn_protocol::words;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Controller, Machine, PLAN, beat};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serial_of_a_plan_enrols_by_itself() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let machine = Machine::new("  SERIAL-1 ");
    let answer = machine.enrol(&controller).await;
    let EnrolAnswer::Enrolled { site, node, assurance, keys, certificates } =
        serde_json::from_value(answer.body).unwrap()
    else {
        panic!("in quarantine")
    };
    assert_eq!((site.as_str(), node.as_str(), assurance.as_str()), ("s1", "n1", "software"));
    assert!(keys.verify(controller.pin()).is_ok());
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 2, "leaf and CA");
    // The answer may get lost: the same key asks again and is the same node.
    assert_eq!(machine.enrol(&controller).await.body["node"], "n1");
    let view = &controller.get("/v1/nodes").await[0];
    assert_eq!((&view["serial"], &view["installed"]), (&json!("SERIAL-1"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_serial_is_refused_and_seen() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    for serial in ["SERIAL-9", "", "serial-1"] {
        let answer = Machine::new(serial).enrol(&controller).await;
        assert!(answer.refused(403, "unknown-serial").contains("add it to a plan"));
    }
    Machine::new("SERIAL-9").enrol(&controller).await;
    let refusals = controller.get("/v1/refusals").await;
    let seen = refusals.as_array().unwrap().iter().find(|refusal| refusal["serial"] == "SERIAL-9").unwrap();
    assert_eq!((&seen["address"], &seen["count"]), (&json!("127.0.0.1"), &json!(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_may_take_over_until_the_node_is_installed() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let url = |path: &str| format!("{}{path}", controller.url);
    let (first, second, third) =
        (Machine::new("SERIAL-1"), Machine::new("SERIAL-1"), Machine::new("SERIAL-1"));
    let old = controller.member(&first).await;
    assert_eq!(Answer::of(old.post(url("/v1/node/heartbeat")).json(&beat(1, None, &[]))).await.status, 200);
    // Reinstalled by hand before anything was on its disk: a new key, the old one's certificates are revoked.
    let node = controller.member(&second).await;
    Answer::of(old.post(url("/v1/node/heartbeat")).json(&beat(2, None, &[])))
        .await
        .refused(403, "certificate-revoked");
    controller.refusal("certificate-revoked").await;
    let answer =
        Answer::of(node.post(url("/v1/node/heartbeat")).json(&beat(1, Some("0123456789abcdef"), &[]))).await;
    assert_eq!(answer.status, 200);
    // Installed: whoever asks with the serial and another key is refused, its own key is not.
    let answer = third.enrol(&controller).await;
    assert!(answer.refused(403, "serial-already-enrolled").contains("cairnctl node release s1 n1"));
    assert_eq!(second.enrol(&controller).await.status, 200);
    assert_eq!(Answer::of(node.get(url("/v1/node/assignment"))).await.status, 200);
    // A reinstall may take the key with the disk: until it is done another one is let in.
    let reinstall = controller.operator(Method::POST, "/v1/nodes/s1/n1/reinstall");
    assert_eq!(Answer::of(reinstall).await.status, 200);
    let fourth = Machine::new("SERIAL-1");
    let node = controller.member(&fourth).await;
    let generation = controller.get("/v1/nodes/s1/n1").await["assigned_generation"].clone();
    let done = beat(1, generation.as_str(), &[]);
    assert_eq!(Answer::of(node.post(url("/v1/node/heartbeat")).json(&done)).await.status, 200);
    third.enrol(&controller).await.refused(403, "serial-already-enrolled");
    // Released: the next key is welcome, the old one is not.
    assert_eq!(Answer::of(controller.operator(Method::POST, "/v1/nodes/s1/n1/release")).await.status, 200);
    Answer::of(node.get(url("/v1/node/assignment"))).await.refused(403, "certificate-revoked");
    let node = controller.member(&third).await;
    assert_eq!(Answer::of(node.get(url("/v1/node/assignment"))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_outlives_a_restart() {
    let mut controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    assert_eq!(Answer::of(controller.operator(Method::POST, "/v1/nodes/s1/n1/release")).await.status, 200);
    controller.restart(&[]);
    Answer::of(node.get(format!("{}/v1/node/assignment", controller.url)))
        .await
        .refused(403, "certificate-revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_leads_into_quarantine_and_an_operator_out_of_it() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let machine = Machine::with_token("NEW-1", &controller.token(600).await);
    let answer = machine.enrol(&controller).await;
    let words = words::of_key(&machine.spki());
    assert_eq!((&answer.body["status"], &answer.body["words"]), (&json!("quarantined"), &json!(words)));
    let waiting = controller.get("/v1/quarantine").await[0].clone();
    assert_eq!((&waiting["words"], &waiting["serial"]), (&json!(words), &json!("NEW-1")));
    assert_eq!((&waiting["state"], &waiting["site"]), (&json!("pending"), &json!("s1")));
    // Asking again with the same key stays in quarantine; it gets no certificate.
    assert_eq!(machine.enrol(&controller).await.body["status"], "quarantined");
    // Another machine with the same token is refused.
    let thief = Machine::with_token("NEW-2", machine.token.as_deref().unwrap());
    assert!(thief.enrol(&controller).await.refused(403, "token-used").contains("new seed"));
    assert_eq!(controller.refusal("token-used").await["serial"], "NEW-2");

    let approve = |id: u64, node: &str| {
        let body = json!({"site": "s1", "node": node});
        Answer::of(controller.operator(Method::POST, &format!("/v1/quarantine/{id}/approve")).json(&body))
    };
    let id = waiting["id"].as_u64().unwrap();
    approve(id + 1, "n2").await.refused(404, "unknown-quarantine");
    approve(id, "n9").await.refused(404, "unknown-node");
    assert_eq!(approve(id, "n2").await.status, 204);
    let node = controller.member(&machine).await;
    let envelope = Answer::of(node.get(format!("{}/v1/node/assignment", controller.url))).await.body;
    assert!(envelope["payload"].as_str().unwrap().contains("\"node\":\"n2\""));
    let machine = Machine { token: None, ..machine };
    assert_eq!(
        machine.enrol(&controller).await.body["node"],
        "n2",
        "the key is what counts, the token is used up"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_expired_and_refused_tokens() {
    let mut controller = Controller::new();
    controller.apply(PLAN).await;
    Machine::with_token("NEW-1", "0000").enrol(&controller).await.refused(403, "token-unknown");
    let (short, refused) = (controller.token(60).await, controller.token(3_600).await);
    let unwanted = Machine::with_token("NEW-2", &refused);
    assert_eq!(unwanted.enrol(&controller).await.body["status"], "quarantined");
    let id = controller.get("/v1/quarantine").await[0]["id"].clone();
    let refuse = format!("/v1/quarantine/{id}/refuse");
    assert_eq!(Answer::of(controller.operator(Method::POST, &refuse)).await.status, 204);
    unwanted.enrol(&controller).await.refused(403, "enrolment-refused");
    Answer::of(controller.operator(Method::POST, "/v1/quarantine/99/refuse"))
        .await
        .refused(404, "unknown-quarantine");
    controller.restart(&["--clock-offset", "120"]);
    Machine::with_token("NEW-3", &short).enrol(&controller).await.refused(403, "token-expired");
    for code in ["token-unknown", "token-expired", "enrolment-refused"] {
        controller.refusal(code).await;
    }
    let tokens = controller.operator(Method::POST, "/v1/sites/s1/tokens");
    Answer::of(tokens.json(&json!({"ttl_seconds": 1}))).await.refused(400, "bad-ttl");
    let tokens = controller.operator(Method::POST, "/v1/sites/nowhere/tokens");
    Answer::of(tokens.json(&json!({}))).await.refused(404, "unknown-site");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_and_no_private_key_is_readable_in_the_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let token = controller.token(600).await;
    let mode =
        |name: &str| std::fs::metadata(controller.dir().join(name)).unwrap().permissions().mode() & 0o777;
    for name in
        ["ca.key", "signing.key", "tls.key", "operator/client.key", "controller.db", "controller.db-wal"]
    {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in [".", "operator", "repo"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    for name in ["controller.db", "controller.db-wal"] {
        let bytes = std::fs::read(controller.dir().join(name)).unwrap();
        assert!(
            !bytes.windows(token.len()).any(|window| window == token.as_bytes()),
            "{name} holds the token"
        );
    }
    assert!(!controller.log().contains(&token));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_signed_for_its_site() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let request = json!({
        "network": {"version": 2, "ethernets": {"all": {"match": {"name": "e*"}, "dhcp4": true}}},
        "controllers": ["https://10.0.0.1:8443"], "with_token": true, "ttl_seconds": 600
    });
    let ask = |site: &str| controller.operator(Method::POST, &format!("/v1/sites/{site}/seed"));
    let answer = Answer::of(ask("s1").json(&request)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let signed: SignedSeed = serde_json::from_value(answer.body).unwrap();
    let (seed, _) = seed::open(&serde_json::to_vec(&signed).unwrap(), controller.pin()).unwrap();
    assert_eq!(
        (seed.site.as_str(), &seed.controllers[..]),
        ("s1", &["https://10.0.0.1:8443".to_owned()][..])
    );
    let machine = Machine::with_token("NEW-1", &seed.token.unwrap());
    assert_eq!(machine.enrol(&controller).await.body["status"], "quarantined");
    Answer::of(ask("nowhere").json(&json!({}))).await.refused(404, "unknown-site");
    Answer::of(ask("s1").json(&json!({"controllers": ["http://10.0.0.1"]})))
        .await
        .refused(400, "bad-controllers");
    Answer::of(ask("s1").json(&json!({"tokn": true}))).await.refused(400, "malformed");
}

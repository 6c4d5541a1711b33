//! Health, metrics, the OpenAPI document, stopping.

use cairn_protocol::api;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Answer, Controller, Machine, PLAN, operator_command};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_is_in_the_document_and_the_document_holds_together() {
    let controller = Controller::new();
    let anyone = controller.anyone();
    assert_eq!(Answer::of(anyone.get(format!("{}/healthz", controller.url))).await.status, 200);
    let document = Answer::of(anyone.get(format!("{}/openapi.json", controller.url))).await.body;
    let paths = document["paths"].as_object().unwrap();
    for (path, method) in [
        (api::TIME, "get"),
        (api::ENROL, "post"),
        (api::RENEW, "post"),
        (api::ASSIGNMENT, "get"),
        (api::HEARTBEAT, "post"),
        (api::STATUS, "put"),
        (&format!("{}/{{file}}", api::METADATA), "get"),
        (&format!("{}/{{path}}", api::TARGETS), "put"),
        (&format!("{}/{{file}}", api::INDEXES), "put"),
        (&format!("{}/{{prefix}}/{{file}}", api::CHUNKS), "put"),
        ("/v1/watch", "get"),
        ("/v1/sites/{site}/plan", "put"),
    ] {
        assert!(paths[path][method].is_object(), "{method} {path}");
    }
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} twice");
            let tag = operation["tags"][0].as_str().unwrap();
            let open = ["open", "node-open"].contains(&tag);
            assert_eq!(open, operation["security"].is_null(), "{method} {path}");
            assert!(operation["responses"]["default"].is_object());
            let declared = operation["parameters"].as_array().cloned().unwrap_or_default();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                assert!(declared.iter().any(|p| p["name"] == part && p["in"] == "path"), "{path}: {part}");
            }
            // The router answers it: anything but "no such route" and "no such method".
            let url = format!("{}{}", controller.url, path.replace(['{', '}'], ""));
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = Answer::of(anyone.request(method.clone(), url)).await;
            assert!(!["no-such-route", "method-not-allowed"].contains(&answer.code()), "{method} {path}");
            if !open {
                answer.refused(401, "certificate-required");
            }
        }
    }
    assert_eq!(ids.len(), 32, "a new route is counted here");
    references(&document, &document);
}

/// Every `$ref` leads somewhere.
fn references(document: &Value, value: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(to) = map.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(to.strip_prefix('#').unwrap()).is_some(), "{to}");
            }
            map.values().for_each(|value| references(document, value));
        }
        Value::Array(list) => list.iter().for_each(|value| references(document, value)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_happens() {
    let mut controller = Controller::stopped();
    controller.start(&["--metrics-listen", "127.0.0.1:0"]);
    controller.apply(PLAN).await;
    controller.member(&Machine::new("SERIAL-1")).await;
    Machine::new("SERIAL-9").enrol(&controller).await.refused(403, "unknown-serial");
    let url = format!("http://{}/metrics", controller.logged_address("metrics"));
    let answer = Answer::of(controller.anyone().get(url)).await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = answer.body.as_str().unwrap();
    for line in [
        "cairn_controller_refusals_total{code=\"unknown-serial\"} 1",
        "cairn_controller_requests_total{route=\"/v1/enrol\",status=\"403\"} 1",
        "cairn_controller_nodes{state=\"enrolled\"} 1",
        "cairn_controller_sites 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_under_way_is_finished_before_the_end() {
    let mut controller = Controller::new();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    let request = controller
        .operator(reqwest::Method::PUT, "/v1/sites/s1/plan")
        .body(reqwest::Body::wrap_stream(stream));
    let running = tokio::spawn(request.send());
    let (head, tail) = PLAN.split_at(40);
    sender.send(Ok(head.into())).await.unwrap();
    // The channel holds one piece: when a second fits, the first is on its way.
    sender.send(Ok(Vec::new())).await.unwrap();
    sender.send(Ok(Vec::new())).await.unwrap();
    controller.signal(Signal::SIGTERM);
    crate::harness::eventually(async || controller.log().contains("\"stopping\"").then_some(())).await;
    crate::harness::eventually(async || {
        let address = controller.url.strip_prefix("https://").unwrap();
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    sender.send(Ok(tail.into())).await.unwrap();
    drop(sender);
    assert_eq!(running.await.unwrap().unwrap().status(), 200);
    assert!(controller.wait().success());
    assert!(controller.log().contains("\"stopped\""));
    controller.start(&[]);
    assert_eq!(controller.get("/v1/sites").await[0]["site"], "s1");
}

#[test]
fn a_folder_is_made_once_and_bad_names_are_refused() {
    let controller = Controller::stopped();
    let init = |dir: &std::path::Path, domain: &str| {
        let mut command = std::process::Command::new(crate::harness::PROGRAM);
        command.args(["init", "--name", "127.0.0.1", "--trust-domain", domain, "--dir"]).arg(dir);
        let out = command.output().unwrap();
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    let (made, said) = init(&controller.dir(), "cairn.test");
    assert!(!made && said.contains("exists already"), "{said}");
    let (made, said) = init(&controller.dir().join("other"), "spiffe://cairn");
    assert!(!made && said.contains("trust domain"), "{said}");
    let serve = std::process::Command::new(crate::harness::PROGRAM)
        .args(["serve", "--dir", "/nonexistent"])
        .output()
        .unwrap();
    let said = String::from_utf8(serve.stderr).unwrap();
    assert!(said.contains("/nonexistent/controller.json is missing"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_certificate_that_does_not_fit_its_key_is_made_anew() {
    let mut controller = Controller::new();
    let key = controller.dir().join("tls.key");
    let (before, other) = (std::fs::read(&key).unwrap(), Controller::stopped());
    std::fs::copy(other.dir().join("tls.key"), &key).unwrap();
    controller.restart(&[]);
    assert_eq!(controller.get("/v1/sites").await, serde_json::json!([]));
    assert_ne!(std::fs::read(&key).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_cap_wait_for_one_that_ends() {
    let mut controller = Controller::stopped();
    controller.start(&["--max-connections", "8"]);
    let address = controller.url.strip_prefix("https://").unwrap().to_owned();
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let anyone = controller.anyone();
    let request = tokio::spawn(anyone.get(format!("{}/healthz", controller.url)).send());
    // Less than the 15 seconds after which the server itself ends a handshake that does not begin.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!request.is_finished(), "the cap holds");
    idle.pop();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
}

/// Starts a controller that refuses to; what it said.
fn refuses_to_start(controller: &Controller) -> String {
    let before = controller.log().len();
    let out = controller.command(&[]).spawn().unwrap().wait_with_output().unwrap();
    assert!(!out.status.success(), "{out:?}");
    controller.log()[before..].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let mut controller = Controller::new();
    controller.apply(PLAN).await;
    controller.stop();
    let database = controller.dir().join("controller.db");
    let kept = std::fs::read(&database).unwrap();
    for lost in [None, Some(&b""[..])] {
        std::fs::remove_file(&database).unwrap();
        if let Some(bytes) = lost {
            std::fs::write(&database, bytes).unwrap();
        }
        let said = refuses_to_start(&controller);
        assert!(said.contains("controller.db is missing or empty: restore it from backup"), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        let (done, said) = operator_command(&controller, &["--name", "alice", "--revoke"]);
        assert!(!done && said.contains("restore it from backup"), "{said}");
        assert_eq!(std::fs::metadata(&database).is_ok(), lost.is_some(), "nothing was made");
        std::fs::write(&database, &kept).unwrap();
    }
    controller.start(&[]);
    assert_eq!(controller.get("/v1/sites").await[0]["site"], "s1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_folder_has_one_controller() {
    let mut controller = Controller::new();
    let said = refuses_to_start(&controller);
    assert!(said.contains("another cairn-controller runs on this folder"), "{said}");
    // Killed, not stopped: the kernel gives the folder back.
    controller.kill();
    controller.start(&[]);
}

#[test]
fn an_interrupted_init_leaves_nothing_in_the_way() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("c");
    let init = || {
        let mut command = std::process::Command::new(crate::harness::PROGRAM);
        command.args(["init", "--name", "127.0.0.1", "--trust-domain", "cairn.test", "--dir"]).arg(&dir);
        command.output().unwrap()
    };
    // As after a kill in the middle: the folder's place is free, what was made lies beside it.
    let beside = tmp.path().join(".c.init");
    std::fs::create_dir_all(beside.join("repo")).unwrap();
    std::fs::write(beside.join("ca.key"), "half").unwrap();
    std::fs::write(beside.join("controller.db"), "half").unwrap();
    let made = init();
    assert!(made.status.success(), "{made:?}");
    assert!(dir.join("controller.json").exists() && !beside.exists());
    // Somebody who removes its settings is told what the folder is not.
    std::fs::remove_file(dir.join("controller.json")).unwrap();
    let serve =
        std::process::Command::new(crate::harness::PROGRAM).args(["serve", "--dir"]).arg(&dir).output();
    let said = String::from_utf8(serve.unwrap().stderr).unwrap();
    assert!(said.contains("holds no whole controller"), "{said}");
}

#[test]
fn an_init_that_fails_makes_no_folder() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("c");
    let mut command = std::process::Command::new(crate::harness::PROGRAM);
    // A disk that takes 4 KiB files and no larger: the database does not fit.
    command.args(["init", "--name", "127.0.0.1", "--trust-domain", "cairn.test", "--dir"]).arg(&dir);
    let limited = std::process::Command::new("prlimit")
        .arg("--fsize=4096")
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap();
    assert!(!limited.status.success(), "{limited:?}");
    assert!(!dir.exists());
    assert!(command.status().unwrap().success());
}

#[test]
fn a_revocation_of_nobody_is_an_error() {
    let controller = Controller::stopped();
    let (done, said) = operator_command(&controller, &["--name", "nobody", "--revoke"]);
    assert!(!done && said.contains("operator nobody never had a certificate"), "{said}");
    assert!(operator_command(&controller, &["--name", "admin", "--revoke"]).0);
    assert!(operator_command(&controller, &["--name", "admin", "--revoke"]).0, "revoked is revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_key_is_not_replaced_in_silence() {
    let mut controller = Controller::new();
    controller.stop();
    for name in ["tls.key", "tls.crt", "ca.key", "signing.key"] {
        let path = controller.dir().join(name);
        let kept = std::fs::read(&path).unwrap();
        std::fs::write(&path, &kept[..kept.len() / 2]).unwrap();
        let said = refuses_to_start(&controller);
        assert!(said.contains(name) && said.trim().lines().count() == 1, "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), kept[..kept.len() / 2], "{name} was left as it is");
        std::fs::write(&path, &kept).unwrap();
    }
    // Removed by a person, as the message says: made anew.
    std::fs::remove_file(controller.dir().join("tls.key")).unwrap();
    std::fs::remove_file(controller.dir().join("tls.crt")).unwrap();
    controller.start(&[]);
    assert_eq!(controller.get("/v1/sites").await, serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_uploads_of_a_killed_controller_are_removed() {
    let mut controller = Controller::new();
    controller.kill();
    let left = controller.dir().join("repo/incoming/00112233");
    std::fs::write(&left, "half a chunk").unwrap();
    controller.start(&[]);
    assert!(!left.exists());
    assert!(controller.log().contains("unfinished uploads were removed"));
}

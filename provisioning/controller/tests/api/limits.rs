//! Requests that are too long, malformed or cut: a problem each, and the next request is served.

use reqwest::{Body, Method};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Answer, Controller, Machine, PLAN, beat, client_with};

/// `length` bytes without a Content-Length.
fn unannounced(length: usize) -> Body {
    let pieces = (0..length.div_ceil(4096)).map(move |n| {
        let piece = vec![b' '; 4096.min(length - n * 4096)];
        Ok::<_, std::io::Error>(piece)
    });
    Body::wrap_stream(futures_util::stream::iter(pieces))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_bodies_are_refused_announced_or_not() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let url = |path: &str| format!("{}{path}", controller.url);
    let over = |limit: usize| vec![b' '; limit + 1];
    for alpn in [&[b"h2".as_slice()][..], &[b"http/1.1"]] {
        let anyone = client_with(&controller.ca(), None, alpn);
        let enrol = || anyone.post(url("/v1/enrol"));
        Answer::of(enrol().body(over(256 << 10))).await.refused(413, "too-long");
        Answer::of(enrol().body(unannounced((256 << 10) + 1))).await.refused(413, "too-long");
        // A body at its limit is read, and found to be no request.
        Answer::of(enrol().body(vec![b' '; 256 << 10])).await.refused(400, "malformed");
    }
    Answer::of(node.post(url("/v1/node/heartbeat")).body(over(64 << 10))).await.refused(413, "too-long");
    Answer::of(node.put(url("/v1/node/status")).body(unannounced((512 << 10) + 1)))
        .await
        .refused(413, "too-long");
    let plan = controller.operator(Method::PUT, "/v1/sites/s1/plan");
    Answer::of(plan.body(over(4 << 20))).await.refused(413, "too-long");
    let id = "ab".repeat(32);
    let chunk = controller.operator(Method::PUT, &format!("/v1/repo/chunks/abab/{id}.cacnk"));
    Answer::of(chunk.body(over(2 << 20))).await.refused(413, "too-long");
    assert_eq!(Answer::of(node.post(url("/v1/node/heartbeat")).json(&beat(1, None, &[]))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_name_what_is_wrong() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let (anyone, node) = (controller.anyone(), controller.member(&Machine::new("SERIAL-1")).await);
    let url = |path: &str| format!("{}{path}", controller.url);
    let mut enrol = Machine::new("SERIAL-1").request();
    for (key, value) in [
        ("csr", json!("none")),
        ("csr", json!("-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n")),
    ] {
        enrol[key] = value;
        Answer::of(anyone.post(url("/v1/enrol")).json(&enrol)).await.refused(400, "bad-csr");
    }
    enrol["colour"] = json!("red");
    let answer = Answer::of(anyone.post(url("/v1/enrol")).json(&enrol)).await;
    assert!(answer.refused(400, "malformed").contains("colour"));
    for body in ["", "{", "[]", "null", "\u{0}", "{\"serial\": 1}"] {
        Answer::of(anyone.post(url("/v1/enrol")).body(body)).await.refused(400, "malformed");
        Answer::of(node.post(url("/v1/node/heartbeat")).body(body)).await.refused(400, "malformed");
        Answer::of(node.put(url("/v1/node/status")).body(body)).await.refused(400, "malformed");
    }
    let events: Vec<u64> = (1..=33).collect();
    let answer = Answer::of(node.post(url("/v1/node/heartbeat")).json(&beat(1, None, &events))).await;
    assert!(answer.refused(400, "malformed").contains("32 events"));
    for id in ["", &"a".repeat(65), "a\u{202e}b", "a b"] {
        let mut failed = beat(1, None, &[]);
        failed["failed"] = json!({"id": id, "reason": "none"});
        for bad in [failed, beat(1, Some(id), &[])] {
            let answer = Answer::of(node.post(url("/v1/node/heartbeat")).json(&bad)).await;
            assert!(answer.refused(400, "malformed").contains("generation's id"), "{id:?}");
        }
    }
    for path in ["/v1/nodes/S1/n1", "/v1/nodes/s1/N1", "/v1/nodes?site=A", "/v1/quarantine/x/refuse"] {
        let method = if path.contains("refuse") { Method::POST } else { Method::GET };
        let answer = Answer::of(controller.operator(method, path)).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    for (limit, status) in [("0", 400), ("5001", 400), ("-1", 400), ("x", 400), ("1", 200), ("5000", 200)] {
        let path = format!("/v1/nodes/s1/n1/events?limit={limit}");
        assert_eq!(Answer::of(controller.operator(Method::GET, &path)).await.status, status, "{limit}");
    }
    Answer::of(controller.operator(Method::GET, "/v1/nodes/s1/n9")).await.refused(404, "unknown-node");
    Answer::of(controller.operator(Method::GET, "/v1/nodes/s1/n9/events")).await.refused(404, "unknown-node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_not_one_names_its_line() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let answer = controller.put_plan("s1", &PLAN.replace("serial: SERIAL-1", "seriall: SERIAL-1")).await;
    let detail = answer.refused(422, "plan-invalid");
    assert!(detail.contains("seriall") && detail.contains("line 6"), "{detail}");
    controller.put_plan("s2", PLAN).await.refused(422, "plan-invalid");
    controller.put_plan("S", PLAN).await.refused(400, "bad-name");
    let bytes = controller.operator(Method::PUT, "/v1/sites/s1/plan").body(vec![0xff, 0xfe]);
    Answer::of(bytes).await.refused(422, "plan-invalid");
    let other = PLAN.replace("site: s1", "site: s2");
    let answer = controller.put_plan("s2", &other).await;
    assert!(answer.refused(409, "serial-taken").contains("node n1 of site s1"));
    // What was refused changed nothing; the text comes back as it was written.
    assert_eq!(controller.get("/v1/sites").await.as_array().unwrap().len(), 1);
    let answer = Answer::of(controller.operator(Method::GET, "/v1/sites/s1/plan?format=yaml")).await;
    assert_eq!(answer.body, json!(PLAN));
    assert_eq!(controller.get("/v1/sites/s1/plan").await["nodes"]["n1"]["serial"], "SERIAL-1");
    Answer::of(controller.operator(Method::GET, "/v1/sites/s9/plan")).await.refused(404, "unknown-site");
    Answer::of(controller.operator(Method::GET, "/v1/sites/s1/plan?format=xml"))
        .await
        .refused(400, "bad-query");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_tls_do_not_disturb() {
    let controller = Controller::new();
    let address = controller.url.strip_prefix("https://").unwrap().to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Closed, with or without an alert.
    let _ = connection.read_to_end(&mut answer).await;
    drop(tokio::net::TcpStream::connect(&address).await.unwrap());
    controller.refusal("tls").await;
    assert_eq!(controller.get("/v1/sites").await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_long_is_refused() {
    let controller = Controller::new();
    let request = controller.anyone().get(format!("{}/healthz", controller.url));
    let answer = request.header("x-long", "x".repeat(100 << 10)).send().await;
    assert!(answer.map_or(true, |answer| answer.status() == 431));
    assert_eq!(controller.get("/v1/sites").await, json!([]));
}

//! A certificate that is revoked while its holder's request runs ends the request.

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder};
use serde_json::json;
use tokio::sync::mpsc::Sender;

use crate::harness::{Answer, Controller, Machine, PLAN, beat, client, eventually, operator_command};

/// A body that is sent piece by piece; it ends when the sender is dropped.
fn streamed(request: RequestBuilder) -> (RequestBuilder, Sender<Result<Vec<u8>, std::io::Error>>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (request.body(reqwest::Body::wrap_stream(stream)), sender)
}

/// An operator beside the first.
fn alice(controller: &Controller) -> Client {
    let out = controller.dir().join("alice");
    assert!(operator_command(controller, &["--name", "alice", "--out", out.to_str().unwrap()]).0);
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    client(&controller.ca(), Some((&read("client.crt"), &read("client.key"))))
}

fn revoke_alice(controller: &Controller) {
    assert!(operator_command(controller, &["--name", "alice", "--revoke"]).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_released_while_it_sends_stores_nothing() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let url = |path: &str| format!("{}{path}", controller.url);
    let bodies = [
        ("/v1/node/heartbeat", beat(1, None, &[1])),
        ("/v1/node/renew", json!({"csr": Machine::new("").csr()})),
    ];
    let mut running = Vec::new();
    for (path, body) in bodies {
        let bytes = serde_json::to_vec(&body).unwrap();
        let (request, sender) = streamed(node.post(url(path)).header("content-type", "application/json"));
        let (head, tail) = bytes.split_at(20);
        let answer = tokio::spawn(Answer::of(request));
        sender.send(Ok(head.to_vec())).await.unwrap();
        running.push((answer, sender, tail.to_vec()));
    }
    // Answered on the same HTTP/2 connection: what was asked before is being read.
    assert_eq!(Answer::of(node.get(url("/v1/node/assignment"))).await.status, 200);
    assert_eq!(Answer::of(controller.operator(Method::POST, "/v1/nodes/s1/n1/release")).await.status, 200);
    for (answer, sender, tail) in running {
        let _ = sender.send(Ok(tail)).await;
        drop(sender);
        answer.await.unwrap().refused(403, "certificate-revoked");
    }
    let detail = controller.get("/v1/nodes/s1/n1").await;
    assert_eq!((&detail["heartbeats"], &detail["events"]), (&json!(0), &json!([])));
    assert!(
        detail["certificates"].as_array().unwrap().iter().all(|cert| !cert["revoked"].is_null()),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_is_revoked_loses_what_runs() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let alice = alice(&controller);
    let url = |path: &str| format!("{}{path}", controller.url);
    let mut watch = alice.get(url("/v1/watch")).timeout(Duration::from_secs(60)).send().await.unwrap();
    assert!(watch.chunk().await.unwrap().is_some());
    let (request, sender) = streamed(alice.put(url("/v1/sites/s1/plan")));
    let upload = tokio::spawn(Answer::of(request));
    sender.send(Ok(PLAN.as_bytes().to_vec())).await.unwrap();
    assert_eq!(Answer::of(alice.get(url("/v1/sites"))).await.status, 200);
    revoke_alice(&controller);
    // Neither waits for the client to do anything.
    let end = async { while watch.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("the watch ends");
    upload.await.unwrap().refused(403, "certificate-revoked");
    drop(sender);
    eventually(async || {
        (controller.refusal("certificate-revoked").await["count"].as_u64()? >= 2).then_some(())
    })
    .await;
}

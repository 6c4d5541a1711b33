//! Assignments, heartbeats, status, loss and return, reinstall, the watch.

use cairn_protocol::assignment;
use cairn_protocol::generation;
use cairn_protocol::ids::{Name, Sha256Digest};
use cairn_protocol::signed::{ControllerKeys, Envelope};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::harness::{Answer, Controller, Machine, PLAN, beat, eventually};

async fn assignment(controller: &Controller, node: &Client) -> (assignment::Assignment, Envelope) {
    let answer = Answer::of(node.get(format!("{}/v1/node/assignment", controller.url))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let envelope: Envelope = serde_json::from_value(answer.body).unwrap();
    assert_eq!(answer.headers["etag"].to_str().unwrap(), format!("\"{}\"", generation::id_of(&envelope)));
    let keys = std::fs::read(controller.dir().join("keys.json")).unwrap();
    let keys: ControllerKeys = serde_json::from_slice(&keys).unwrap();
    let keys = keys.verify(controller.pin()).unwrap();
    let (site, name) = (Name::new("s1").unwrap(), Name::new("n1").unwrap());
    (assignment::verify(&envelope, &keys, &site, &name, 0).unwrap(), envelope)
}

async fn send(controller: &Controller, node: &Client, beat: &Value) -> Value {
    let answer = Answer::of(node.post(format!("{}/v1/node/heartbeat", controller.url)).json(beat)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_grows_with_what_changes_it_and_only_then() {
    let mut controller = Controller::new();
    assert_eq!(controller.apply(PLAN).await["changed"], json!(["n1", "n2"]));
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let (first, envelope) = assignment(&controller, &node).await;
    assert_eq!((first.sequence, first.bundles.len(), first.reinstall), (1, 0, 0));
    let url = format!("{}/v1/node/assignment", controller.url);
    let conditional = |etag: String| Answer::of(node.get(&url).header("if-none-match", etag));
    assert_eq!(conditional(format!("\"{}\"", generation::id_of(&envelope))).await.status, 304);
    assert_eq!(conditional("\"0000\"".to_owned()).await.status, 200);
    // The same plan, a comment, a restart, a change for another node: nothing for this one.
    assert_eq!(controller.apply(PLAN).await["changed"], json!([]));
    assert_eq!(controller.apply(&format!("# why\n{PLAN}")).await["changed"], json!([]));
    let other = PLAN.replace("n2: {}", "n2: { disks: { system: { match: { path: x } } } }");
    assert_eq!(controller.apply(&other).await["changed"], json!(["n2"]));
    controller.restart(&[]);
    assert_eq!(assignment(&controller, &node).await.1, envelope);
    // A change: the next sequence.
    let changed = PLAN.replace("interval-seconds: 1", "interval-seconds: 2");
    assert_eq!(controller.apply(&changed).await["changed"], json!(["n1", "n2"]));
    let (second, _) = assignment(&controller, &node).await;
    assert_eq!((second.sequence, second.plan.heartbeat.interval_seconds), (2, 2));
    // Dropped by the plan: none; taken back: the sequence has not gone back.
    controller.apply(&PLAN.replace("n1: { serial: SERIAL-1 }", "n3: {}")).await;
    let url = format!("{}/v1/node/assignment", controller.url);
    assert_eq!(Answer::of(node.get(&url)).await.status, 204);
    assert_eq!(send(&controller, &node, &beat(1, None, &[])).await["assignment_etag"], "");
    controller.apply(&changed).await;
    assert_eq!(assignment(&controller, &node).await.0.sequence, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_counts_once_and_its_events_are_stored_once() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let (_, envelope) = assignment(&controller, &node).await;
    let answer = send(&controller, &node, &beat(1, None, &[1, 2])).await;
    assert_eq!(answer["assignment_etag"], generation::id_of(&envelope));
    assert_eq!((&answer["interval_seconds"], &answer["events_stored"]), (&json!(1), &json!(2)));
    // The answer was lost: the same again, and then the next one with the same events and a new one.
    send(&controller, &node, &beat(1, None, &[1, 2])).await;
    send(&controller, &node, &beat(2, None, &[1, 2, 3])).await;
    let detail = controller.get("/v1/nodes/s1/n1").await;
    assert_eq!(detail["heartbeats"], 2);
    let ids = |events: &Value| events.as_array().unwrap().iter().map(|e| e["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&detail["events"]), [1, 2, 3]);
    assert_eq!(ids(&controller.get("/v1/nodes/s1/n1/events?limit=2").await), [2, 3]);
    assert_eq!(detail["events"][0]["code"], "metadata-expired");
    assert_eq!((&detail["state"], &detail["stage"]), (&json!("ready"), &json!("service")));
    // Another boot: its own numbers.
    let mut next = beat(1, None, &[1]);
    next["boot_id"] = json!("boot-2");
    next["events"][0]["boot_id"] = json!("boot-2");
    send(&controller, &node, &next).await;
    let detail = controller.get("/v1/nodes/s1/n1").await;
    assert_eq!((&detail["heartbeats"], detail["events"].as_array().unwrap().len()), (&json!(3), 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_asked_for_until_it_is_there() {
    let controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let status = json!({
        "inventory": {"memory_bytes": 5, "disks": [{"name": "vda", "content": {"kind": "foreign", "what": "lvm2"}}]},
        "agent_version": "0.1.0", "kernel_version": "6.12", "boot_source": "netboot", "addresses": [["eth0", []]],
        "layers": [], "health": [], "stage_seconds": [["devices", 0.5]]
    });
    let body = serde_json::to_vec(&status).unwrap();
    let mut beat = beat(1, None, &[]);
    beat["status_digest"] = json!(Sha256Digest::of(&body).to_string());
    assert_eq!(send(&controller, &node, &beat).await["want_status"], true);
    let url = format!("{}/v1/node/status", controller.url);
    assert_eq!(Answer::of(node.put(url).body(body)).await.status, 204);
    assert_eq!(send(&controller, &node, &beat).await["want_status"], false);
    let detail = controller.get("/v1/nodes/s1/n1").await;
    assert_eq!(detail["status"]["kernel_version"], "6.12");
    assert_eq!(detail["inventory"]["disks"][0]["content"]["what"], "lvm2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reinstall_is_ordered_done_and_remembered() {
    let mut controller = Controller::stopped();
    let boot = tempfile::tempdir().unwrap();
    std::fs::write(boot.path().join("vmlinuz"), b"kernel bytes").unwrap();
    std::fs::write(boot.path().join("cmdline"), "console=ttyS9\n").unwrap();
    let flags = ["--boot-listen", "127.0.0.1:0", "--boot-dir", boot.path().to_str().unwrap()];
    controller.start(&flags);
    let boot_url = format!("http://{}", controller.logged_address("boot service"));
    let plain = controller.anyone();
    let script = async |serial: &str| {
        let url = format!("{boot_url}/boot.ipxe?serial={serial}&uuid=1&mac=2");
        Answer::of(plain.get(url)).await.body.as_str().unwrap().to_owned()
    };
    let boots_disk = async |serial: &str| !script(serial).await.contains("/boot/vmlinuz");

    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let text = script("SERIAL-1").await;
    assert!(text.contains(&format!("{boot_url}/boot/vmlinuz")) && text.contains("console=ttyS9"), "{text}");
    let (_, envelope) = assignment(&controller, &node).await;
    send(&controller, &node, &beat(1, Some(&generation::id_of(&envelope)), &[])).await;
    assert!(boots_disk("SERIAL-1").await, "installed");
    assert!(!boots_disk("SERIAL-2").await && !boots_disk("").await, "not installed");

    let view = Answer::of(controller.operator(Method::POST, "/v1/nodes/s1/n1/reinstall")).await;
    assert_eq!((&view.body["reinstall"], &view.body["reinstall_pending"]), (&json!(1), &json!(true)));
    let (ordered, ordered_envelope) = assignment(&controller, &node).await;
    assert_eq!((ordered.sequence, ordered.reinstall), (2, 1));
    assert!(!boots_disk("SERIAL-1").await, "it is to install anew");
    send(&controller, &node, &beat(2, Some(&generation::id_of(&envelope)), &[])).await;
    assert!(!boots_disk("SERIAL-1").await, "it still runs what it had");
    send(&controller, &node, &beat(3, Some(&generation::id_of(&ordered_envelope)), &[])).await;
    assert!(boots_disk("SERIAL-1").await, "done");
    assert_eq!(controller.get("/v1/nodes/s1/n1").await["reinstall_pending"], false);
    Answer::of(controller.operator(Method::POST, "/v1/nodes/s1/n9/reinstall"))
        .await
        .refused(404, "unknown-node");

    assert_eq!(Answer::of(plain.get(format!("{boot_url}/boot/vmlinuz"))).await.body, json!("kernel bytes"));
    let part = Answer::of(plain.get(format!("{boot_url}/boot/vmlinuz")).header("range", "bytes=7-")).await;
    assert_eq!((part.status, part.body), (206, json!("bytes")));
    for path in ["/boot/cmdline", "/boot/initramfs.img", "/boot/..%2fc%2fca.key", "/v1/sites"] {
        assert_eq!(Answer::of(plain.get(format!("{boot_url}{path}"))).await.status, 404, "{path}");
    }
}

/// Reads the watch until an event satisfies `want`.
async fn watched(stream: &mut reqwest::Response, text: &mut String, want: impl Fn(&Value) -> bool) -> Value {
    loop {
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            if let Some(view) = data.map(|data| serde_json::from_str::<Value>(data).unwrap())
                && want(&view)
            {
                return view;
            }
        }
        let piece = stream.chunk().await.unwrap().expect("the watch goes on");
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_shows_loss_and_return() {
    let mut controller = Controller::new();
    controller.apply(PLAN).await;
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let watch = controller.operator(Method::GET, "/v1/watch");
    let mut stream = watch.timeout(std::time::Duration::from_secs(90)).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    // Every node first.
    watched(&mut stream, &mut text, |view| view["node"] == "n2" && view["heartbeats"] == 0).await;
    send(&controller, &node, &beat(1, None, &[])).await;
    let view = watched(&mut stream, &mut text, |view| view["heartbeats"] == 1).await;
    assert_eq!((&view["state"], &view["lost_since"]), (&json!("ready"), &Value::Null));
    // Three intervals of one second without a word.
    let view = watched(&mut stream, &mut text, |view| !view["lost_since"].is_null()).await;
    assert_eq!(view["node"], "n1");
    assert_eq!(controller.get("/v1/sites").await[0]["lost"], 1);
    send(&controller, &node, &beat(2, None, &[])).await;
    watched(&mut stream, &mut text, |view| view["heartbeats"] == 2 && view["lost_since"].is_null()).await;
    // The stop ends the watch.
    controller.stop();
    eventually(async || stream.chunk().await.ok().flatten().is_none().then_some(())).await;
}

//! What was acknowledged is there after `kill -9`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{Controller, Machine, beat};

/// Nodes that send heartbeats, and serials that can enrol.
const NODES: usize = 4;
const SERIALS: usize = 400;
/// Times that the controller is killed.
const KILLS: u64 = 5;

fn plan(marker: u64) -> String {
    let nodes: String = (0..SERIALS).map(|n| format!("  n{n}: {{ serial: S-{n} }}\n")).collect();
    format!("version: 1\nsite: s1\nheartbeat: {{ interval-seconds: {} }}\nnodes:\n{nodes}", 1 + marker % 3600)
}

/// What the clients were told.
#[derive(Default)]
struct Acknowledged {
    /// The last plan's marker that was stored, and the last that was sent.
    plan: AtomicU64,
    plan_sent: AtomicU64,
    /// Serials that enrolled: all below.
    enrolled: AtomicU64,
    /// The last event of each node that was stored.
    events: [AtomicU64; NODES],
}

async fn ok(request: reqwest::RequestBuilder) -> Option<Value> {
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let text = answer.text().await.ok()?;
    assert!(status.is_success(), "{status} {text}");
    Some(serde_json::from_str(&text).unwrap_or_default())
}

async fn hammer(controller: &Controller, nodes: &[Client], told: &Arc<Acknowledged>, stop: &Arc<AtomicBool>) {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, node) in nodes.iter().cloned().enumerate() {
        let (told, stop, url) = (told.clone(), stop.clone(), format!("{}/v1/node/heartbeat", controller.url));
        tasks.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let next = told.events[n].load(Ordering::SeqCst) + 1;
                if let Some(answer) = ok(node.post(&url).json(&beat(next, None, &[next]))).await {
                    assert_eq!(answer["events_stored"], 1);
                    told.events[n].store(next, Ordering::SeqCst);
                }
            }
        });
    }
    let (enrolling, halt, anyone) = (told.clone(), stop.clone(), controller.anyone());
    let url = format!("{}/v1/enrol", controller.url);
    tasks.spawn(async move {
        while !halt.load(Ordering::SeqCst) {
            let next = enrolling.enrolled.load(Ordering::SeqCst);
            let request = Machine::new(&format!("S-{}", next as usize % SERIALS)).request();
            if ok(anyone.post(&url).json(&request)).await.is_some() {
                enrolling.enrolled.store(next + 1, Ordering::SeqCst);
            }
        }
    });
    let marker = told.plan_sent.load(Ordering::SeqCst);
    while !stop.load(Ordering::SeqCst) {
        let next = told.plan_sent.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(next < marker + 3000);
        let put = controller.operator(reqwest::Method::PUT, "/v1/sites/s1/plan").body(plan(next));
        if ok(put).await.is_some() {
            told.plan.store(next, Ordering::SeqCst);
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let mut controller = Controller::new();
    controller.apply(&plan(0)).await;
    let told = Arc::new(Acknowledged::default());
    let mut nodes = Vec::new();
    for n in 0..NODES {
        nodes.push(controller.member(&Machine::new(&format!("S-{n}"))).await);
    }
    told.enrolled.store(NODES as u64, Ordering::SeqCst);
    for round in 0..KILLS {
        let stop = Arc::new(AtomicBool::new(false));
        let killer = {
            let (stop, pid) = (stop.clone(), nix::unistd::Pid::from_raw(controller.pid()));
            // Some moment in the middle of the work, another one each round.
            let after = Duration::from_millis(150 + round * 173 % 400);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                stop.store(true, Ordering::SeqCst);
            })
        };
        hammer(&controller, &nodes, &told, &stop).await;
        killer.await.unwrap();
        controller.kill();
        controller.start(&[]);

        for (n, last) in told.events.iter().enumerate() {
            let stored = controller.get(&format!("/v1/nodes/s1/n{n}/events?limit=5000")).await;
            let ids: Vec<u64> =
                stored.as_array().unwrap().iter().map(|e| e["id"].as_u64().unwrap()).collect();
            let last = last.load(Ordering::SeqCst);
            let expected: Vec<u64> = (1..=ids.len() as u64).collect();
            assert_eq!(ids, expected, "each once, none missing");
            assert!(ids.len() as u64 >= last, "node {n}: {} stored, {last} acknowledged", ids.len());
        }
        let all = controller.get("/v1/nodes").await;
        let enrolled =
            all.as_array().unwrap().iter().filter(|node| !node["enrolled"].is_null()).count() as u64;
        let acknowledged = told.enrolled.load(Ordering::SeqCst).min(SERIALS as u64);
        assert!(enrolled >= acknowledged, "{enrolled} enrolled, {acknowledged} acknowledged");
        let now =
            controller.get("/v1/sites/s1/plan").await["heartbeat"]["interval-seconds"].as_u64().unwrap() - 1;
        let (acknowledged, sent) = (told.plan.load(Ordering::SeqCst), told.plan_sent.load(Ordering::SeqCst));
        assert!((acknowledged..=sent).contains(&now), "plan {now}: {acknowledged} acknowledged, {sent} sent");
        told.plan.store(now, Ordering::SeqCst);
        // Plan and assignment are stored together.
        let detail = controller.get("/v1/nodes/s1/n0").await;
        assert_eq!(detail["assignment"]["plan"]["heartbeat"]["interval-seconds"], json!(now + 1));
    }
    let total: u64 = told.events.iter().map(|last| last.load(Ordering::SeqCst)).sum();
    assert!(total > 0 && told.plan.load(Ordering::SeqCst) > 0, "there was work to lose");
    assert!(controller.log().matches("\"ready\"").count() as u64 == KILLS + 1);
}

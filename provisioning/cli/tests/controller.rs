//! Against a real controller.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::BufRead as _;
use std::process::Stdio;

use cairn_protocol::api;
use cairn_protocol::enrol::EnrolRequest;
use cairn_protocol::inventory::{Disk, DiskContent, Inventory, Machine};
use common::{Bench, PLAN};

/// Asks to enrol as a machine with one disk; the controller's JSON answer.
fn enrol(bench: &Bench, serial: &str, token: Option<&str>, content: DiskContent) -> serde_json::Value {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let disk = Disk {
        name: "vda".to_owned(),
        transport: "virtio".to_owned(),
        size_bytes: 16 << 30,
        content,
        ..Disk::default()
    };
    let machine = Machine { serial: serial.to_owned(), ..Machine::default() };
    let inventory = Inventory { machine, disks: vec![disk], ..Inventory::default() };
    let request = EnrolRequest { csr, serial: serial.to_owned(), token: token.map(str::to_owned), inventory };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority =
        reqwest::Certificate::from_pem(&std::fs::read(bench.path("ctl/operator/ca.crt")).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
        let request = client
            .post(format!("{}{}", bench.url, api::ENROL))
            .header("content-type", "application/json")
            .body(serde_json::to_string(&request).unwrap());
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    })
}

#[test]
fn a_release_is_published_and_a_site_gets_it() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    let ran = bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    assert!(ran.err.contains("os/base/1.0.0/manifest.json"), "{}", ran.err);
    bench.repository();
    bench.bundle("1.0.0");
    bench.run(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]).ok();
    let sent = bench.json(&["publish", "--repo", "R"]);
    assert!(sent["chunks"].as_u64().unwrap() > 3, "{sent}");
    assert_eq!((sent["indexes"].as_u64(), sent["manifests"].as_u64()), (Some(1), Some(1)));
    let again = bench.json(&["publish", "--repo", "R"]);
    assert_eq!((again["chunks"].as_u64(), again["manifests"].as_u64()), (Some(0), Some(0)));

    assert_eq!(bench.json(&["site", "list"])[0]["nodes"], 2);
    assert_eq!(bench.json(&["site", "show", "s1"])["nodes"]["n1"]["serial"], "A-1");
    assert_eq!(bench.run(&["site", "show", "s1"]).ok().out.trim_end(), PLAN.trim_end());
    let node = bench.json(&["node", "show", "s1", "n1"]);
    assert_eq!(node["assignment"]["bundles"][0]["target"], "os/base/1.0.0/manifest.json");
    let list = bench.run(&["node", "list"]).ok().out;
    assert!(list.starts_with("SITE") && list.contains("expected"), "{list}");
    assert_eq!(bench.json(&["node", "events", "s1", "n1"]), serde_json::json!([]));
}

#[test]
fn what_was_damaged_at_the_controller_is_sent_again() {
    let bench = Bench::new();
    bench.repository();
    bench.bundle("1.0.0");
    bench.run(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]).ok();
    bench.run(&["publish", "--repo", "R"]).ok();
    let first = |folder: &str| {
        let mut at = bench.path("ctl/repo").join(folder);
        while at.is_dir() {
            at = std::fs::read_dir(&at).unwrap().next().unwrap().unwrap().path();
        }
        at
    };
    for folder in ["chunks.castr", "indexes", "targets"] {
        std::fs::write(first(folder), b"").unwrap();
    }
    let sent = bench.json(&["publish", "--repo", "R"]);
    let counts = ["chunks", "indexes", "manifests"].map(|what| sent[what].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1], "{sent}");
}

#[test]
fn the_controller_that_signed_since_is_caught_up_with() {
    let bench = Bench::new();
    bench.repository();
    // As the controller does with its online keys: a copy signs, and what it signed is visible.
    assert!(
        std::process::Command::new("cp")
            .args(["-r", "R", "copy"])
            .current_dir(bench.dir.path())
            .status()
            .unwrap()
            .success()
    );
    // A new snapshot too: the number that the repository's next one would have, over other contents.
    bench.run(&["repo", "commit", "--keys", "K", "--repo", "copy"]).ok();
    for _ in 0..3 {
        bench.run(&["repo", "refresh", "--keys", "K", "--repo", "copy"]).ok();
    }
    bench.run(&["publish", "--repo", "copy"]).ok();
    bench.bundle("1.0.0");
    bench.run(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]).ok();
    let ran = bench.run(&["publish", "--repo", "R"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("--keys"), "{}", ran.err);
    assert_eq!(bench.json(&["publish", "--repo", "R", "--keys", "K"])["timestamp"], 6);
    bench.run(&["repo", "check", "--repo", "R"]).ok();
}

#[test]
fn metadata_of_another_repository_is_refused() {
    let bench = Bench::new();
    bench.repository();
    bench.run(&["publish", "--repo", "R"]).ok();
    bench.run(&["keys", "init", "--dir", "K2"]).ok();
    bench.run(&["repo", "init", "--keys", "K2", "--repo", "R2"]).ok();
    let ran = bench.run(&["publish", "--repo", "R2", "--keys", "K2"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("refused"), "{}", ran.err);
}

#[test]
fn a_preview_says_what_would_be_lost() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    let answer = enrol(&bench, "A-1", None, DiskContent::Foreign { what: "gpt: ext4".to_owned() });
    assert_eq!(answer["status"], "enrolled", "{answer}");
    let rows = bench.json(&["plan", "preview", "--site", "s1"]);
    assert_eq!((&rows[0]["action"], &rows[0]["code"]), (&"refuse".into(), &"disk-foreign".into()), "{rows}");
    assert_eq!(rows[1]["action"], "unknown");
    bench.write("wipe.yaml", PLAN.replace("system: {", "system: { wipe: true,"));
    let text = bench.run(&["plan", "preview", "wipe.yaml"]).ok().out;
    assert!(text.contains("WIPE") && text.contains("gpt: ext4"), "{text}");
}

#[test]
fn a_waiting_key_is_approved_by_its_words() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    let token = bench.run(&["site", "token", "s1", "--ttl", "600"]).ok().out;
    let answer = enrol(&bench, "unlisted", Some(token.trim()), DiskContent::Empty);
    assert_eq!(answer["status"], "quarantined", "{answer}");
    let waiting = bench.json(&["node", "quarantine"]);
    assert_eq!(waiting[0]["words"], answer["words"]);
    let id = waiting[0]["id"].to_string();
    let ran = bench.run(&["node", "approve", &id, "s1", "n2", "--words", "lusab-babad-gutih-tugad"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("nothing was approved"), "{}", ran.err);
    let words = answer["words"].as_str().unwrap();
    bench.run(&["node", "approve", &id, "s1", "n2", "--words", words]).ok();
    assert_eq!(bench.json(&["node", "quarantine"])[0]["state"], "approved");

    let refused = enrol(&bench, "nobody", None, DiskContent::Empty);
    assert_eq!(refused["code"], "unknown-serial", "{refused}");
    let list = bench.run(&["node", "refusals"]).ok().out;
    assert!(list.contains("unknown-serial") && list.contains("nobody"), "{list}");
}

#[test]
fn refusals_and_silence_have_their_codes() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    for (args, code, words) in [
        (&["node", "show", "s1", "nobody"][..], 3, "unknown-node"),
        (&["site", "show", "nowhere"], 3, "unknown-site"),
        (&["site", "token", "nowhere"], 3, "unknown-site"),
        (&["node", "approve", "77", "s1", "n1"], 3, "unknown-quarantine"),
        (&["node", "reinstall", "s1", "n1"], 2, "--yes"),
        (&["--controller", "https://127.0.0.1:1", "node", "list"], 4, "cairn-controller serve"),
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
    bench.run(&["node", "reinstall", "s1", "n1", "--yes"]).ok();
    bench.run(&["node", "release", "s1", "n1"]).ok();
    // Another controller's operator is told apart from a dead line.
    let other = Bench::new();
    let ran = bench.run(&["--credentials", other.path("ctl/operator").to_str().unwrap(), "node", "list"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("another controller"), "{}", ran.err);
}

#[test]
fn a_seed_follows_back_to_the_pin() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    bench.write(
        "net.yaml",
        "network:\n  version: 2\n  ethernets:\n    all:\n      match: { name: \"*\" }\n      dhcp4: true\n",
    );
    bench
        .run(&[
            "site",
            "seed",
            "s1",
            "--network",
            "net.yaml",
            "--with-token",
            "--ttl",
            "600",
            "--out",
            "seed.json",
        ])
        .ok();
    let pin = std::fs::read_to_string(bench.path("ctl/ca.pin")).unwrap().trim().parse().unwrap();
    let (seed, _) =
        cairn_protocol::seed::open(&std::fs::read(bench.path("seed.json")).unwrap(), pin).unwrap();
    assert_eq!(seed.site.as_str(), "s1");
    assert!(seed.token.is_some() && seed.network.is_some());
    bench.write("bad.yaml", "network:\n  version: 2\n  ethernet: {}\n");
    let ran = bench.run(&["site", "seed", "s1", "--network", "bad.yaml", "--out", "x.json"]);
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("line 3"), "{}", ran.err);
}

#[test]
fn an_image_gets_what_it_has_to_trust() {
    let bench = Bench::new();
    bench.repository();
    let export = ["trust", "export", "--repo", "R", "--image-version", "1.2.3", "--build-time", "1700000000"];
    bench.run(&[&export[..], &["--keys", "K", "--out", "T"]].concat()).ok();
    let settings =
        cairn_protocol::settings::parse(&std::fs::read(bench.path("T/image.json")).unwrap()).unwrap();
    assert_eq!(settings.trust_domain, "cairn.test");
    assert_eq!(settings.controllers, std::slice::from_ref(&bench.url));
    assert_eq!((settings.image_version.as_str(), settings.build_time), ("1.2.3", 1_700_000_000));
    let read = |name: &str| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("T/ca.pin"), read("ctl/ca.pin"));
    assert_eq!(read("T/root.json"), read("R/metadata/1.root.json"));
    bench.run(&["keys", "init", "--dir", "K2"]).ok();
    let ran = bench.run(&[&export[..], &["--keys", "K2", "--out", "T2"]].concat());
    assert_eq!(ran.code, 5);
    assert!(ran.err.contains("another repository"), "{}", ran.err);
}

#[test]
fn watching_begins_with_what_is() {
    let bench = Bench::new();
    bench.write("plan.yaml", PLAN);
    bench.run(&["site", "plan", "apply", "plan.yaml"]).ok();
    assert!(bench.run(&["watch", "--once"]).ok().out.contains("n2"));
    let mut watch = bench.command(&["watch", "--output", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["node"], "n1");
    assert_eq!(next()["node"], "n2");
    enrol(&bench, "A-1", None, DiskContent::Empty);
    let change = next();
    assert_eq!(change["node"], "n1");
    assert!(change["enrolled"].is_u64(), "{change}");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

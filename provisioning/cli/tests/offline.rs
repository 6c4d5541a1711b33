//! What needs no controller: help, exit codes, keys, repositories, bundles.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Bench, PLAN};

#[test]
fn the_help_is_what_a_person_has_read() {
    let bench = Bench::offline();
    let help = bench.run(&["--help"]).ok().out;
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&golden, &help).unwrap();
    }
    assert_eq!(help, std::fs::read_to_string(golden).unwrap(), "run with CAIRN_BLESS=1 to accept");
    for command in ["keys", "repo", "bundle", "publish", "trust", "site", "node", "plan", "watch"] {
        assert!(help.contains(&format!("  {command} ")), "{command}");
        bench.run(&[command, "--help"]).ok();
    }
}

#[test]
fn shells_get_completions() {
    let bench = Bench::offline();
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        assert!(bench.run(&["completions", shell]).ok().out.contains(word), "{shell}");
    }
}

#[test]
fn a_completion_script_that_cannot_be_written_is_an_error_and_no_panic() {
    let bench = Bench::offline();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = bench.command(&["completions", "bash"]).stdout(full).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.starts_with("cairnctl: cannot write to standard output") && said.lines().count() == 1,
        "{said}"
    );
    // A reader that went away before the first byte.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = bench.command(&["completions", "zsh"]).stdout(writer).output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(0), 0));
}

#[test]
fn wrong_usage_is_json_where_json_is_asked_for() {
    let bench = Bench::offline();
    for args in [
        &["--output", "json", "nonsense"][..],
        &["--output=json", "node", "list", "--nonsense"],
        &["node", "events", "s1", "n1", "--limit", "nonsense", "--output", "json"],
        &["node", "list", "--output", "json"],
    ] {
        let ran = bench.run(args);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (2, "", 1), "{args:?} {}", ran.err);
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((&error["error"]["exit_code"], &error["error"]["code"]), (&2.into(), &"usage".into()));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("nonsense") || message.contains("CAIRN_CREDENTIALS"), "{message}");
    }
    bench.run(&["--output", "json", "--help"]).ok();
}

#[test]
fn exit_codes_and_what_to_do_next() {
    let bench = Bench::offline();
    bench.write("bad.yaml", PLAN.replace("serial", "seriall"));
    bench.write("bad.toml", "format = 1\nmirror = \"x\"\n");
    std::fs::create_dir(bench.path("empty")).unwrap();
    for (args, code, words) in [
        (&["nonsense"][..], 2, "nonsense"),
        (&["node", "list"], 2, "CAIRN_CREDENTIALS"),
        (&["--credentials", "empty", "node", "list"], 2, "CAIRN_CONTROLLER"),
        (&["--credentials", "empty", "--controller", "http://x", "node", "list"], 2, "https://HOST:8443"),
        (&["--credentials", "empty", "--controller", "https://x", "node", "list"], 5, "ca.crt"),
        (&["plan", "check", "absent.yaml"], 5, "there is no such file"),
        (&["plan", "check", "bad.yaml"], 5, "line 6"),
        (&["bundle", "build", "bad.toml", "--out", "B"], 5, "line 2"),
        (&["keys", "init", "--dir", "empty"], 1, "never overwritten"),
        (&["keys", "list", "--dir", "empty"], 5, "cairnctl keys init"),
        (&["repo", "status", "--repo", "empty"], 5, "cairnctl repo init"),
        (&["repo", "init", "--keys", "empty", "--repo", "R"], 5, "0 root keys, 3 are needed"),
        (&["repo", "init", "--keys", "empty", "--repo", "R", "--timestamp-days", "0"], 2, "1..=3650"),
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
    let ran = bench.run(&["--output", "json", "plan", "check", "bad.yaml"]);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["error"]["exit_code"], 5);
    assert_eq!(error["error"]["code"], "invalid-input");
}

#[test]
fn a_valid_plan_is_said_to_be_one() {
    let bench = Bench::offline();
    bench.write("plan.yaml", PLAN);
    assert_eq!(bench.json(&["plan", "check", "plan.yaml"])["nodes"], 2);
}

#[test]
fn keys_are_readable_by_their_owner_alone() {
    let bench = Bench::offline();
    let ran = bench.run(&["keys", "init", "--dir", "K"]).ok();
    assert!(ran.err.contains("machine without a network"), "{}", ran.err);
    assert_eq!(std::fs::metadata(bench.path("K")).unwrap().permissions().mode() & 0o777, 0o700);
    let keys: Vec<_> = std::fs::read_dir(bench.path("K")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(keys.len(), 5 + 3 + 4 * 3 + 2);
    for key in &keys {
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    assert_eq!(bench.json(&["keys", "list", "--dir", "K"]).as_array().unwrap().len(), keys.len());
    std::fs::set_permissions(bench.path("K/root-1.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = bench.run(&["repo", "init", "--keys", "K", "--repo", "R"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("chmod 600"), "{}", ran.err);
}

#[test]
fn a_bundle_becomes_a_signed_target_once() {
    let bench = Bench::offline();
    bench.repository();
    bench.bundle("1.0.0");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.path("1.0.0/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["components"][0]["layer"]["verity"]["data_blocks"], 400);
    let add = ["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"];
    assert_eq!(bench.json(&add)["signed"], true);
    assert_eq!(bench.json(&add)["signed"], true, "adding it again changes nothing");
    assert_eq!(
        bench.json(&["bundle", "list", "--repo", "R"]),
        serde_json::json!(["os/base/1.0.0/manifest.json"])
    );
    bench.run(&["repo", "check", "--repo", "R"]).ok();

    // The same version with other contents.
    let path = bench.path("1.0.0/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"base\"", "\"bass\"").replacen("\"bass\"", "\"base\"", 1)).unwrap();
    let ran = bench.run(&add);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a version never changes"), "{}", ran.err);
}

#[test]
fn a_damaged_build_is_not_added() {
    let bench = Bench::offline();
    bench.repository();
    bench.bundle("1.0.0");
    let index = std::fs::read_dir(bench.path("1.0.0/indexes")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&index).unwrap();
    let last = bytes.len() - 50;
    bytes[last] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    let ran = bench.run(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("build the bundle again"), "{}", ran.err);
    assert_eq!(bench.json(&["bundle", "list", "--repo", "R"]), serde_json::json!([]));
}

/// Every file below a folder with its bytes.
fn everything(dir: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let (mut open, mut files) = (vec![dir.to_owned()], std::collections::BTreeMap::new());
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if !entry.ends_with(".lock") {
                files.insert(entry.clone(), std::fs::read(&entry).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_bundle_with_a_damaged_chunk_changes_nothing() {
    let bench = Bench::offline();
    bench.repository();
    bench.bundle("1.0.0");
    let chunks: Vec<_> = everything(&bench.path("1.0.0/chunks.castr")).into_iter().collect();
    let before = everything(&bench.path("R"));
    let add = ["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"];
    let (last, whole) = &chunks[chunks.len() - 1];
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bad in [&b""[..], &whole[..whole.len() - 1], &flipped, &chunks[0].1] {
        std::fs::write(last, bad).unwrap();
        let ran = bench.run(&add);
        assert_eq!(ran.code, 5, "{}", ran.err);
        assert!(ran.err.contains(last.file_name().unwrap().to_str().unwrap()), "{}", ran.err);
        assert!(ran.err.contains("build the bundle again"), "{}", ran.err);
        assert_eq!(everything(&bench.path("R")), before);
    }
    // Without its keys too.
    let ran = bench.run(&["bundle", "add", "1.0.0", "--keys", "nowhere", "--repo", "R"]);
    assert!(ran.code != 0 && everything(&bench.path("R")) == before, "{}", ran.err);
    // Built again into the same folder, the damaged chunk is packed anew.
    bench.bundle("1.0.0");
    assert_eq!(bench.json(&add)["signed"], true);
    // One that was damaged in the repository is replaced by the next bundle that has it.
    let place =
        bench.path("R/chunks.castr").join(last.strip_prefix(bench.path("1.0.0/chunks.castr")).unwrap());
    std::fs::write(&place, b"").unwrap();
    bench.bundle("1.0.1");
    bench.run(&["bundle", "add", "1.0.1", "--keys", "K", "--repo", "R"]).ok();
    assert_eq!(&std::fs::read(&place).unwrap(), whole);
}

#[test]
fn a_damaged_repository_names_its_file() {
    let bench = Bench::offline();
    bench.repository();
    bench.bundle("1.0.0");
    bench.run(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]).ok();
    let status = ["repo", "status", "--repo", "R"];
    let text = bench.run(&status).ok().out;
    assert!(text.contains("\n1 bundle published\n") && text.contains("timestamp good until 20"), "{text}");
    for name in ["timestamp.json", "2.snapshot.json", "1.targets.json", "2.os.json", "1.root.json"] {
        let path = bench.path("R/metadata").join(name);
        let kept = std::fs::read(&path).unwrap();
        for bad in [None, Some(&b""[..]), Some(&kept[..kept.len() / 2])] {
            std::fs::remove_file(&path).unwrap();
            if let Some(bytes) = bad {
                std::fs::write(&path, bytes).unwrap();
            }
            for args in [
                &status[..],
                &["bundle", "list", "--repo", "R"],
                &["repo", "refresh", "--keys", "K", "--repo", "R"],
            ] {
                let ran = bench.run(args);
                assert_eq!(ran.code, 5, "{name} {args:?}: {}{}", ran.out, ran.err);
                assert!(ran.err.contains(&format!("R/metadata/{name}")) && ran.out.is_empty(), "{}", ran.err);
            }
            std::fs::write(&path, &kept).unwrap();
        }
    }
    bench.run(&status).ok();
}

#[test]
fn holders_sign_one_by_one() {
    let bench = Bench::offline();
    bench.repository();
    bench.bundle("1.0.0");
    std::fs::create_dir(bench.path("mine")).unwrap();
    std::fs::rename(bench.path("K/os-2.pem"), bench.path("mine/os-2.pem")).unwrap();
    std::fs::rename(bench.path("K/os-3.pem"), bench.path("mine/os-3.pem")).unwrap();
    let added = bench.json(&["bundle", "add", "1.0.0", "--keys", "K", "--repo", "R"]);
    assert_eq!(added["signed"], false);
    let commit = ["repo", "commit", "--keys", "K", "--repo", "R"];
    let ran = bench.run(&commit);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("os 2 has 1 of the 2"), "{}", ran.err);
    let wrong = bench.run(&["repo", "sign", "--key", "K/images-1.pem", "--repo", "R"]);
    assert_eq!(wrong.code, 1, "{}", wrong.err);
    bench.run(&["repo", "sign", "--key", "mine/os-3.pem", "--repo", "R"]).ok();
    assert_eq!(bench.json(&["repo", "status", "--repo", "R"])["staged"][0]["complete"], true);
    bench.run(&commit).ok();
    assert_eq!(bench.json(&["repo", "status", "--repo", "R"])["targets"][0], "os/base/1.0.0/manifest.json");
}

#[test]
fn a_root_is_rotated() {
    let bench = Bench::offline();
    bench.repository();
    bench.run(&["keys", "init", "--dir", "K2"]).ok();
    bench.run(&["repo", "rotate-root", "--keys", "K", "--new-keys", "K2", "--repo", "R"]).ok();
    bench.run(&["repo", "check", "--repo", "R"]).ok();
    let ran = bench.run(&["repo", "refresh", "--keys", "K", "--repo", "R"]);
    assert_eq!(ran.code, 1, "the old timestamp key signs no more: {}", ran.err);
    bench.run(&["repo", "refresh", "--keys", "K2", "--repo", "R"]).ok();
}

#[test]
fn metadata_lives_as_long_as_it_was_told_to() {
    let bench = Bench::offline();
    bench.run(&["keys", "init", "--dir", "K"]).ok();
    let init = ["repo", "init", "--keys", "K", "--repo", "R", "--timestamp-days", "3", "--now", "1700000000"];
    bench.run(&init).ok();
    assert_eq!(
        bench.json(&["repo", "status", "--repo", "R"])["timestamp_expires"],
        1_700_000_000 + 3 * 86_400
    );
    let ran = bench.run(&["repo", "check", "--repo", "R", "--now", "1700300000"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("expired"), "{}", ran.err);
}

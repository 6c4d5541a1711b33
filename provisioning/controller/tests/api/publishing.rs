//! Releases: uploaded piece by piece, visible whole or not at all, fetched in parts.

use cairn_bundle::tuf::Date;
use cairn_protocol::ids::Sha256Digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Controller, Machine, PLAN, eventually};
use crate::publisher::{Publisher, key};

fn bundles(assignment: &Answer) -> Value {
    let payload: Value = serde_json::from_str(assignment.body["payload"].as_str().unwrap()).unwrap();
    payload["bundles"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_uploaded_assigned_and_fetched() {
    let mut controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    let plan = PLAN.replace("disks:", "bundles: { images/test: 1.0.0 }\ndisks:");
    assert_eq!(controller.apply(&plan).await["missing"], json!(["images/test/1.0.0/manifest.json"]));
    let node = controller.member(&Machine::new("SERIAL-1")).await;
    let url = |controller: &Controller, path: &str| format!("{}{path}", controller.url);
    let assigned = async |controller: &Controller| {
        bundles(&Answer::of(node.get(url(controller, "/v1/node/assignment"))).await)
    };
    assert_eq!(assigned(&controller).await, json!([]), "not published yet: nothing to install");

    // What is missing is asked for first.
    let ids: Vec<String> = publisher
        .files("chunks.castr")
        .iter()
        .map(|file| file.rsplit('/').next().unwrap().strip_suffix(".cacnk").unwrap().to_owned())
        .collect();
    let missing =
        async || Answer::of(controller.operator(Method::POST, "/v1/repo/missing").json(&ids)).await.body;
    assert_eq!(missing().await, json!(ids));
    // Metadata before its content is refused, and stays refused until all of it is there.
    let answer = publisher.upload_metadata(&controller).await;
    assert!(
        answer.refused(422, "incomplete").contains("the manifest of images/test/1.0.0"),
        "{}",
        answer.body
    );
    publisher.upload(&controller, "targets", "targets").await;
    let answer = publisher.put(&controller, "metadata", "metadata", "timestamp.json").await;
    assert!(answer.refused(422, "incomplete").contains("index"), "{}", answer.body);
    publisher.upload(&controller, "indexes", "indexes").await;
    let answer = publisher.put(&controller, "metadata", "metadata", "timestamp.json").await;
    assert!(answer.refused(422, "incomplete").contains("chunk"), "{}", answer.body);
    let timestamp =
        |controller: &Controller| controller.operator(Method::GET, "/v1/repo/metadata/timestamp.json");
    Answer::of(timestamp(&controller)).await.refused(404, "no-such-file");
    assert_eq!(assigned(&controller).await, json!([]));
    publisher.upload_content(&controller).await;
    assert_eq!(missing().await, json!([]));
    let answer = publisher.put(&controller, "metadata", "metadata", "timestamp.json").await;
    assert_eq!(answer.status, 201, "{}", answer.body);

    // Visible: assigned with the manifest's digest and length.
    let target = publisher.files("targets").pop().unwrap();
    let manifest = std::fs::read(publisher.dir().join("targets").join(&target)).unwrap();
    let expected = json!([{
        "target": "images/test/1.0.0/manifest.json", "sha256": Sha256Digest::of(&manifest).to_string(),
        "length": manifest.len()
    }]);
    assert_eq!(assigned(&controller).await, expected);
    assert_eq!(controller.get("/v1/nodes/s1/n1").await["missing"], json!([]));
    // The same again changes nothing.
    assert_eq!(publisher.upload_metadata(&controller).await.status, 204);
    controller.restart(&[]);
    assert_eq!(assigned(&controller).await, expected);

    // A node fetches all of it, byte for byte.
    for (folder, route) in
        [("metadata", "metadata"), ("targets", "targets"), ("indexes", "indexes"), ("chunks.castr", "chunks")]
    {
        // A version that was followed by another before anything was published is in no snapshot.
        let superseded = ["1.images.json", "1.snapshot.json"];
        for file in publisher.files(folder).into_iter().filter(|file| !superseded.contains(&file.as_str())) {
            let answer =
                node.get(url(&controller, &format!("/v1/repo/{route}/{file}"))).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{file}");
            let bytes = std::fs::read(publisher.dir().join(folder).join(&file)).unwrap();
            assert_eq!(answer.bytes().await.unwrap(), bytes, "{file}");
        }
    }
    // A plan that runs ahead of its release leaves the node what it has.
    let ahead = controller.apply(&plan.replace("1.0.0", "2.0.0")).await;
    assert_eq!(ahead["missing"], json!(["images/test/2.0.0/manifest.json"]));
    assert_eq!(assigned(&controller).await, expected);
    publisher.add("2.0.0");
    publisher.upload_content(&controller).await;
    assert_eq!(publisher.upload_metadata(&controller).await.status, 201);
    assert_eq!(assigned(&controller).await[0]["target"], "images/test/2.0.0/manifest.json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_in_parts_and_only_when_they_changed() {
    let controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    publisher.upload_content(&controller).await;
    assert_eq!(publisher.upload_metadata(&controller).await.status, 201);
    let file = publisher.files("chunks.castr").remove(0);
    let bytes = std::fs::read(publisher.dir().join("chunks.castr").join(&file)).unwrap();
    let path = format!("/v1/repo/chunks/{file}");
    let get = |name: &'static str, value: String| controller.operator(Method::GET, &path).header(name, value);
    let all = controller.operator(Method::GET, &path).send().await.unwrap();
    let etag = all.headers()["etag"].to_str().unwrap().to_owned();
    assert!(all.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let part = get("range", "bytes=10-19".to_owned()).send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"].to_str().unwrap(), format!("bytes 10-19/{}", bytes.len()));
    assert_eq!(part.bytes().await.unwrap(), bytes[10..20]);
    let tail = get("range", format!("bytes={}-", bytes.len() - 5)).send().await.unwrap();
    assert_eq!(tail.bytes().await.unwrap(), bytes[bytes.len() - 5..]);
    let beyond = Answer::of(get("range", format!("bytes={}-", bytes.len()))).await;
    beyond.refused(416, "range");
    let resumed = get("range", "bytes=10-".to_owned()).header("if-range", &etag).send().await.unwrap();
    assert_eq!(resumed.status(), 206);
    let changed = get("range", "bytes=10-".to_owned()).header("if-range", "\"other\"").send().await.unwrap();
    assert_eq!((changed.status().as_u16(), changed.bytes().await.unwrap().len()), (200, bytes.len()));
    assert_eq!(get("if-none-match", etag).send().await.unwrap().status(), 304);
    let head = controller.operator(Method::HEAD, &path).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()),
        (200, bytes.len().to_string().as_str())
    );
    let timestamp =
        controller.operator(Method::GET, "/v1/repo/metadata/timestamp.json").send().await.unwrap();
    assert_eq!(timestamp.headers()["cache-control"], "no-cache");
    for bad in
        ["/v1/repo/chunks/0000/x.cacnk", "/v1/repo/metadata/..%2f..%2fca.key", "/v1/repo/targets/%2e%2e/x"]
    {
        let status = Answer::of(controller.operator(Method::GET, bad)).await.status;
        assert!([400, 404].contains(&status), "{bad}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_it_says_is_not_taken() {
    let controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    for (folder, route) in [("chunks.castr", "chunks"), ("indexes", "indexes"), ("targets", "targets")] {
        let file = publisher.files(folder).remove(0);
        let mut bytes = std::fs::read(publisher.dir().join(folder).join(&file)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let path = format!("/v1/repo/{route}/{file}");
        let put = |bytes: Vec<u8>| Answer::of(controller.operator(Method::PUT, &path).body(bytes));
        put(bytes).await.refused(422, "not-what-it-says");
        put(Vec::new()).await.refused(422, "not-what-it-says");
        Answer::of(controller.operator(Method::GET, &path)).await.refused(404, "no-such-file");
    }
    // A manifest under another's path.
    let target = publisher.files("targets").pop().unwrap();
    let bytes = std::fs::read(publisher.dir().join("targets").join(&target)).unwrap();
    let path = format!("/v1/repo/targets/{}", target.replace("1.0.0", "1.0.1"));
    let answer = Answer::of(controller.operator(Method::PUT, &path).body(bytes)).await;
    assert!(answer.refused(422, "not-what-it-says").contains("images/test/1.0.0"));
    // A frame that would unpack to more than a chunk may have.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let id = Sha256Digest::of(&vec![0; 64 << 20]).to_string();
    let path = format!("/v1/repo/chunks/{}/{id}.cacnk", &id[..4]);
    Answer::of(controller.operator(Method::PUT, &path).body(bomb)).await.refused(422, "not-what-it-says");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_is_not_the_next_state_is_refused() {
    let controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    publisher.upload_content(&controller).await;
    let first = std::fs::read(publisher.dir().join("metadata/timestamp.json")).unwrap();
    assert_eq!(publisher.upload_metadata(&controller).await.status, 201);
    let visible = async || {
        let request = controller.operator(Method::GET, "/v1/repo/metadata/timestamp.json");
        request.send().await.unwrap().bytes().await.unwrap().to_vec()
    };
    let put = |name: &str, bytes: Vec<u8>| {
        Answer::of(controller.operator(Method::PUT, &format!("/v1/repo/metadata/{name}")).body(bytes))
    };
    publisher.repository.refresh(None, &key(14), Date::now()).unwrap();
    let second = std::fs::read(publisher.dir().join("metadata/timestamp.json")).unwrap();
    // Forged: the content changed, the signature did not.
    let mut forged: Value = serde_json::from_slice(&second).unwrap();
    forged["signed"]["version"] = json!(99);
    let answer = put("timestamp.json", serde_json::to_vec(&forged).unwrap()).await;
    answer.refused(422, "metadata-forged");
    // Somebody else's keys.
    let stranger = Publisher::new(100);
    stranger.add("1.0.0");
    let theirs = std::fs::read(stranger.dir().join("metadata/timestamp.json")).unwrap();
    put("timestamp.json", theirs).await.refused(422, "metadata-forged");
    // Somebody else's root under a number that is published already.
    let root = std::fs::read(stranger.dir().join("metadata/1.root.json")).unwrap();
    put("1.root.json", root).await.refused(409, "metadata-rollback");
    assert_eq!(visible().await, first, "what was visible stays");
    assert_eq!(put("timestamp.json", second.clone()).await.status, 201);
    assert_eq!(visible().await, second);
    // Rolled back, and another one under the same number.
    put("timestamp.json", first).await.refused(422, "metadata-rollback");
    let clone = publisher.repository.refresh(None, &key(14), Date::now().plus_days(0)).unwrap();
    assert_eq!(clone, ["timestamp.json"]);
    assert_eq!(publisher.put(&controller, "metadata", "metadata", "timestamp.json").await.status, 201);
    put("timestamp.json", second).await.refused(422, "metadata-rollback");
    put("timestamp.json", b"no json".to_vec()).await.refused(400, "malformed");
    put("..%2fca.key", b"{}".to_vec()).await.refused(400, "bad-name");
    // Expired.
    let late = Publisher::new(10);
    late.add("1.0.0");
    let mut other = Controller::stopped();
    other.start(&["--clock-offset", "259200"]);
    late.upload_content(&other).await;
    late.upload_metadata(&other).await.refused(422, "metadata-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timestamp_is_kept_fresh() {
    let mut controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    publisher.upload_content(&controller).await;
    assert_eq!(publisher.upload_metadata(&controller).await.status, 201);
    let keys = tempfile::tempdir().unwrap();
    key(13).save(&keys.path().join("snapshot.pem")).unwrap();
    key(14).save(&keys.path().join("timestamp.pem")).unwrap();
    let version = async |controller: &Controller| {
        controller.get("/v1/repo/metadata/timestamp.json").await["signed"]["version"].as_u64().unwrap()
    };
    let before = version(&controller).await;
    let keys = keys.path().to_str().unwrap();
    // Within half its life nothing happens; past it, even when it has ended, a new one is signed.
    controller.restart(&["--online-keys", keys]);
    assert_eq!(version(&controller).await, before);
    for (n, days) in (1..).zip([2_u64, 9]) {
        controller.restart(&["--online-keys", keys, "--clock-offset", &(days * 86_400 - 3600).to_string()]);
        eventually(async || (version(&controller).await == before + n).then_some(())).await;
    }
    // The publisher's own next timestamp has a number that is taken: refused, and told what to do.
    publisher.repository.refresh(None, &key(14), Date::now()).unwrap();
    let answer = publisher.put(&controller, "metadata", "metadata", "timestamp.json").await;
    answer.refused(422, "metadata-rollback");
    controller.stop();
    let missing = tempfile::tempdir().unwrap();
    let refused = controller.command(&["--online-keys", missing.path().to_str().unwrap()]).spawn().unwrap();
    assert!(!refused.wait_with_output().unwrap().status.success());
    assert!(controller.log().contains("timestamp.pem"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_content_counts_as_missing_and_is_replaced() {
    let controller = Controller::new();
    let publisher = Publisher::new(10);
    publisher.add("1.0.0");
    publisher.upload_content(&controller).await;
    assert_eq!(publisher.upload_metadata(&controller).await.status, 201);
    publisher.add("2.0.0");
    publisher.upload_content(&controller).await;
    let timestamp = || publisher.put(&controller, "metadata", "metadata", "timestamp.json");
    let id_of = |file: &str| file.rsplit('/').next().unwrap().strip_suffix(".cacnk").unwrap().to_owned();
    let files = publisher.files("chunks.castr");
    let ids: Vec<String> = files.iter().map(|file| id_of(file)).collect();
    let missing =
        async || Answer::of(controller.operator(Method::POST, "/v1/repo/missing").json(&ids)).await.body;
    assert_eq!(missing().await, json!([]));
    let index = publisher.files("indexes").pop().unwrap();
    for (folder, route, file) in
        files.iter().map(|file| ("chunks.castr", "chunks", file)).chain([("indexes", "indexes", &index)])
    {
        let place = controller.dir().join("repo").join(folder).join(file);
        let whole = std::fs::read(&place).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for bad in [&b""[..], &whole[..whole.len() - 1], &flipped] {
            std::fs::write(&place, bad).unwrap();
            if route == "chunks" {
                assert_eq!(missing().await, json!([id_of(file)]));
            }
            let again = publisher.put(&controller, folder, route, file).await;
            assert_eq!(again.status, 201, "{file}");
            assert_eq!(std::fs::read(&place).unwrap(), whole);
            assert_eq!(publisher.put(&controller, folder, route, file).await.status, 204);
        }
    }
    // Damaged after its upload, before the release is visible.
    let new: Vec<&String> = files
        .iter()
        .filter(|file| {
            let place = controller.dir().join("repo/chunks.castr").join(file);
            std::fs::write(&place, b"").is_ok()
        })
        .collect();
    let answer = publisher.upload_metadata(&controller).await;
    assert!(answer.refused(422, "incomplete").contains("chunk"), "{}", answer.body);
    for file in new {
        assert_eq!(publisher.put(&controller, "chunks.castr", "chunks", file).await.status, 201);
    }
    assert_eq!(timestamp().await.status, 201);
}

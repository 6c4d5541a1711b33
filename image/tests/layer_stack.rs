//! Layers that stack on a base, built for real.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cairn_image::layer::stack::{self, recipe};
use cairn_image::layer::{Built, Options, lock};
use cairn_image::toolbox::Toolbox;
use sha2::{Digest as _, Sha256};

fn say(line: &str) {
    eprintln!("{line}");
}

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// What is in a layer, unpacked by Debian's own tool below `dir`.
fn unpack(toolbox: &Toolbox, image: &Path, dir: &Path) -> PathBuf {
    let root = dir.join("unpacked");
    let mut command = toolbox.enter().bind(dir).bind_ro(image).command("fsck.erofs");
    let output = command.arg(format!("--extract={}", root.display())).arg(image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    root
}

/// Files of an archive by name; every blob is what its name says.
fn archive(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(path).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(digest) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(hex::encode(Sha256::digest(&bytes)), digest, "{}", path.display());
        }
        found.insert(name, bytes);
    }
    found
}

const SMALL: &str = r#"
format = 1
[bundle]
name = "kubernetes/small"
version = "1"
[layer]
name = "small"
stacks-on = "any"
directories = ["/var/lib/small", "/tmp"]
[[layer.file]]
path = "/usr/lib/small/text"
mode = "0600"
content = """
text
"""
[[layer.link]]
path = "/usr/lib/small/link"
target = "text"
[[layer.local]]
source = "beside/data"
path = "/usr/lib/small/data"
[[layer.url]]
url = "file://DIR/release.tar.gz"
sha256 = "SUM"
member = "bin/tool"
path = "/usr/bin/tool"
"#;

/// A recipe beside the files that it names.
fn small(dir: &Path) -> String {
    std::fs::create_dir_all(dir.join("beside")).unwrap();
    std::fs::create_dir_all(dir.join("bin")).unwrap();
    std::fs::write(dir.join("beside/data"), "data").unwrap();
    std::fs::write(dir.join("bin/tool"), "#!/bin/sh\n").unwrap();
    let mut tar = std::process::Command::new("tar");
    assert!(tar.current_dir(dir).args(["-czf", "release.tar.gz", "bin"]).status().unwrap().success());
    let sum = hex::encode(Sha256::digest(std::fs::read(dir.join("release.tar.gz")).unwrap()));
    SMALL.replace("DIR", &dir.display().to_string()).replace("SUM", &sum)
}

fn build(toolbox: &Toolbox, text: &str, home: &Path, fresh: &Path) -> Result<Built, cairn_image::Error> {
    std::fs::create_dir_all(fresh).unwrap();
    let options = Options { fresh: Some(fresh.to_owned()), ..Options::default() };
    stack::build(toolbox, &recipe::parse(text).unwrap(), home, &options, &say)
}

#[test]
fn a_layer_has_what_its_recipe_says_and_the_same_bytes_twice() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let dir = tempfile::tempdir_in(cairn_image::toolbox::cache_dir().unwrap()).unwrap();
    let text = small(dir.path());
    let one = build(&toolbox, &text, dir.path(), &dir.path().join("one")).unwrap();
    let two = build(&toolbox, &text, dir.path(), &dir.path().join("two")).unwrap();
    assert_eq!(one.inputs, two.inputs);
    assert!(std::fs::read(&one.image).unwrap() == std::fs::read(&two.image).unwrap());
    let root = unpack(&toolbox, &one.image, dir.path());
    let file =
        |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((file("usr/lib/small/text").as_str(), mode("usr/lib/small/text")), ("text\n", 0o600));
    assert_eq!((file("usr/lib/small/link").as_str(), mode("usr/lib/small/data")), ("text\n", 0o644));
    assert_eq!((file("usr/bin/tool").as_str(), mode("usr/bin/tool")), ("#!/bin/sh\n", 0o755));
    assert_eq!((mode("var/lib/small"), mode("tmp"), mode("usr")), (0o755, 0o1777, 0o755));
    assert!(!root.join("usr/lib/cairn").exists(), "no images, no list of them");

    std::fs::write(dir.path().join("beside/data"), "other").unwrap();
    let three = build(&toolbox, &text, dir.path(), &dir.path().join("three")).unwrap();
    assert_ne!(three.inputs, one.inputs);
}

#[test]
fn what_is_not_what_the_recipe_says_is_not_taken() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let dir = tempfile::tempdir_in(cairn_image::toolbox::cache_dir().unwrap()).unwrap();
    let text = small(dir.path());
    let sum = text.split_once("sha256 = \"").unwrap().1[..64].to_owned();
    for (from, to, expect) in [
        (sum.as_str(), "ab".repeat(32).as_str(), "and the recipe says abab"),
        ("bin/tool\"\npath", "bin/none\"\npath", "has no file bin/none"),
        ("beside/data", "beside/none", "cannot open"),
        ("/usr/bin/tool", "/usr/lib/small/data", "comes from two parts"),
        ("/usr/bin/tool", "/usr/lib/small/text/x", "comes from two parts"),
    ] {
        let error =
            build(&toolbox, &text.replace(from, to), dir.path(), &dir.path().join("bad")).unwrap_err();
        assert!(error.to_string().contains(expect), "{to}: {error}");
    }
}

#[test]
fn the_demonstration_has_an_image_and_what_starts_it() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let home = recipes();
    let text = std::fs::read_to_string(home.join("hello.toml")).unwrap();
    let built =
        stack::build(&toolbox, &recipe::parse(&text).unwrap(), &home, &Options::default(), &say).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = unpack(&toolbox, &built.image, dir.path());
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(root.join(path)).unwrap()).unwrap()
    };
    let list = json("usr/lib/cairn/images.d/hello.json");
    let image = &list["images"][0];
    let files = archive(&root.join("usr/lib/cairn/images").join(image["archive"].as_str().unwrap()));
    let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], image["digest"]);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], image["ref"]);
    let objects = json("usr/lib/cairn/workloads/hello.json");
    let deployment = &objects["items"][0];
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], image["ref"], "the workload runs the image beside it");
    assert_eq!(container["imagePullPolicy"], "Never");
    assert_eq!(objects["items"][1]["spec"]["selector"], deployment["spec"]["template"]["metadata"]["labels"]);
}

/// Two builds of everything but the Go programs, whose bytes a test of their own compares.
#[test]
#[ignore = "needs every Go program of the bundle, a quarter of an hour the first time; run by `make soak`"]
fn the_kubernetes_layer_is_the_same_bytes_twice_and_has_what_the_agent_needs() {
    let toolbox = Toolbox::ensure(&say).unwrap();
    let home = recipes();
    let recipe = recipe::parse(&std::fs::read_to_string(home.join("kubernetes.toml")).unwrap()).unwrap();
    let lock = std::fs::read_to_string(home.join("kubernetes.lock")).unwrap();
    let dir = tempfile::tempdir_in(cairn_image::toolbox::cache_dir().unwrap()).unwrap();
    let images = ["one", "two"].map(|name| {
        let fresh = dir.path().join(name);
        std::fs::create_dir(&fresh).unwrap();
        let options =
            Options { lock: Some(lock::parse(&lock).unwrap()), fresh: Some(fresh), ..Options::default() };
        stack::build(&toolbox, &recipe, &home, &options, &say).unwrap().image
    });
    let same = std::process::Command::new("cmp").args(&images).status().unwrap();
    assert!(same.success(), "the two builds differ");

    let root = unpack(&toolbox, &images[0], dir.path());
    for program in
        ["kubelet", "kubeadm", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr", "crictl", "etcdctl"]
    {
        assert!(root.join("usr/bin").join(program).is_file(), "{program}");
    }
    for file in [
        "usr/sbin/runc",
        "usr/sbin/nft",
        "usr/libexec/cni/bridge",
        "usr/libexec/cni/host-local",
        "usr/libexec/cni/loopback",
        "usr/libexec/cni/portmap",
        "usr/lib/systemd/system/containerd.service",
        "usr/lib/systemd/system/kubelet.service",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    let text = std::fs::read(root.join("usr/lib/cairn/kubernetes.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let ours: Vec<&str> =
        list["images"].as_array().unwrap().iter().map(|image| image["ref"].as_str().unwrap()).collect();
    for image in list["images"].as_array().unwrap() {
        let files = archive(&root.join("usr/lib/cairn/images").join(image["archive"].as_str().unwrap()));
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["digest"], image["digest"]);
    }
    // kubeadm itself says which images it will ask for.
    let version = list["version"].as_str().unwrap();
    let mut kubeadm = std::process::Command::new(root.join("usr/bin/kubeadm"));
    let output =
        kubeadm.args(["config", "images", "list", "--kubernetes-version", version]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut wanted: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    let mut ours = ours.clone();
    wanted.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, wanted);
}

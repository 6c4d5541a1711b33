//! What `bundle build` says of a layer is what Debian's tools find in it.
#![allow(clippy::unwrap_used)]

mod common;

use cairn_image::layer::erofs;
use cairn_image::toolbox::Toolbox;
use common::Bench;

#[test]
fn the_root_hash_is_the_one_that_veritysetup_computes() {
    let toolbox = Toolbox::ensure(&|line| eprintln!("{line}")).unwrap();
    let bench = Bench::offline();
    let root = bench.path("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/large"), vec![7; 3_000_000]).unwrap();
    erofs::write(&toolbox, &root, &bench.path("x.erofs"), 1_735_689_600, &erofs::uuid_of("00")).unwrap();
    bench.bundle("0");
    bench.run(&["bundle", "build", "small.toml", "--layer", "x.erofs", "--out", "B", "--level", "3"]).ok();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.path("B/manifest.json")).unwrap()).unwrap();
    let verity = &manifest["components"][0]["layer"]["verity"];

    let mut command = toolbox.enter().bind(bench.dir.path()).command("veritysetup");
    command.args(["format", "--no-superblock", "--hash=sha256", "--salt=-"]);
    let output = command.arg(bench.path("x.erofs")).arg(bench.path("tree")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let theirs =
        text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(verity["root_hash"], theirs.trim());
    assert_eq!(
        verity["data_blocks"].as_u64().unwrap() * 4096,
        std::fs::metadata(bench.path("x.erofs")).unwrap().len()
    );
}

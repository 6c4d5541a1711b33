//! Debian's tools agree with us: casync reads our index and store, veritysetup makes our tree and accepts it.
//!
//! They come from the toolbox; the host needs neither.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::process::Output;

use cairn_bundle::publish::{self, Options};
use cairn_bundle::store::Store;
use cairn_bundle::verity;
use cairn_image::toolbox::Toolbox;

fn toolbox() -> Toolbox {
    Toolbox::ensure(&|line| eprintln!("{line}")).unwrap()
}

fn run(toolbox: &Toolbox, dir: &Path, program: &str, args: &[&str]) -> Output {
    let output = toolbox.enter().bind(dir).cwd(dir).command(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Not all noise, not all alike; `blocks` of 4096 bytes.
fn image(blocks: usize) -> Vec<u8> {
    let mut x = 88_172_645_463_325_252_u64;
    (0..blocks * 512)
        .flat_map(|n| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if (n / 4096) % 3 == 0 { (n as u64 / 5).to_le_bytes() } else { x.to_le_bytes() }
        })
        .collect()
}

#[test]
fn casync_extracts_what_we_published_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (toolbox, bytes) = (toolbox(), image(3000));
    std::fs::write(dir.path().join("layer"), &bytes).unwrap();
    let store = Store::open(&dir.path().join("chunks.castr")).unwrap();
    let options = Options { level: 3, ..Options::default() };
    let published = publish::component(&dir.path().join("layer"), &store, &options, &mut |_| {}).unwrap();
    std::fs::write(dir.path().join("layer.caibx"), published.index.as_bytes()).unwrap();
    assert!(published.index.len() > 50);

    run(&toolbox, dir.path(), "casync", &["extract", "--store=chunks.castr", "layer.caibx", "again"]);
    assert!(std::fs::read(dir.path().join("again")).unwrap() == bytes);

    // And it sees what we see: a chunk that was changed.
    let victim = published.index.entry(7).id;
    let other = store.read_frame(&published.index.entry(8).id).unwrap().unwrap();
    std::fs::write(store.path(&victim), other).unwrap();
    let mut command = toolbox.enter().bind(dir.path()).cwd(dir.path()).command("casync");
    let output = command.args(["extract", "--store=chunks.castr", "layer.caibx", "third"]).output().unwrap();
    assert!(!output.status.success());
}

#[test]
fn we_read_an_index_and_a_store_that_casync_made() {
    let dir = tempfile::tempdir().unwrap();
    let (toolbox, bytes) = (toolbox(), image(2000));
    std::fs::write(dir.path().join("layer"), &bytes).unwrap();
    let args = [
        "make",
        "--digest=sha256",
        "--compression=zstd",
        "--chunk-size=16384:65536:262144",
        "--store=chunks.castr",
        "layer.caibx",
        "layer",
    ];
    run(&toolbox, dir.path(), "casync", &args);
    let index =
        cairn_bundle::caibx::Index::parse(std::fs::read(dir.path().join("layer.caibx")).unwrap()).unwrap();
    let store = Store::open(&dir.path().join("chunks.castr")).unwrap();
    let whole = cairn_bundle::assemble::Whole { sha256: true, verity: None };
    let out = dir.path().join("out");
    let mut assembly = cairn_bundle::assemble::Assembly::open(&out, index, whole).unwrap();
    assembly.reuse_store(&store).unwrap();
    let digest = cairn_bundle::Sha256Digest::of(&bytes);
    assembly.finish_as(Some(&digest), None).unwrap();
    assert!(std::fs::read(out).unwrap() == bytes);
}

#[test]
fn veritysetup_makes_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let toolbox = toolbox();
    for (blocks, salt) in
        [(1, "00"), (2, "aabbcc"), (128, "-"), (129, "5555"), (128 * 128 + 3, "0123456789abcdef")]
    {
        let bytes = image(blocks);
        std::fs::write(dir.path().join("data"), &bytes).unwrap();
        for file in ["theirs", "ours"] {
            File::create(dir.path().join(file)).unwrap();
        }
        let salt_arg = format!("--salt={salt}");
        let common = ["--no-superblock", "--data-block-size=4096", "--hash-block-size=4096", "--hash=sha256"];
        let mut args = vec!["format", "data", "theirs", salt_arg.as_str()];
        args.extend(common);
        let output = run(&toolbox, dir.path(), "veritysetup", &args);
        let text = String::from_utf8(output.stdout).unwrap();
        let root = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();

        let salt = if salt == "-" { Vec::new() } else { hex::decode(salt).unwrap() };
        let tree = File::options().write(true).open(dir.path().join("ours")).unwrap();
        let ours = verity::format(&mut &bytes[..], bytes.len() as u64, &salt, &tree).unwrap();
        assert_eq!(ours.to_string(), root, "{blocks} blocks");
        let (theirs, ours) = (
            std::fs::read(dir.path().join("theirs")).unwrap(),
            std::fs::read(dir.path().join("ours")).unwrap(),
        );
        assert!(theirs == ours, "{blocks} blocks: {} and {} bytes", theirs.len(), ours.len());
    }
}

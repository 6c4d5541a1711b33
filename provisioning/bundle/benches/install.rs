//! Verify + install against `sha256sum` + `dd` of the same bytes, in one run: the ratio must be 0.8 or more.
//!
//! The component is 128 MiB of this machine's own programs and libraries (`CAIRN_BENCH_MIB` changes it). Ours unpacks
//! every chunk, checks it, writes it, computes the verity tree, and syncs both files; theirs reads, hashes, copies, syncs.
//! Both read from the page cache. The middle of five runs each counts, taken in turn.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn_bundle::assemble::{Assembly, Verity, Whole};
use cairn_bundle::publish::{self, Options};
use cairn_bundle::store::Store;

const RUNS: usize = 5;
const FLOOR: f64 = 0.8;

fn main() {
    let mib: u64 = std::env::var("CAIRN_BENCH_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(128);
    let dir =
        tempfile::tempdir_in(std::env::var_os("CARGO_TARGET_TMPDIR").unwrap_or_else(|| ".".into())).unwrap();
    let source = dir.path().join("component");
    collect(&source, mib << 20);
    let store = Store::open(&dir.path().join("chunks.castr")).unwrap();
    // Level 3 unpacks no faster than 19, and packs in seconds.
    let options = Options { level: 3, ..Options::default() };
    let published = publish::component(&source, &store, &options, &mut |_| {}).unwrap();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        theirs.push(time(|| {
            sh(Command::new("sha256sum").arg(&source));
            let (from, to) =
                (format!("if={}", source.display()), format!("of={}/copy", dir.path().display()));
            sh(Command::new("dd").args([&from, &to, "bs=1M", "conv=fsync", "status=none"]));
        }));
        std::fs::remove_file(dir.path().join("copy")).unwrap();
        ours.push(time(|| install(dir.path(), &store, &published)));
        std::fs::remove_file(dir.path().join("out")).unwrap();
    }
    let (ours, theirs) = (middle(ours), middle(theirs));
    let rate = |time: Duration| published.length as f64 / 1e6 / time.as_secs_f64();
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("install: {:.0} MB in {} chunks", published.length as f64 / 1e6, published.index.len());
    println!(
        "install: sha256sum + dd {:.0} MB/s, verify + install {:.0} MB/s: {ratio:.2}x",
        rate(theirs),
        rate(ours)
    );
    println!("install: resident memory at its highest {}", peak());
    if ratio < FLOOR {
        eprintln!("install: {ratio:.2}x is below {FLOOR}x");
        std::process::exit(1);
    }
}

fn install(dir: &Path, store: &Store, published: &publish::Published) {
    let tree = File::create(dir.join("tree")).unwrap();
    let whole = Whole { sha256: false, verity: Some(Verity { salt: vec![7; 32], tree }) };
    let mut assembly = Assembly::open(&dir.join("out"), published.index.clone(), whole).unwrap();
    let mut next = 0;
    while let Some(missing) = assembly.plan().next_missing(next) {
        next = missing.number + 1;
        let frame = store.read_frame(&missing.id).unwrap().unwrap();
        assembly.feed(&missing.id, &frame).unwrap();
    }
    assert!(assembly.finish().unwrap().verity_root.is_some());
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn sh(command: &mut Command) {
    assert!(command.stdout(std::process::Stdio::null()).status().unwrap().success());
}

/// The bytes of libraries and programs, one after the other, up to `length`.
fn collect(to: &Path, length: u64) {
    let mut out = File::create(to).unwrap();
    let mut left = length;
    let mut dirs: Vec<PathBuf> = ["/usr/lib", "/usr/bin", "/usr/share"].map(PathBuf::from).into();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file()
                && let Ok(file) = File::open(entry.path())
            {
                left -= std::io::copy(&mut file.take(left), &mut out).unwrap();
            }
            if left == 0 {
                return out.flush().unwrap();
            }
        }
    }
    panic!("this machine has too few files: set CAIRN_BENCH_MIB lower");
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}

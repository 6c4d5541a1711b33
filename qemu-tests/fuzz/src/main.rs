//! One libFuzzer binary for all parsers of foreign input; `CAIRN_FUZZ_TARGET` picks one of [`targets::ALL`].
//!
//! Coverage comes from LLVM's SanitizerCoverage through stable `-C` flags (see `make fuzz` and the script `rustc`), so no
//! nightly compiler is needed. Without a target, the seeds of [`targets::seeds`] are written to `CAIRN_FUZZ_CORPUS`.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn pick() -> fn(&[u8]) {
    let name = std::env::var("CAIRN_FUZZ_TARGET").unwrap_or_default();
    match targets::ALL.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => *run,
        None => {
            let names: Vec<_> = targets::ALL.iter().map(|(name, _)| *name).collect();
            if let Some(corpus) = std::env::var_os("CAIRN_FUZZ_CORPUS") {
                write_seeds(corpus.as_ref());
            }
            eprintln!("set CAIRN_FUZZ_TARGET to one of: {}", names.join(" "));
            std::process::exit(2);
        }
    }
}

/// Puts [`targets::seeds`] where the fuzzers look for them.
fn write_seeds(corpus: &std::path::Path) {
    for (number, (target, bytes)) in targets::seeds().into_iter().enumerate() {
        let dir = corpus.join(target);
        let written = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join(format!("seed-{number}")), bytes));
        if let Err(error) = written {
            eprintln!("cannot write a seed to {}: {error}", dir.display());
            std::process::exit(2);
        }
    }
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(pick)(data));

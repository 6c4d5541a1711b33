//! One libFuzzer binary for all parsers of foreign input; `CAIRN_FUZZ_TARGET` picks one of [`targets::ALL`].
//!
//! Coverage comes from LLVM's SanitizerCoverage through stable `-C` flags (see `make fuzz`), so no nightly compiler is needed.
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
            eprintln!("set CAIRN_FUZZ_TARGET to one of: {}", names.join(" "));
            std::process::exit(2);
        }
    }
}

fuzz_target!(|data: &[u8]| TARGET.get_or_init(pick)(data));

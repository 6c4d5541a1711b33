//! A static program of the workspace, built as `make agent` builds: for tests that start it as `/init`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// As in the Makefile: what is built with other flags is built anew.
const FLAGS: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `bin` of `package` with `features` in `workspace`, and says where it is.
pub(crate) fn build(workspace: &Path, package: &str, bin: &str, features: &[&str]) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "-q", "-p", package, "--bin", bin, "--features", &features.join(",")])
        .args(["--profile", "agent", "--target", TARGET])
        .env("RUSTFLAGS", FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(workspace)
        .status()
        .unwrap();
    assert!(status.success(), "{bin} does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join(TARGET).join("agent").join(bin)
}

//! The service of the booted root.

use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the service.
pub fn main(root: PathBuf) -> ExitCode {
    eprintln!("cairn-agent: the service is not there yet ({})", root.display());
    ExitCode::FAILURE
}

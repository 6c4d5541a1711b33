//! python-tuf, the reference implementation, reads our repository; and `cairn-tuf` reads repositories that python-tuf
//! made, good and bad.
//!
//! Needs python3 with venv and PyPI; the environment is kept in Cairn's cache under the hash of what it holds. Without
//! them the tests fail in CI, and say that they were left out elsewhere.
#![allow(clippy::unwrap_used)]

mod common;
mod release;

use std::path::{Path, PathBuf};
use std::process::Command;

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// An environment with python-tuf: its interpreter.
fn python() -> Option<PathBuf> {
    match environment() {
        Ok(python) => Some(python),
        Err(problem) if std::env::var_os("CI").is_none() => {
            eprintln!("left out, without python-tuf: {problem}");
            None
        }
        Err(problem) => panic!("python-tuf cannot be had: {problem}"),
    }
}

fn environment() -> Result<PathBuf, String> {
    let version = run(Command::new("python3").arg("--version"))?;
    let key = cairn_bundle::Sha256Digest::of(format!("{version}{REQUIREMENTS}").as_bytes()).to_string();
    let place = cairn_image::toolbox::cache_dir().map_err(|error| error.to_string())?.join("python-tuf");
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let dir = place.join(&key[..16]);
    let lock = std::fs::File::create(place.join(".lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let (python, done) = (dir.join("bin/python"), dir.join("complete"));
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&dir);
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requirements.txt");
        let install = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-r", requirements];
        run(Command::new(&python).args(install))?;
        std::fs::write(done, "").map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{command:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

#[test]
fn python_tuf_reads_our_repository_and_follows_a_rotation() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (repository, path, manifest) = release::make(dir.path());
    std::fs::write(dir.path().join("anchor.json"), repository.root().unwrap()).unwrap();
    let read = |client: &str| {
        let client = dir.path().join(client);
        std::fs::create_dir_all(&client).unwrap();
        let mut command = Command::new(&python);
        command.arg(script("read_repository.py")).arg(dir.path()).arg(&client).arg(&path);
        run(&mut command).unwrap();
        assert_eq!(std::fs::read(client.join("target")).unwrap(), manifest);
    };
    read("one");
    release::rotate(&repository);
    read("one");
    read("two");
}

#[test]
fn cairn_tuf_reads_what_python_tuf_made_and_refuses_what_it_forged() {
    let Some(python) = python() else { return };
    let mut command = Command::new(python);
    command.arg(script("conformance.py")).arg(env!("CARGO_BIN_EXE_cairn-tuf"));
    let output = run(&mut command).unwrap_or_else(|problem| panic!("{problem}"));
    println!("{output}");
    assert!(output.contains(" passed, 0 failed"), "{output}");
}

//! What running in the toolbox promises: a throw-away view, host directories at their own path, signals that arrive,
//! nothing left mounted, and a build that may be killed. Needs root or `sudo -n`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cairn_image::toolbox::Toolbox;

fn toolbox() -> Toolbox {
    Toolbox::ensure(&|line| eprintln!("{line}")).unwrap()
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|l| l.contains("cairn/toolbox"))
        .count()
}

#[test]
fn what_a_program_writes_is_gone_but_for_the_bound_directories() {
    let toolbox = toolbox();
    let before = mounts();
    let dir = tempfile::tempdir().unwrap();
    let mut command = toolbox.enter().bind(dir.path()).cwd(dir.path()).command("sh");
    let out = command
        .args(["-euc", "pwd; echo x >kept; echo x >/usr/gone; echo x >/gone; ls /gone"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stdout), format!("{}\n/gone\n", dir.path().display()));
    assert_eq!(fs::read_to_string(dir.path().join("kept")).unwrap(), "x\n");
    assert!(!toolbox.root().join("gone").exists() && !toolbox.root().join("usr/gone").exists());
    assert!(!toolbox.root().join(dir.path().strip_prefix("/").unwrap()).exists());
    assert_eq!(mounts(), before);
}

#[test]
fn a_read_only_directory_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "as it was").unwrap();
    let toolbox = toolbox();
    let mut command = toolbox.enter().bind_ro(dir.path()).cwd(dir.path()).command("sh");
    let out = command.args(["-c", "cat file; echo changed >file"]).output().unwrap();
    assert!(!out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stdout), "as it was");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "as it was");
}

#[test]
fn the_child_is_the_program_and_signals_reach_it() {
    let toolbox = toolbox();
    let mut child = toolbox
        .command("sh")
        .args(["-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert!(Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn it_dies_with_its_parent_when_asked() {
    let toolbox = toolbox();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (send, receive) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut command = toolbox.enter().die_with_parent().command("sleep");
        send.send(command.arg("1000").spawn().unwrap()).unwrap();
        let _ = wait.recv();
    });
    let mut child = receive.recv().unwrap();
    let comm = format!("/proc/{}/comm", child.id());
    // From here on the signal is asked for: `setpriv` has become the program.
    while fs::read_to_string(&comm).unwrap() != "sleep\n" {
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
        std::thread::yield_now();
    }
    drop(done);
    thread.join().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn it_works_inside_the_namespaces_of_a_rack() {
    let image = env!("CARGO_BIN_EXE_cairn-image");
    let out = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", image, "toolbox", "run", "--"])
        .args(["sh", "-c", "cat /proc/1/comm; ip -o link | cut -d: -f2"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "sh\n lo\n", "its own pid 1, its own network");
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

#[test]
#[ignore = "builds the toolbox anew, a minute; run by `make soak`"]
fn a_killed_build_leaves_nothing_that_counts() {
    let cache = tempfile::tempdir().unwrap();
    let ensure = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-image"));
        command.args(["toolbox", "ensure"]).env("XDG_CACHE_HOME", cache.path()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = ensure();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    // Killed in the middle: when packages are being unpacked.
    assert!(lines.map_while(Result::ok).any(|line| line.contains("extracting archives")));
    child.kill().unwrap();
    child.wait().unwrap();
    let toolboxes = cache.path().join("cairn/toolbox");
    let names = || entries(&toolboxes).into_iter().filter(|p| p.is_dir()).collect::<Vec<_>>();
    assert_eq!(names().len(), 1);
    assert!(names()[0].extension().is_some_and(|e| e == "tmp"), "{:?}", names());
    assert!(ensure().wait().unwrap().success());
    assert_eq!(names().len(), 1);
    assert!(names()[0].join("root/usr/bin/qemu-system-x86_64").exists());
}

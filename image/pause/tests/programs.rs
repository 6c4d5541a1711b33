//! The programs as a container runtime sees them.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Much longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` says so.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

fn children(of: &Child) -> String {
    let pid = of.id();
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

fn name(of: &Child) -> String {
    std::fs::read_to_string(format!("/proc/{}/comm", of.id())).unwrap_or_default()
}

#[test]
fn pause_reaps_what_it_inherits_and_ends_when_told() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // The shell's child lives on as the child of what the shell becomes, and ends when its input does.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec 3<&0; cat <&3 >/dev/null & exec \"$0\" </dev/null",
            env!("CARGO_BIN_EXE_cairn-pause"),
        ]);
        let mut pause = command.stdin(Stdio::piped()).spawn().unwrap();
        until("the shell became pause", || name(&pause).starts_with("cairn-pause"));
        assert_eq!(children(&pause).split_whitespace().count(), 1);
        drop(pause.stdin.take());
        until("the child was reaped", || children(&pause).is_empty());
        assert!(pause.try_wait().unwrap().is_none(), "it goes on without children");
        kill(Pid::from_raw(pause.id().try_into().unwrap()), signal).unwrap();
        assert!(pause.wait().unwrap().success(), "{signal}");
    }
}

#[test]
fn hello_says_its_name() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn-hello"));
    let mut hello = command.arg(port.to_string()).stderr(Stdio::null()).spawn().unwrap();
    let mut answer = String::new();
    until("it answers", || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).is_ok()
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert_eq!(body, format!("Hello from Cairn, by {}\n", host.trim()));
    hello.kill().unwrap();
    hello.wait().unwrap();
}

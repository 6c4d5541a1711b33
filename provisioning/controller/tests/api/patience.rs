//! A place at the controller is for who uses it: whoever holds one and does nothing loses it to the next.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::{Body, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::{Answer, Controller};

/// Eight places, and a patience of one second.
const HASTY: [&str; 8] = [
    "--max-connections",
    "8",
    "--idle-seconds",
    "1",
    "--slow-seconds",
    "1",
    "--max-connections-per-address",
    "100",
];

fn hasty() -> Controller {
    let mut controller = Controller::stopped();
    controller.start(&HASTY);
    controller
}

async fn is_served(controller: &Controller, client: &Client) {
    let answer = Answer::of(client.get(format!("{}/healthz", controller.url))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_give_their_places_up() {
    let controller = hasty();
    let idle: Vec<Client> = (0..8).map(|_| controller.anyone()).collect();
    for client in &idle {
        is_served(&controller, client).await;
    }
    // HTTP/2, and the client answers every ping.
    is_served(&controller, &controller.anyone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_bodies_give_their_places_up() {
    let controller = hasty();
    let trickle = || {
        let pieces = futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Some((Ok::<_, std::io::Error>(vec![b' ']), ()))
        });
        Body::wrap_stream(pieces)
    };
    let url = format!("{}/v1/enrol", controller.url);
    let slow: Vec<_> =
        (0..8).map(|_| tokio::spawn(Answer::of(controller.anyone().post(&url).body(trickle())))).collect();
    for answer in slow {
        answer.await.unwrap().refused(408, "too-slow");
    }
    is_served(&controller, &controller.anyone()).await;
}

/// A controller whose boot service has a file that no socket buffer holds, and the boot service's address.
fn with_boot(flags: &[&str]) -> (Controller, String, tempfile::TempDir) {
    let boot = tempfile::tempdir().unwrap();
    let kernel = std::fs::File::create(boot.path().join("vmlinuz")).unwrap();
    kernel.set_len(256 << 20).unwrap();
    let mut controller = Controller::stopped();
    let dir = boot.path().to_str().unwrap().to_owned();
    controller.start(&[&["--boot-listen", "127.0.0.1:0", "--boot-dir", &dir], flags].concat());
    let address = controller.logged_address("boot service");
    (controller, address, boot)
}

/// Eight connections that say this and read nothing.
async fn eight(address: &str, words: &[u8]) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(words).await.unwrap();
        all.push(stream);
    }
    all
}

const ASK: &[u8] = b"GET /boot/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read_and_heads_that_do_not_end_give_their_places_up() {
    let (_controller, address, _boot) = with_boot(&HASTY);
    for words in [ASK, b"GET /boot/vmlinuz HTTP/1.1\r\nHost:"] {
        let _held = eight(&address, words).await;
        let mut next = TcpStream::connect(&address).await.unwrap();
        next.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(20), next.read_to_string(&mut answer)).await;
        assert!(read.expect("served in time").is_ok() && answer.contains("no-such-route"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_nobody_who_reads_nothing() {
    let flags = [&HASTY[..5], &["4"], &HASTY[6..]].concat();
    let (mut controller, address, _boot) = with_boot(&flags);
    let _held = eight(&address, ASK).await;
    let begun = Instant::now();
    controller.signal(Signal::SIGTERM);
    let stopped = tokio::task::spawn_blocking(move || controller.wait()).await.unwrap();
    assert!(stopped.success());
    // It gives running requests 20 seconds.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_a_share_of_the_places() {
    let mut controller = Controller::stopped();
    controller.start(&["--max-connections", "16", "--max-connections-per-address", "2"]);
    let address: std::net::SocketAddr = controller.url.strip_prefix("https://").unwrap().parse().unwrap();
    let from = async |ip: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{ip}:0").parse().unwrap()).unwrap();
        socket.connect(address).await.unwrap()
    };
    let _held = [from("127.0.0.9").await, from("127.0.0.9").await];
    let mut third = from("127.0.0.9").await;
    let closed = tokio::time::timeout(Duration::from_secs(10), third.read(&mut [0; 1])).await;
    assert!(!matches!(closed.expect("closed at once"), Ok(1..)));
    is_served(&controller, &controller.anyone()).await;
}

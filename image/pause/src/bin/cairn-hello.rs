//! A web server for demonstrations: every request is answered with a fixed greeting and the pod's name. Its one argument is the
//! port; without one it is 8080.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Where it listens unless it is told, on IPv6 and IPv4.
const PORT: u16 = 8080;
/// Bytes of a request that are read; the rest is of no interest.
const REQUEST_BYTES: usize = 8 << 10;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the kernel says what the pod is called.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

fn main() -> ExitCode {
    let port = match std::env::args().nth(1).map(|text| text.parse()).transpose() {
        Ok(port) => port.unwrap_or(PORT),
        Err(error) => {
            eprintln!("hello: the argument is a port: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Without IPv6 the second address is the one.
    let addresses: [SocketAddr; 2] =
        [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    let listener = match TcpListener::bind(&addresses[..]) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("hello: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let name = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
    let answer = answer(name.trim());
    eprintln!("hello: {} listens on port {port}", name.trim());
    for stream in listener.incoming().flatten() {
        let answer = answer.clone();
        // A client that goes away in the middle is its own business.
        std::thread::spawn(move || serve(stream, &answer));
    }
    ExitCode::SUCCESS
}

fn answer(name: &str) -> String {
    let body = format!("Hello from Cairn, by {name}\n");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn serve(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while request.len() < REQUEST_BYTES && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    stream.write_all(answer.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}

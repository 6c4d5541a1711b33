//! A small HTTP/1.1 file server: GET and HEAD of files below one folder, one request per connection.
//!
//! Boot firmware and iPXE read from it where no controller runs, and agents read signed seeds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Longest request head read.
const MAX_HEAD: u64 = 16 * 1024;
/// A client that does not go on is let go.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; it ends with the process.
#[derive(Debug)]
pub struct FileServer {
    root: PathBuf,
}

impl FileServer {
    /// Serves `root` at `address:port`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(address: Ipv4Addr, port: u16, root: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((address, port))?;
        let shown = root.to_owned();
        std::thread::Builder::new().name("files".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let root = shown.clone();
                let _ = std::thread::Builder::new().name("files".to_owned()).spawn(move || {
                    // A client that went away needs no answer.
                    let _ = answer(&stream, &root);
                });
            }
        })?;
        Ok(Self { root: root.to_owned() })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// HEAD: no body wanted.
    pub head: bool,
    /// The file, relative and without any step upwards.
    pub path: PathBuf,
}

/// Reads a request line. The query is passed over.
#[must_use]
pub fn parse(line: &str) -> Option<Request> {
    let mut words = line.trim_end().split(' ');
    let head = match words.next()? {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    let target = words.next()?.split(['?', '#']).next()?;
    let path = PathBuf::from(target.strip_prefix('/')?);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (words.next()?.starts_with("HTTP/1.") && plain).then_some(Request { head, path })
}

fn answer(stream: &TcpStream, root: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.take(MAX_HEAD));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
    }
    let mut out = stream;
    let Some(request) = parse(&first) else {
        return out.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let opened = File::open(root.join(&request.path)).and_then(|file| {
        let meta = file.metadata()?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(io::ErrorKind::NotFound.into()) }
    });
    let Ok((mut file, length)) = opened else {
        return out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    // edk2 refuses a boot file whose type it does not know; .efi is always known by its name.
    write!(
        out,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if !request.head {
        io::copy(&mut file, &mut out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_requests_and_never_leaves_the_folder() {
        let get = |path: &str| Some(Request { head: false, path: PathBuf::from(path) });
        assert_eq!(parse("GET /boot/vmlinuz HTTP/1.1\r\n"), get("boot/vmlinuz"));
        assert_eq!(parse("GET /boot.ipxe?serial=A&mac=b HTTP/1.0\r\n"), get("boot.ipxe"));
        assert_eq!(parse("HEAD /a HTTP/1.1\r\n"), Some(Request { head: true, path: PathBuf::from("a") }));
        for wrong in [
            "GET /../etc/passwd HTTP/1.1",
            "GET //etc HTTP/1.1",
            "POST /a HTTP/1.1",
            "GET a HTTP/1.1",
            "GET /a",
            "",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_line_stays_inside(line in "(GET|HEAD) /[/.a-z%\\\\]{0,30} HTTP/1.1") {
            if let Some(request) = parse(&line) {
                prop_assert!(request.path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(request.path.is_relative());
            }
        }
    }
}

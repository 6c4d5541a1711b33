//! A server with the right pin whose answers never end: the agent reads no more than the limit, says so, and goes on.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::stage::Stage;
use common::Node;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Serves every connection with `head` and then bytes without end; gives its URL and its CA's pin.
fn serve(head: &'static str) -> (String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let pin = Sha256Digest::of(&ca_key.subject_public_key_info());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let chain = vec![leaf.der().clone(), ca_certificate.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                let mut request = [0; 4096];
                if stream.read(&mut request).is_ok() && stream.write_all(head.as_bytes()).is_ok() {
                    // Chunks of an HTTP/1.1 body (RFC 9112, 7.1), until the other side hangs up.
                    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                    while stream.write_all(chunk.as_bytes()).is_ok() {}
                }
            });
        }
    });
    (url, format!("{pin}\n"))
}

#[test]
fn a_body_without_end_is_refused_at_its_limit() {
    let (url, pin) = serve("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut node = Node::new("S1", &pin, &url);
    node.start(&[]);
    let line = node.wait_refused("answer-too-long");
    assert!(line.contains("the signed time") && line.contains("65536"), "{line}");
}

#[test]
fn an_announced_length_over_the_limit_is_not_read_at_all() {
    let (url, pin) = serve("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n");
    let mut node = Node::new("S1", &pin, &url);
    node.start(&[]);
    assert!(node.wait_refused("answer-too-long").contains("99999999999 bytes"));
}

#[test]
fn a_head_without_end_is_given_up() {
    let (url, pin) = serve("HTTP/1.1 200 OK\r\nx-long: ");
    let mut node = Node::new("S1", &pin, &url);
    node.start(&[]);
    let reason = node.wait_waiting(Stage::Time);
    assert!(reason.contains("broke off"), "{reason}");
}

#[test]
fn an_odd_answer_does_not_end_the_search_for_a_controller() {
    let (url, pin) = serve("HTTP/1.1 302 Found\r\nlocation: https://elsewhere/\r\ncontent-length: 0\r\n\r\n");
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let next_url = format!("https://{}", next.local_addr().unwrap());
    let mut node = Node::with_controllers("S1", &pin, &[&url, &next_url]);
    node.start(&[]);
    // Asked as well; without the mend nobody ever comes here.
    common::wait_until("the next controller is asked", || {
        next.set_nonblocking(true).unwrap();
        next.accept().ok()
    });
}

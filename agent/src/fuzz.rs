//! Entry points for the fuzzers: everything that the agent reads and has not written in this moment itself. Each takes
//! any bytes and must come back.

use cairn_protocol::heartbeat::HeartbeatAnswer;
use cairn_protocol::limits;
use cairn_protocol::signed::{Envelope, SignedTime};

use crate::kmod::index::{Index, fnmatch};

pub use crate::spool::fuzz as spool;

/// Texts of depmod(8), cut at NUL bytes: modules.dep, modules.alias, modules.softdep, modules.builtin, a request.
pub fn modules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let index = Index::new(next(), next(), next(), next());
    let request = next();
    assert!(index.files_for(&request).len() <= 256);
    let _ = index.modules_of_alias(&request).count();
    let _ = fnmatch(request.as_bytes(), next().as_bytes());
    let _ = crate::kmod::urgency::urgency(&request);
}

/// The kernel's words: its command line, its log, its mount table; PID 1's and the worker's words to each other.
pub fn kernel(data: &[u8]) {
    let _ = crate::verity_watch::parse_record(data);
    let _ = crate::control::Reader::default().push(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let cmdline = crate::cmdline::Cmdline::parse(text);
        assert!(cmdline.controllers.iter().all(|url| text.contains(url.as_str())));
        let _ = crate::pid1::mounts::targets(text).count();
    }
}

/// Files of an earlier process, boot or system: running, status, crash, reinstall.
pub fn files(data: &[u8]) {
    let _ = serde_json::from_slice::<crate::running::Running>(data);
    let _ = serde_json::from_slice::<crate::report::Facts>(data);
    let _ = serde_json::from_slice::<crate::pid1::crash::Crash>(data);
    if let Ok(order) = serde_json::from_slice::<crate::reinstall::Order>(data) {
        let _ = crate::reinstall::ask(Some(&order), order.reinstall);
        let _ = crate::reinstall::order(Some(&order), order.reinstall);
    }
}

/// A controller's answers, before anything of them is believed.
pub fn answers(data: &[u8]) {
    let problem = crate::uplink::read_problem(403, data);
    assert!(problem.to_string().len() <= 4 * limits::TEXT_CHARS + 64, "one line for the console");
    let _ = (problem.code(), problem.advice());
    let pin = cairn_protocol::ids::Sha256Digest([0; 32]);
    if let Ok(time) = serde_json::from_slice::<SignedTime>(data) {
        let _ = time.verify(pin, "00112233445566778899aabbccddeeff");
    }
    let _ = serde_json::from_slice::<Envelope>(data);
    let _ = serde_json::from_slice::<HeartbeatAnswer>(data);
    let _ = serde_json::from_slice::<cairn_protocol::enrol::EnrolAnswer>(data);
    let _ = serde_json::from_slice::<cairn_protocol::enrol::RenewAnswer>(data);
    let _ = crate::uplink::validity(&[rustls::pki_types::CertificateDer::from(data.to_vec())]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_answered(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            spool(&data);
            modules(&data);
            kernel(&data);
            files(&data);
            answers(&data);
        }
    }
}

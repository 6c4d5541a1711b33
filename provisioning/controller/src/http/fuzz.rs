//! Entry points for fuzz targets: what reads bytes from outside before anything is known of their sender.

/// Any bytes as each request of a node and of an operator.
pub fn requests(data: &[u8]) {
    let _ = super::node::read_enrolment(data);
    let _ = super::node::read_heartbeat(data);
    let _ = super::input::json::<cairn_protocol::heartbeat::Status>("", data);
    let _ = super::input::json::<super::sites::SeedRequest>("", data);
    if let Ok(text) = super::sites::read_plan_text(data) {
        let _ = cairn_protocol::plan::Plan::parse(text);
    }
}

/// Any bytes as a client certificate, a certificate request, and uploads.
pub fn credentials_and_uploads(data: &[u8]) {
    let _ = crate::tls::client_of("cairn.lab", data);
    let id = cairn_protocol::ids::Sha256Digest::of(data);
    let _ = crate::releases::check_chunk(id, data);
    let _ = crate::releases::check_index(id, data);
    let _ = crate::releases::check_target("os/base/1.0.0/manifest.json", id, data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = crate::csr::key_of(text);
    }
}

/// Any bytes as a request's target and headers.
pub fn targets_and_headers(data: &[u8]) {
    use axum::extract::Query;
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut headers = axum::http::HeaderMap::new();
    if let Ok(value) = axum::http::HeaderValue::from_str(text) {
        headers.insert(axum::http::header::IF_NONE_MATCH, value);
        let _ = super::files::if_none_match(&headers, "\"a\"");
    }
    if let super::files::Part::Some(first, last) = super::files::part_of(text, 10) {
        assert!(first <= last && last < 10);
    }
    if let Ok(uri) = format!("/?{text}").parse::<axum::http::Uri>() {
        let _ = Query::<super::node::TimeQuery>::try_from_uri(&uri);
        let _ = Query::<super::operator::SiteQuery>::try_from_uri(&uri);
        let _ = Query::<super::operator::LimitQuery>::try_from_uri(&uri);
        let _ = Query::<super::sites::FormatQuery>::try_from_uri(&uri);
        let _ = Query::<super::boot::Machine>::try_from_uri(&uri);
    }
    let names = [
        super::repo::RepoFile::metadata(text),
        super::repo::RepoFile::target(text),
        super::repo::RepoFile::index(text),
        super::repo::RepoFile::chunk(text.get(..4).unwrap_or_default(), text),
    ];
    for file in names.into_iter().flatten() {
        let inside = |part| matches!(part, std::path::Component::Normal(_));
        assert!(file.path().components().all(inside), "it stays in its folder");
    }
    let _ = super::input::name("site", text);
    let _ = super::node::is_nonce(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_answered(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            requests(&data);
            credentials_and_uploads(&data);
            targets_and_headers(&data);
        }

        #[test]
        fn a_damaged_heartbeat_is_answered(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
            let beat = json!({
                "sequence": 1, "boot_id": "b", "stage": "fetch", "state": "ready", "status_digest": "0".repeat(64),
                "uptime_seconds": 1, "agent_rss_bytes": 1, "agent_cpu_millis": 1, "events": [{
                    "id": 1, "boot_id": "b", "unix_seconds": 1, "stage": "fetch", "severity": "error", "code": "c",
                    "line": "l"
                }]
            });
            let whole = serde_json::to_vec(&beat).unwrap();
            prop_assert!(super::super::node::read_heartbeat(&whole).is_ok());
            let mut bytes = whole.clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            requests(&bytes);
            requests(&whole[..cut % whole.len()]);
        }
    }
}

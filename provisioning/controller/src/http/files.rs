//! Files: one range, strong etags, conditional requests (RFC 9110 sections 13 and 14).

use std::io::SeekFrom;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::problem::Failure;

/// Bytes read from a file at a time.
const PIECE: usize = 64 << 10;

/// Whether `If-None-Match` names `etag`.
pub fn if_none_match(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
        // Weak comparison (RFC 9110 8.8.3.2).
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// What part of `length` bytes a `Range` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it: no range, several, or one that is not understood (RFC 9110 14.2 lets a server ignore those).
    Whole,
    /// From the first to the last byte, both counted.
    Some(u64, u64),
    /// None of it.
    Unsatisfiable,
}

/// Reads a `Range` header.
pub fn part_of(range: &str, length: u64) -> Part {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-'))
    else {
        return Part::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit());
        if digits { text.parse().ok() } else { None }
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            None => Part::Whole,
            Some(0) => Part::Unsatisfiable,
            Some(_) if length == 0 => Part::Unsatisfiable,
            Some(n) => Part::Some(length.saturating_sub(n), length - 1),
        },
        (first, last) => match (number(first), number(last), last.is_empty()) {
            (Some(first), _, true) if first < length => Part::Some(first, length - 1),
            (Some(first), Some(last), _) if first > last => Part::Whole,
            (Some(first), Some(last), _) if first < length => Part::Some(first, last.min(length - 1)),
            (Some(_), Some(_), _) | (Some(_), _, true) => Part::Unsatisfiable,
            _ => Part::Whole,
        },
    }
}

/// How a file is to be labelled.
#[derive(Debug, Clone)]
pub struct Label {
    /// Strong etag, with its quotes.
    pub etag: String,
    /// Media type.
    pub media: &'static str,
    /// Whether the bytes under this name never change.
    pub immutable: bool,
}

/// Answers a GET or HEAD with the file at `path`.
///
/// # Errors
/// A 404 where there is no such file.
pub async fn serve(
    path: &Path,
    label: &Label,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let mut file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::missing("no-such-file", "the repository has no such file"));
        }
        Err(error) => return Err(Failure::internal(&format!("{}: {error}", path.display()))),
    };
    let meta = file.metadata().await.map_err(|e| Failure::internal(&e))?;
    if !meta.is_file() {
        return Err(Failure::missing("no-such-file", "the repository has no such file"));
    }
    let length = meta.len();
    let tag = HeaderValue::from_str(&label.etag).map_err(|e| Failure::internal(&e))?;
    let cache = if label.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let common = [
        (header::ETAG, tag),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::CACHE_CONTROL, HeaderValue::from_static(cache)),
    ];
    if if_none_match(headers, &label.etag) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    // A range holds only for the version that If-Range names.
    let current = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == label.etag.as_bytes());
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).filter(|_| current);
    let (status, first, count, content_range) =
        match range.map_or(Part::Whole, |range| part_of(range, length)) {
            Part::Whole => (StatusCode::OK, 0, length, None),
            Part::Some(first, last) => (
                StatusCode::PARTIAL_CONTENT,
                first,
                last - first + 1,
                Some(format!("bytes {first}-{last}/{length}")),
            ),
            Part::Unsatisfiable => {
                let all = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
                let problem = Failure::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "range",
                    format!("the file has {length} bytes, none in the range asked for"),
                );
                return Ok((all, problem).into_response());
            }
        };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(first)).await.map_err(|e| Failure::internal(&e))?;
        Body::from_stream(ReaderStream::with_capacity(file.take(count), PIECE))
    };
    let own = [
        (header::CONTENT_TYPE, HeaderValue::from_static(label.media)),
        (header::CONTENT_LENGTH, HeaderValue::from(count)),
    ];
    let mut response = (status, common, own, body).into_response();
    if let Some(value) = content_range.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let table = [
            ("bytes=0-0", Part::Some(0, 0)),
            ("bytes=0-", Part::Some(0, 9)),
            ("bytes=3-5", Part::Some(3, 5)),
            ("bytes=3-99", Part::Some(3, 9)),
            ("bytes=-4", Part::Some(6, 9)),
            ("bytes=-99", Part::Some(0, 9)),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-11", Part::Unsatisfiable),
            ("bytes=5-3", Part::Whole),
            ("bytes=1-2,4-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("", Part::Whole),
        ];
        for (range, part) in table {
            assert_eq!(part_of(range, 10), part, "{range}");
        }
        assert_eq!(part_of("bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(part_of("bytes=-1", 0), Part::Unsatisfiable);
    }

    #[test]
    fn etags_match_one_of_many() {
        let mut headers = HeaderMap::new();
        assert!(!if_none_match(&headers, "\"a\""));
        for (value, matches) in [("\"a\"", true), ("\"b\"", false), ("\"b\", W/\"a\"", true), ("*", true)] {
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(if_none_match(&headers, "\"a\""), matches, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(range in "(bytes=)?[0-9,-]{0,25}", length in 0_u64..100) {
            if let Part::Some(first, last) = part_of(&range, length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}

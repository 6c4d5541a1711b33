//! The published repository: GET and HEAD for nodes and operators.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use cairn_protocol::ids::Sha256Digest;
use futures_util::StreamExt as _;

use super::auth::{AnyCaller, Standing};
use super::files::{self, Label};
use super::input::{Path, digest};
use super::problem::Failure;
use crate::app::App;

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A file of the repository, by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoFile {
    /// Release metadata, such as `3.root.json` or `timestamp.json`.
    Metadata(String),
    /// A TUF target: folder, digest and name.
    Target(String, Sha256Digest, String),
    /// A chunk index.
    Index(Sha256Digest),
    /// A chunk.
    Chunk(Sha256Digest),
}

fn bad_name() -> Failure {
    Failure::bad("bad-name", "the repository has no files of such a name")
}

/// A file name that stays in its folder and needs no quoting: 1 to 128 of letters, digits and `. - _ + ~`, no dot first.
pub fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_+~".contains(&b);
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

impl RepoFile {
    /// Reads the name of a metadata file.
    ///
    /// # Errors
    /// A 400 for any other name.
    pub fn metadata(name: &str) -> Result<Self, Failure> {
        if is_plain(name) && name.ends_with(".json") {
            Ok(Self::Metadata(name.to_owned()))
        } else {
            Err(bad_name())
        }
    }

    /// Reads `<dir>/<sha256>.<file>`.
    ///
    /// # Errors
    /// A 400 for any other path.
    pub fn target(path: &str) -> Result<Self, Failure> {
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (sha256, name) = file.split_once('.').ok_or_else(bad_name)?;
        let dir_fits = dir.is_empty() || dir.split('/').all(is_plain);
        if path.len() > 512 || !dir_fits || !is_plain(name) {
            return Err(bad_name());
        }
        Ok(Self::Target(dir.to_owned(), digest(sha256)?, name.to_owned()))
    }

    /// Reads `<sha256>.caibx`.
    ///
    /// # Errors
    /// A 400 for any other name.
    pub fn index(name: &str) -> Result<Self, Failure> {
        digest(name.strip_suffix(".caibx").ok_or_else(bad_name)?).map(Self::Index)
    }

    /// Reads `<first 4 hex>` and `<64 hex>.cacnk`.
    ///
    /// # Errors
    /// A 400 for any other path.
    pub fn chunk(prefix: &str, name: &str) -> Result<Self, Failure> {
        let id = name.strip_suffix(".cacnk").ok_or_else(bad_name)?;
        if id.get(..4) == Some(prefix) { digest(id).map(Self::Chunk) } else { Err(bad_name()) }
    }

    /// Where it lies in the repository.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Metadata(name) => PathBuf::from("metadata").join(name),
            Self::Target(dir, sha256, name) => {
                PathBuf::from("targets").join(dir).join(format!("{sha256}.{name}"))
            }
            Self::Index(sha256) => PathBuf::from("indexes").join(format!("{sha256}.caibx")),
            Self::Chunk(id) => {
                let id = id.to_string();
                PathBuf::from("chunks.castr").join(&id[..4]).join(format!("{id}.cacnk"))
            }
        }
    }

    /// Whether the bytes under this name never change: all but `timestamp.json`.
    pub fn immutable(&self) -> bool {
        !matches!(self, Self::Metadata(name) if name == "timestamp.json")
    }
}

async fn answer(
    app: &App,
    file: &RepoFile,
    method: &Method,
    headers: &HeaderMap,
    standing: Standing,
) -> Result<Response, Failure> {
    let path = app.dir.repo().join(file.path());
    let (etag, media) = match file {
        RepoFile::Target(_, digest, _) => (digest.to_string(), JSON),
        RepoFile::Index(digest) | RepoFile::Chunk(digest) => (digest.to_string(), BYTES),
        RepoFile::Metadata(name) if file.immutable() => (name.clone(), JSON),
        RepoFile::Metadata(_) => {
            // Replaced by rename: what was read may be followed by the next one's bytes, the client verifies either.
            let bytes = tokio::fs::read(&path).await.unwrap_or_default();
            (Sha256Digest::of(&bytes).to_string(), JSON)
        }
    };
    let label = Label { etag: format!("\"{etag}\""), media, immutable: file.immutable() };
    let response = files::serve(&path, &label, method, headers).await?;
    // A body that is cut is shorter than it said: its reader sees that.
    Ok(response.map(|body| {
        let lost = async move { drop(standing.lost().await) };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(lost)))
    }))
}

/// `GET /v1/repo/metadata/{file}`.
#[utoipa::path(get, path = "/v1/repo/metadata/{file}", tag = "repository", summary = "Release metadata", params(("file" = String, Path)), responses((status = 200, body = Object), (status = 206), (status = 304)))]
pub async fn metadata(
    State(app): State<Arc<App>>,
    AnyCaller(standing): AnyCaller,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    answer(&app, &RepoFile::metadata(&file)?, &method, &headers, standing).await
}

/// `GET /v1/repo/targets/{path}`.
#[utoipa::path(get, path = "/v1/repo/targets/{*path}", tag = "repository", summary = "A manifest", params(("path" = String, Path, description = "<dir>/<sha256>.<file>")), responses((status = 200, body = Object), (status = 206), (status = 304)))]
pub async fn target(
    State(app): State<Arc<App>>,
    AnyCaller(standing): AnyCaller,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    answer(&app, &RepoFile::target(&path)?, &method, &headers, standing).await
}

/// `GET /v1/repo/indexes/{file}`.
#[utoipa::path(get, path = "/v1/repo/indexes/{file}", tag = "repository", summary = "A chunk index", params(("file" = String, Path, description = "<sha256>.caibx")), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 206), (status = 304)))]
pub async fn index(
    State(app): State<Arc<App>>,
    AnyCaller(standing): AnyCaller,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    answer(&app, &RepoFile::index(&file)?, &method, &headers, standing).await
}

/// `GET /v1/repo/chunks/{prefix}/{file}`.
#[utoipa::path(get, path = "/v1/repo/chunks/{prefix}/{file}", tag = "repository", summary = "A chunk", params(("prefix" = String, Path, description = "first 4 digits"), ("file" = String, Path, description = "<sha256>.cacnk")), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 206), (status = 304)))]
pub async fn chunk(
    State(app): State<Arc<App>>,
    AnyCaller(standing): AnyCaller,
    Path((prefix, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    answer(&app, &RepoFile::chunk(&prefix, &file)?, &method, &headers, standing).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_repository() {
        let id = Sha256Digest::of(b"abc").to_string();
        let prefix = &id[..4];
        let path = |file: Result<RepoFile, Failure>| file.map(|file| file.path().display().to_string()).ok();
        assert_eq!(path(RepoFile::metadata("3.root.json")), Some("metadata/3.root.json".to_owned()));
        assert_eq!(
            path(RepoFile::target(&format!("os/base/1.0.0/{id}.manifest.json"))),
            Some(format!("targets/os/base/1.0.0/{id}.manifest.json"))
        );
        assert_eq!(path(RepoFile::index(&format!("{id}.caibx"))), Some(format!("indexes/{id}.caibx")));
        assert_eq!(
            path(RepoFile::chunk(prefix, &format!("{id}.cacnk"))),
            Some(format!("chunks.castr/{prefix}/{id}.cacnk"))
        );
        for bad in ["..", ".json", "../root.json", "a/b.json", "root.txt", "", "%2e%2e.json"] {
            assert!(RepoFile::metadata(bad).is_err(), "{bad}");
        }
        assert!(RepoFile::target("manifest.json").is_err());
        for bad in ["../x", "os/../x", "os//x", "/etc/passwd", "os/.hidden/x"] {
            assert!(RepoFile::target(&format!("{bad}/{id}.m")).is_err(), "{bad}");
            assert!(RepoFile::target(bad).is_err(), "{bad}");
        }
        assert!(RepoFile::chunk("0000", &format!("{id}.cacnk")).is_err());
        assert!(RepoFile::chunk(prefix, &id).is_err());
        assert!(!RepoFile::Metadata("timestamp.json".to_owned()).immutable());
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(text in ".{0,80}", name in "[./a-z0-9]{0,20}") {
            for text in [text, name] {
                let files = [RepoFile::metadata(&text), RepoFile::target(&text), RepoFile::index(&text)];
                for file in files.into_iter().flatten() {
                    let path = file.path();
                    prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                }
            }
        }
    }
}

//! Publishing: operators upload chunks, indexes, manifests and metadata; each is checked before it is taken, and
//! `timestamp.json` makes the whole visible or is refused.
//!
//! A chunk is synced before it has its name, its folder before the release is visible: a power cut may lose a chunk that
//! nothing names yet, and never leaves half of one.

use std::path::Path as FsPath;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use cairn_bundle::durable::{self, FileError};
use cairn_bundle::tuf::Date;
use cairn_bundle::{caibx, chunk, manifest};
use cairn_protocol::ids::Sha256Digest;

use super::auth::OperatorCaller;
use super::input::{Limited, Path, json};
use super::problem::Failure;
use super::repo::RepoFile;
use crate::app::App;
use crate::dir;
use crate::releases::{self, METADATA_BYTES, Next, ReleaseError, Unacceptable};

/// The most bytes of a chunk's frame.
const CHUNK_BYTES: usize = chunk::compressed_limit(chunk::HARD_MAX_BYTES) as usize;
/// The most bytes of a manifest.
const MANIFEST_BYTES: usize = manifest::MAX_MANIFEST_BYTES as usize;
/// The most bytes of an index.
const INDEX_BYTES: usize = caibx::MAX_INDEX_BYTES as usize;
/// The most bytes of a list of chunk ids: 60,000 of them.
const LIST_BYTES: usize = 4 << 20;

fn refuse(error: &Unacceptable) -> Failure {
    Failure::unacceptable("not-what-it-says", error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Failure::internal(&e)))
}

/// Takes an upload: checked against its name, then written unless it is there. What is there and damaged is replaced.
async fn take(app: Arc<App>, file: RepoFile, body: Bytes) -> Result<StatusCode, Failure> {
    blocking(move || {
        let path = app.dir.repo().join(file.path());
        let checked = match &file {
            RepoFile::Chunk(id) => releases::check_chunk(*id, &body),
            RepoFile::Index(digest) => releases::check_index(*digest, &body),
            RepoFile::Target(folder, digest, name) => {
                let target = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                releases::check_target(&target, *digest, &body)
            }
            RepoFile::Metadata(_) => Err(Unacceptable("metadata is staged, not stored".to_owned())),
        };
        checked.map_err(|e| refuse(&e))?;
        let there = match &file {
            // Another compression of the same chunk is as good.
            RepoFile::Chunk(id) => app.chunks.holds(id),
            _ => durable::read(&path, body.len() as u64)
                .is_ok_and(|there| there.as_ref() == Some(&body.to_vec())),
        };
        if there {
            return Ok(StatusCode::NO_CONTENT);
        }
        if let Some(folder) = path.parent() {
            dir::make_dir(folder)?;
        }
        let tmp = app.dir.incoming().join(crate::random::hex(16));
        durable::write_synced(&tmp, &body, 0o600)?;
        std::fs::rename(&tmp, &path).map_err(FileError::at("rename a file to", &path))?;
        if let RepoFile::Chunk(id) = &file {
            app.chunks.written(id)?;
        }
        Ok(StatusCode::CREATED)
    })
    .await
}

/// Which of some chunks the repository lacks, or holds damaged.
#[utoipa::path(post, path = "/v1/repo/missing", tag = "publish", summary = "Which of some chunks the repository lacks, or holds damaged", request_body(content = Vec<String>, description = "chunk ids, 4 MiB at most"), responses((status = 200, body = Vec<String>)))]
pub async fn missing(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Limited(body): Limited<LIST_BYTES>,
) -> Result<Json<Vec<String>>, Failure> {
    let ids: Vec<Sha256Digest> = json("the list of chunk ids", &body)?;
    blocking(move || {
        Ok(Json(ids.into_iter().filter(|id| !app.chunks.holds(id)).map(|id| id.to_string()).collect()))
    })
    .await
}

/// Uploads a chunk.
#[utoipa::path(put, path = "/v1/repo/chunks/{prefix}/{file}", tag = "publish", summary = "Uploads a chunk", params(("prefix" = String, Path), ("file" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, description = "Stored"), (status = 204, description = "It was there")))]
pub async fn put_chunk(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path((prefix, file)): Path<(String, String)>,
    Limited(body): Limited<CHUNK_BYTES>,
) -> Result<StatusCode, Failure> {
    take(app, RepoFile::chunk(&prefix, &file)?, body).await
}

/// Uploads a chunk index.
#[utoipa::path(put, path = "/v1/repo/indexes/{file}", tag = "publish", summary = "Uploads a chunk index", params(("file" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, description = "Stored"), (status = 204, description = "It was there")))]
pub async fn put_index(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path(file): Path<String>,
    Limited(body): Limited<INDEX_BYTES>,
) -> Result<StatusCode, Failure> {
    take(app, RepoFile::index(&file)?, body).await
}

/// Uploads a manifest.
#[utoipa::path(put, path = "/v1/repo/targets/{*path}", tag = "publish", summary = "Uploads a manifest", params(("path" = String, Path)), request_body(content = Object), responses((status = 201, description = "Stored"), (status = 204, description = "It was there")))]
pub async fn put_target(
    State(app): State<Arc<App>>,
    _: OperatorCaller,
    Path(path): Path<String>,
    Limited(body): Limited<MANIFEST_BYTES>,
) -> Result<StatusCode, Failure> {
    take(app, RepoFile::target(&path)?, body).await
}

/// Uploads release metadata. Files wait unseen until `timestamp.json` comes, which makes them visible when the whole is
/// the next state of the repository.
#[utoipa::path(put, path = "/v1/repo/metadata/{file}", tag = "publish", summary = "Uploads release metadata; timestamp.json makes it visible", params(("file" = String, Path)), request_body(content = Object), responses((status = 201, description = "The release is visible"), (status = 202, description = "Waits for timestamp.json"), (status = 204, description = "It was visible already")))]
pub async fn put_metadata(
    State(app): State<Arc<App>>,
    OperatorCaller { name: operator, standing }: OperatorCaller,
    Path(file): Path<String>,
    Limited(body): Limited<METADATA_BYTES>,
) -> Result<StatusCode, Failure> {
    RepoFile::metadata(&file)?;
    let _: serde_json::Value = json("the metadata", &body)?;
    let _one_at_a_time = app.publishing.lock().await;
    standing.check().await?;
    let (job, name) = (app.clone(), file.clone());
    let published = blocking(move || stage(&job, &name, &body)).await;
    match published {
        Ok(Staged::Waits) => Ok(StatusCode::ACCEPTED),
        Ok(Staged::AlreadyVisible) => Ok(StatusCode::NO_CONTENT),
        Ok(Staged::Visible(targets)) => {
            tracing::info!(%operator, targets, "a release was published");
            app.reload_releases().await.map_err(|e| Failure::internal(&e))?;
            Ok(StatusCode::CREATED)
        }
        Err(failure) => {
            tracing::warn!(%operator, file, code = failure.0.code, "metadata refused: {}", failure.0.detail);
            app.metrics.refused(&failure.0.code);
            Err(failure)
        }
    }
}

enum Staged {
    Waits,
    AlreadyVisible,
    Visible(usize),
}

fn stage(app: &App, name: &str, bytes: &[u8]) -> Result<Staged, Failure> {
    let (repo, now) = (&app.dir.repo(), Date(app.clock.now()));
    let visible = repo.join("metadata").join(name);
    if std::fs::read(&visible).is_ok_and(|there| there == bytes) {
        return Ok(Staged::AlreadyVisible);
    }
    if name != "timestamp.json" && visible.exists() {
        return Err(Failure::conflict(
            "metadata-rollback",
            format!(
                "{name} is published with other bytes; what is published never changes, sign a new version"
            ),
        ));
    }
    let staging = repo.join("staging");
    durable::write_mode(&staging.join(name), bytes, 0o600)?;
    if name != "timestamp.json" {
        return Ok(Staged::Waits);
    }
    match releases::judge(repo, &app.chunks, now) {
        Ok(next) => show(repo, &next).map(|()| Staged::Visible(next.releases.len())),
        Err(error) => {
            let _ = std::fs::remove_file(staging.join(name));
            Err(match error {
                ReleaseError::File(_) => Failure::internal(&error),
                error => Failure::unacceptable(error.code(), error.to_string()),
            })
        }
    }
}

/// Everything that the release names is made durable, then its metadata takes its place, `timestamp.json` last.
fn show(repo: &FsPath, next: &Next) -> Result<(), Failure> {
    let folder = std::fs::File::open(repo).map_err(FileError::at("open", repo))?;
    nix::unistd::syncfs(&folder).map_err(|e| FileError::at("sync the file system of", repo)(e.into()))?;
    let (staging, metadata) = (repo.join("staging"), repo.join("metadata"));
    for name in &next.files {
        if staging.join(name).exists() {
            durable::rename(&staging.join(name), &metadata.join(name))?;
        }
    }
    for left in std::fs::read_dir(&staging).map_err(FileError::at("read", &staging))?.flatten() {
        let _ = std::fs::remove_file(left.path());
    }
    Ok(())
}

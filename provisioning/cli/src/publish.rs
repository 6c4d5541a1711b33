//! Uploading what the controller lacks: chunks, indexes, manifests, and last the metadata that makes them visible.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cairn_bundle::caibx;
use cairn_bundle::chunk::ChunkId;
use cairn_bundle::manifest;
use cairn_bundle::store::{Store, chunk_path};
use cairn_bundle::tuf::metadata::{MetaFile, Parsed, Root, Snapshot, Timestamp};
use cairn_bundle::tuf::repository::Repository;
use cairn_bundle::tuf::{Date, Role, TufError, quote};
use cairn_protocol::api;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::args::{Global, Publish};

use crate::client::{self, Client};
use crate::content::read_index;
use crate::error::{Error, read_limited};
use crate::output::{Output, bytes};
use crate::{progress, repo};

/// Ids asked for at once: 70 bytes each in JSON, far below what the controller reads.
const BATCH: usize = 10_000;
/// Most bytes of a metadata file, as our own client reads.
const METADATA_BYTES: usize = 1 << 20;
/// Media type of everything that is not JSON.
const BINARY: &str = "application/octet-stream";

/// What was sent.
#[derive(Debug, Default, Serialize)]
struct Sent {
    chunks: u64,
    chunk_bytes: u64,
    indexes: u64,
    manifests: u64,
    metadata: u64,
    /// Version of the timestamp that the controller has now.
    timestamp: u64,
}

/// What the repository offers.
struct Release {
    /// Path below `targets/` and bytes.
    manifests: Vec<(String, Vec<u8>)>,
    /// Path below the repository.
    indexes: BTreeSet<String>,
    /// Compressed length of each.
    chunks: BTreeMap<ChunkId, u64>,
}

pub(crate) fn run(options: &Publish, global: &Global, out: &Output) -> Result<(), Error> {
    let client = Client::new(global)?;
    let dir = &options.repo.repo;
    let repository = repo::open(dir)?;
    let release = read_release(dir, &repository)?;
    let sent = client::run(async {
        if let Some(shown) = Stamp::of_controller(&client).await? {
            catch_up(dir, &repository, &shown, options.keys.as_deref(), repo::now(global))?;
        }
        let mut sent = Sent::default();
        send_chunks(&client, dir, &release, options.parallel.into(), &mut sent).await?;
        for path in &release.indexes {
            let url = format!("/v1/repo/{path}");
            let bytes = read_limited(&dir.join(path), caibx::MAX_INDEX_BYTES)?;
            sent.indexes += u64::from(client.offer(&url, BINARY, bytes).await?);
        }
        for (path, text) in &release.manifests {
            let url = format!("{}/{path}", api::TARGETS);
            sent.manifests += u64::from(client.offer(&url, "application/json", text.clone()).await?);
        }
        send_metadata(&client, dir, &mut sent).await?;
        Ok(sent)
    })?;
    out.print(&sent, |sent| {
        format!(
            "published: {} chunks ({}), {} indexes, {} manifests, {} metadata files; timestamp {}",
            sent.chunks,
            bytes(sent.chunk_bytes),
            sent.indexes,
            sent.manifests,
            sent.metadata,
            sent.timestamp
        )
    })
}

fn read_release(dir: &Path, repository: &Repository) -> Result<Release, Error> {
    let mut release = Release { manifests: Vec::new(), indexes: BTreeSet::new(), chunks: BTreeMap::new() };
    let store = Store::open(&dir.join("chunks.castr")).map_err(Error::failed)?;
    for (_, path, file) in repository.targets().map_err(repo::failed)? {
        let digest = file.hashes.get("sha256").cloned().unwrap_or_default();
        let (place, text) = repo::target_bytes(dir, &path, &digest)?;
        let manifest =
            manifest::parse(&text).map_err(|e| Error::input(&dir.join("targets").join(&place), e))?;
        for component in &manifest.components {
            release.indexes.insert(component.index.path());
            for entry in read_index(dir, component)?.entries() {
                let chunk = store.path(&entry.id);
                let length = std::fs::metadata(&chunk).map_err(|e| Error::input(&chunk, e))?.len();
                release.chunks.insert(entry.id, length);
            }
        }
        release.manifests.push((place, text));
    }
    Ok(release)
}

async fn send_chunks(
    client: &Client,
    dir: &Path,
    release: &Release,
    parallel: usize,
    sent: &mut Sent,
) -> Result<(), Error> {
    let ids: Vec<String> = release.chunks.keys().map(ToString::to_string).collect();
    let mut missing: Vec<ChunkId> = Vec::new();
    for batch in ids.chunks(BATCH) {
        let lacks: Vec<String> = client.post("/v1/repo/missing", serde_json::json!(batch)).await?;
        for id in lacks {
            let id: ChunkId =
                id.parse().map_err(|_| Error::Failed(format!("the controller asks for chunk {id:?}")))?;
            if release.chunks.contains_key(&id) {
                missing.push(id);
            }
        }
    }
    let total = missing.iter().filter_map(|id| release.chunks.get(id)).sum();
    let bar = progress::bytes("uploading", total);
    let store = Store::open(&dir.join("chunks.castr")).map_err(Error::failed)?;
    let uploads = missing.into_iter().map(|id| {
        let (store, bar) = (&store, &bar);
        async move {
            let frame = store.read_frame(&id).map_err(Error::failed)?;
            let frame = frame.ok_or_else(|| Error::input(&store.path(&id), "the chunk is gone"))?;
            let length = frame.len() as u64;
            client.put(&format!("{}/{}", api::CHUNKS, chunk_path(&id)), BINARY, frame).await?;
            bar.inc(length);
            Ok::<u64, Error>(length)
        }
    });
    let lengths: Vec<u64> = stream::iter(uploads).buffer_unordered(parallel).try_collect().await?;
    bar.finish_and_clear();
    sent.chunks = lengths.len() as u64;
    sent.chunk_bytes = lengths.iter().sum();
    Ok(())
}

/// A timestamp file: its bytes and what they say.
struct Stamp {
    bytes: Vec<u8>,
    version: u64,
    snapshot: MetaFile,
}

impl Stamp {
    fn read(bytes: Vec<u8>) -> Result<Self, TufError> {
        let parsed: Parsed<Timestamp> = Parsed::parse(&Role::Timestamp, &bytes)?;
        Ok(Self { bytes, version: parsed.header.version, snapshot: parsed.body.snapshot().clone() })
    }

    fn of_repository(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("metadata/timestamp.json");
        Self::read(read_limited(&path, METADATA_BYTES as u64)?).map_err(|e| Error::input(&path, e))
    }

    /// The one that the controller shows; it signs its own while nothing is published.
    async fn of_controller(client: &Client) -> Result<Option<Self>, Error> {
        let url = format!("{}/timestamp.json", api::METADATA);
        let bytes = client.file(&url, METADATA_BYTES).await?;
        bytes.map(Self::read).transpose().map_err(Error::failed)
    }
}

/// Signs until the repository's state can follow the controller's.
fn catch_up(
    dir: &Path,
    repository: &Repository,
    shown: &Stamp,
    keys: Option<&Path>,
    now: Date,
) -> Result<(), Error> {
    // Ends: each turn raises a version by one. More turns than this, and the two have nothing to do with each other.
    for _ in 0..10_000 {
        let own = Stamp::of_repository(dir)?;
        let follows = own.snapshot.version > shown.snapshot.version || own.snapshot == shown.snapshot;
        if own.bytes == shown.bytes || (follows && own.version > shown.version) {
            return Ok(());
        }
        let Some(keys) = keys else {
            return Err(Error::Failed(format!(
                "the controller has signed since (snapshot {}, timestamp {}; this repository has {} and {}); run again \
                 with --keys DIR, where snapshot.pem and timestamp.pem lie",
                shown.snapshot.version, shown.version, own.snapshot.version, own.version
            )));
        };
        let (snapshot_key, timestamp_key) = repo::online(keys)?;
        let signed = if follows {
            repository.refresh(None, &timestamp_key, now)
        } else {
            repository.publish(&snapshot_key, &timestamp_key, now)
        };
        signed.map_err(repo::failed)?;
    }
    Err(Error::Failed(
        "the controller's release metadata is far ahead; is this the repository it serves?".to_owned(),
    ))
}

async fn send_metadata(client: &Client, dir: &Path, sent: &mut Sent) -> Result<(), Error> {
    let metadata = dir.join("metadata");
    for path in visible_metadata(&metadata)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let url = format!("{}/{name}", api::METADATA);
        let bytes = read_limited(&path, METADATA_BYTES as u64)?;
        if name != "timestamp.json"
            && client.file(&url, METADATA_BYTES).await?.is_some_and(|there| there == bytes)
        {
            continue;
        }
        client.put(&url, "application/json", bytes).await?;
        sent.metadata += 1;
    }
    sent.timestamp = Stamp::of_repository(dir)?.version;
    Ok(())
}

/// Files of the present state: every root, what the snapshot names, the snapshot, and the timestamp last.
fn visible_metadata(metadata: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for version in 1u64.. {
        let path = metadata.join(format!("{version}.root.json"));
        if !path.is_file() {
            break;
        }
        Parsed::<Root>::parse(&Role::Root, &read_limited(&path, METADATA_BYTES as u64)?)
            .map_err(|e| Error::input(&path, e))?;
        files.push(path);
    }
    let timestamp = metadata.join("timestamp.json");
    let parsed: Parsed<Timestamp> =
        Parsed::parse(&Role::Timestamp, &read_limited(&timestamp, METADATA_BYTES as u64)?)
            .map_err(|e| Error::input(&timestamp, e))?;
    let snapshot = metadata.join(format!("{}.snapshot.json", parsed.body.snapshot().version));
    let parsed: Parsed<Snapshot> =
        Parsed::parse(&Role::Snapshot, &read_limited(&snapshot, METADATA_BYTES as u64)?)
            .map_err(|e| Error::input(&snapshot, e))?;
    for (name, meta) in &parsed.body.meta {
        let role = name.strip_suffix(".json").unwrap_or(name);
        files.push(metadata.join(format!("{}.{}.json", meta.version, quote(role))));
    }
    files.extend([snapshot, timestamp]);
    Ok(files)
}

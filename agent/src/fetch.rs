//! Components: fetched chunk by chunk, checked one by one and then whole, resumed where a try broke off.
//!
//! On DATA: `layers/<sha256>.erofs` with `layers/<sha256>.verity`, `ukis/<sha256>.efi`, `images/<sha256>`; the index of
//! each at `indexes/<sha256>.caibx`, for the next version's delta and for repairs; what is begun lies in `partial/`.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_bundle::assemble::{AssembleError, Assembly, Verity, Whole};
use cairn_bundle::caibx::{Index, IndexError};
use cairn_bundle::chunk::{ChunkId, compressed_limit};
use cairn_bundle::durable::{self, FileError};
use cairn_bundle::manifest::{Component, ComponentKind};
use cairn_bundle::store::chunk_path;
use cairn_protocol::api;
use cairn_protocol::ids::Sha256Digest;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::uplink::{Uplink, UplinkError};

/// Chunks asked for at the same time. Four hide a line's latency of 100 ms up to 20 Mbit/s, and hold 1 MB at most.
const AT_ONCE: usize = 4;

/// Why a component could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The line.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// The controller lacks it.
    #[error("the controller does not have {what} of {component}; publish it again: cairnctl publish")]
    Absent {
        /// What.
        what: String,
        /// Of which component.
        component: String,
    },
    /// The index is not the one of the manifest.
    #[error("the chunk index of {component} has the sha256 {found}, its manifest says {expected}")]
    IndexDigest {
        /// The component.
        component: String,
        /// What came.
        found: Sha256Digest,
        /// What should have come.
        expected: Sha256Digest,
    },
    /// The index cannot be read, or is not of this component.
    #[error("the chunk index of {component}: {source}")]
    Index {
        /// The component.
        component: String,
        /// Why.
        source: IndexError,
    },
    /// The index makes another length.
    #[error("the chunk index of {component} makes {found} bytes, its manifest says {expected}")]
    IndexLength {
        /// The component.
        component: String,
        /// What it makes.
        found: u64,
        /// What it should.
        expected: u64,
    },
    /// Chunks, or the whole.
    #[error("{component}: {source}")]
    Assemble {
        /// The component.
        component: String,
        /// Why.
        source: AssembleError,
    },
    /// A file of DATA.
    #[error(transparent)]
    File(#[from] FileError),
    /// The blocking part ended by a defect.
    #[error("the assembly ended early: {0}")]
    Ended(String),
}

impl FetchError {
    /// The stable word, where this is a refusal.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Uplink(error) => error.code(),
            Self::IndexDigest { .. } | Self::Index { .. } | Self::IndexLength { .. } => Some("index-corrupt"),
            Self::Assemble { source: AssembleError::Chunk(_) | AssembleError::Foreign(_), .. } => {
                Some("chunk-corrupt")
            }
            Self::Assemble { source: AssembleError::Whole { .. }, .. } => Some("manifest-corrupt"),
            _ => None,
        }
    }
}

/// Where the components of a node lie.
#[derive(Debug, Clone)]
pub struct Places {
    data: PathBuf,
}

impl Places {
    /// On the DATA mounted at `data`.
    pub fn new(data: PathBuf) -> Self {
        Self { data }
    }

    /// A component's file.
    pub fn file(&self, component: &Component) -> PathBuf {
        let sha256 = component.sha256;
        match component.kind {
            ComponentKind::Layer => self.data.join(format!("layers/{sha256}.erofs")),
            ComponentKind::Uki => self.data.join(format!("ukis/{sha256}.efi")),
            ComponentKind::Oci | ComponentKind::Image => self.data.join(format!("images/{sha256}")),
        }
    }

    /// A layer's verity tree.
    pub fn tree(&self, component: &Component) -> PathBuf {
        self.data.join(format!("layers/{}.verity", component.sha256))
    }

    /// A component's index.
    pub fn index(&self, component: &Component) -> PathBuf {
        self.data.join(format!("indexes/{}.caibx", component.sha256))
    }

    fn partial(&self, component: &Component, what: &str) -> PathBuf {
        self.data.join(format!("partial/{}.{what}", component.sha256))
    }

    fn make(&self) -> Result<(), FileError> {
        for dir in ["layers", "ukis", "images", "indexes", "partial"] {
            let dir = self.data.join(dir);
            fs::create_dir_all(&dir).map_err(FileError::at("create", &dir))?;
        }
        Ok(())
    }
}

/// How fast chunks may be fetched.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    begun: Instant,
    bytes: u64,
}

impl Pace {
    /// At most so many bytes per second; `None` is as fast as the line.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, begun: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that came, and waits until they are allowed.
    async fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(rate) = self.bytes_per_second {
            #[allow(clippy::cast_precision_loss)]
            let due = Duration::from_secs_f64(self.bytes as f64 / rate.max(1) as f64);
            tokio::time::sleep_until(self.begun + due).await;
        }
    }
}

/// Fetches what a component lacks; nothing is done for one that is there. `progress` is told the bytes that are there.
///
/// # Errors
/// [`FetchError`]; what came so far is kept for the next try.
pub async fn component(
    uplink: &Arc<Uplink>,
    places: &Places,
    component: &Component,
    pace: &mut Pace,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), FetchError> {
    places.make()?;
    if is_there(places, component) {
        progress(component.length);
        return Ok(());
    }
    let index = index(uplink, places, component).await?;
    let failed = |source| FetchError::Assemble { component: component.name.clone(), source };
    let part = places.partial(component, "part");
    let tree = places.partial(component, "verity");
    let mut assembly = {
        let whole = whole(component, &tree)?;
        let (part, index) = (part.clone(), index.clone());
        blocking(move || Assembly::open(&part, index, whole)).await?.map_err(failed)?
    };
    assembly = reuse(assembly, places, component).await?;
    let mut done = assembly.plan().done_bytes();
    progress(done);
    let missing: Vec<(ChunkId, u32)> =
        assembly.plan().missing().map(|chunk| (chunk.id, chunk.length)).collect();
    let mut missing = missing.into_iter();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some((id, length)) = missing.next()
        {
            asked.spawn(chunk(Arc::clone(uplink), id, length));
        }
        let Some(answer) = asked.join_next().await else { break };
        let (id, frame) = answer.map_err(|e| FetchError::Ended(e.to_string()))?;
        let frame = frame?.ok_or_else(|| FetchError::Absent {
            what: format!("chunk {id}"),
            component: component.name.clone(),
        })?;
        done += assembly.feed(&id, &frame).map_err(failed)?;
        progress(done);
        pace.took(frame.len()).await;
    }
    let (sha256, root) = expected(component);
    blocking(move || assembly.finish_as(sha256.as_ref(), root.as_ref())).await?.map_err(|error| {
        // What is whole and wrong would be resumed for ever.
        let _ = fs::remove_file(&part);
        failed(error)
    })?;
    if component.layer.is_some() {
        durable::rename(&tree, &places.tree(component))?;
    }
    // The component's own name comes last: where it is, all is there.
    durable::rename(&part, &places.file(component))?;
    Ok(())
}

/// Whether a component is there whole: its name is given only after it was checked.
pub fn is_there(places: &Places, component: &Component) -> bool {
    fs::metadata(places.file(component)).is_ok_and(|data| data.len() == component.length)
        && (component.layer.is_none() || places.tree(component).exists())
}

fn whole(component: &Component, tree: &Path) -> Result<Whole, FileError> {
    let Some(layer) = &component.layer else { return Ok(Whole { sha256: true, verity: None }) };
    let tree = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(tree)
        .map_err(FileError::at("create", tree))?;
    Ok(Whole { sha256: false, verity: Some(Verity { salt: layer.verity.salt.clone(), tree }) })
}

fn expected(component: &Component) -> (Option<Sha256Digest>, Option<Sha256Digest>) {
    match &component.layer {
        Some(layer) => (None, Some(layer.verity.root_hash)),
        None => (Some(component.sha256), None),
    }
}

/// The index of a component: from DATA, else fetched and kept.
///
/// # Errors
/// [`FetchError`].
pub async fn index(
    uplink: &Arc<Uplink>,
    places: &Places,
    component: &Component,
) -> Result<Index, FetchError> {
    let name = || component.name.clone();
    let path = places.index(component);
    let kept = durable::read(&path, component.index.length)?;
    let kept = kept.filter(|bytes| Sha256Digest::of(bytes) == component.index.sha256);
    let fresh = kept.is_none();
    let bytes = match kept {
        Some(bytes) => bytes,
        None => {
            let url = format!("{}/{}.caibx", api::INDEXES, component.index.sha256);
            let limit = usize::try_from(component.index.length).unwrap_or(usize::MAX);
            let bytes = uplink.file(&url, "a chunk index", limit).await?;
            bytes
                .ok_or_else(|| FetchError::Absent { what: "the chunk index".to_owned(), component: name() })?
        }
    };
    let found = Sha256Digest::of(&bytes);
    if found != component.index.sha256 {
        return Err(FetchError::IndexDigest { component: name(), found, expected: component.index.sha256 });
    }
    let index = Index::parse(bytes).map_err(|source| FetchError::Index { component: name(), source })?;
    if index.component_length() != component.length {
        let (found, expected) = (index.component_length(), component.length);
        return Err(FetchError::IndexLength { component: name(), found, expected });
    }
    if fresh {
        durable::write(&path, index.as_bytes())?;
    }
    Ok(index)
}

/// Copies what older components of DATA share with this one.
async fn reuse(
    mut assembly: Assembly,
    places: &Places,
    component: &Component,
) -> Result<Assembly, FetchError> {
    let mut sources = Vec::new();
    let dir = places.file(component);
    for entry in fs::read_dir(dir.parent().unwrap_or(&dir)).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        let index = places.data.join(format!("indexes/{stem}.caibx"));
        if path.extension() == dir.extension() && path != dir && index.exists() {
            sources.push((path.clone(), index));
        }
    }
    if sources.is_empty() || assembly.plan().missing_chunks() == 0 {
        return Ok(assembly);
    }
    let name = component.name.clone();
    blocking(move || {
        for (file, index) in sources {
            // What was kept is only a hint: every chunk is checked again.
            let old = durable::read(&index, cairn_bundle::caibx::MAX_INDEX_BYTES).ok().flatten();
            if let (Ok(file), Some(Ok(old))) = (File::open(&file), old.map(Index::parse)) {
                assembly.reuse_file(&file, &old)?;
            }
        }
        Ok(assembly)
    })
    .await?
    .map_err(|source| FetchError::Assemble { component: name, source })
}

async fn chunk(
    uplink: Arc<Uplink>,
    id: ChunkId,
    length: u32,
) -> (ChunkId, Result<Option<Vec<u8>>, UplinkError>) {
    let path = format!("{}/{}", api::CHUNKS, chunk_path(&id));
    // A limit that is one byte short would refuse the longest honest frame.
    let limit = compressed_limit(length) as usize;
    (id, uplink.file(&path, "a chunk", limit).await)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| FetchError::Ended(e.to_string()))
}

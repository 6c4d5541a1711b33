//! A damaged layer: told with one line, then its chunk is fetched again and written in place.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use cairn_bundle::chunk::{Decoder, compressed_limit};
use cairn_bundle::durable::FileError;
use cairn_bundle::manifest::Component;
use cairn_bundle::store::chunk_path;
use cairn_protocol::api;
use cairn_protocol::console::Said;
use cairn_protocol::heartbeat::Severity;
use cairn_protocol::stage::Stage;

use super::health::Health;
use crate::fetch::{self, Places};
use crate::verity_watch::BadBlock;
use crate::worker::context::Context;

/// Tells of a damaged block and tries to mend it.
pub(super) async fn damaged(context: &mut Context, health: &mut Health, bad: BadBlock) {
    let file = backing_file(bad.device);
    let name = file.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| format!("device {}:{}", bad.device.0, bad.device.1));
    let what = if bad.metadata { "block of the hash tree" } else { "block" };
    let line = format!("layer {name}: {what} {} on the disk is damaged; it is fetched again", bad.block);
    context
        .console
        .say(Stage::Service, Said::Refused { code: "layer-corrupt".to_owned(), line: line.clone() });
    tracing::error!(layer = name, block = bad.block, "a layer is damaged");
    context.spool.event(&context.clock, Stage::Service, Severity::Error, "layer-corrupt", &line);
    if !health.damaged.contains(&name) {
        health.damaged.push(name.clone());
    }
    context.report.changed.notify_one();
    match mend(context, file.as_deref(), bad).await {
        Ok(()) => {
            health.damaged.retain(|known| *known != name);
            let line = format!("layer {name}: {what} {} was written anew", bad.block);
            context.tell(Stage::Service, Severity::Info, "layer-repaired", &line);
        }
        Err(why) => {
            let line = format!(
                "layer {name}: not repaired: {why}; its copy of the last boot is used where it can be"
            );
            context.tell(Stage::Service, Severity::Error, "layer-not-repaired", &line);
        }
    }
}

/// The file behind a loop device.
fn backing_file((major, minor): (u32, u32)) -> Option<PathBuf> {
    let path = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/loop/backing_file")).ok()?;
    Some(PathBuf::from(path.trim_end()))
}

async fn mend(context: &mut Context, file: Option<&Path>, bad: BadBlock) -> Result<(), String> {
    let stem = file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    let stem = stem.ok_or("the layer's file is not known")?;
    if bad.metadata {
        return Err("the hash tree is computed anew at the next boot".to_owned());
    }
    let uplink = context.uplink.clone().ok_or("the controller was not reached yet")?;
    let component = component(context, &stem).ok_or("no manifest of this node names it")?;
    let places = Places::new(context.paths.data());
    let index = fetch::index(&uplink, &places, &component).await.map_err(|e| e.to_string())?;
    let offset = bad.block * 4096;
    let entry =
        index.chunk_at(offset).map(|number| index.entry(number)).ok_or("the block is beyond its end")?;
    let path = format!("{}/{}", api::CHUNKS, chunk_path(&entry.id));
    let limit = compressed_limit(entry.length) as usize;
    let frame = uplink.file(&path, "a chunk", limit).await.map_err(|e| e.to_string())?;
    let frame = frame.ok_or("the controller does not have the chunk")?;
    let mut decoder = Decoder::new();
    let plain = decoder.decode(&entry.id, entry.length, &frame).map_err(|e| e.to_string())?;
    // In place: the kernel has the file open below the running root, and reads the block again when it is asked for.
    let target = places.file(&component);
    let write = || -> Result<(), FileError> {
        let file =
            fs::OpenOptions::new().write(true).open(&target).map_err(FileError::at("open", &target))?;
        file.write_all_at(plain, entry.offset).map_err(FileError::at("write", &target))?;
        file.sync_data().map_err(FileError::at("sync", &target))
    };
    write().map_err(|e| e.to_string())
}

/// The component with that digest, from the manifests kept with the generations.
fn component(context: &Context, sha256: &str) -> Option<Component> {
    let store = cairn_disk::generation::Store::open(&context.paths.state()).ok()?;
    let listing = store.list().ok()?;
    listing.stored.iter().find_map(|one| {
        let assignment = crate::running::unverified(one)?;
        assignment.bundles.iter().find_map(|bundle| {
            let bytes = crate::running::manifest(one, &bundle.sha256)?;
            let manifest = cairn_bundle::manifest::parse(&bytes).ok()?;
            manifest.components.into_iter().find(|component| component.sha256.to_string() == sha256)
        })
    })
}

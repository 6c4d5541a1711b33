//! The boot service: plain HTTP for machines that netboot. Nothing it hands out is trusted by the agent.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cairn_netboot::ipxe;
use serde::Deserialize;

use super::files::{self, Label};
use super::input::{Path, Query};
use super::problem::Failure;
use crate::app::App;
use crate::store::nodes;

/// What the boot service needs.
#[derive(Debug, Clone)]
pub struct BootService {
    /// The controller.
    pub app: Arc<App>,
    /// The folder with [`FILES`].
    pub dir: PathBuf,
    /// The kernel command line for machines that load kernel and initramfs.
    pub cmdline: String,
}

/// The files that are handed out.
pub const FILES: [&str; 3] = ["vmlinuz", "initramfs.img", "cairn.efi"];

/// The boot service's routes.
pub fn router(service: BootService) -> Router {
    Router::new()
        .route("/boot.ipxe", get(script))
        .route("/boot/{file}", get(file))
        .fallback(async || Failure::missing("no-such-route", "the boot service has /boot.ipxe and /boot/"))
        .with_state(service)
}

/// What iPXE tells about its machine.
#[derive(Debug, Deserialize)]
pub struct Machine {
    serial: Option<String>,
}

async fn script(
    State(service): State<BootService>,
    Query(machine): Query<Machine>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let serial = machine.serial.unwrap_or_default().trim().to_owned();
    let asked = serial.clone();
    let installed =
        !serial.is_empty() && service.app.store.read(move |tx| nodes::boots_its_disk(tx, &asked)).await?;
    let text = if installed { ipxe::local_disk() } else { boot_script(&service, &headers)? };
    tracing::info!(
        serial = cairn_protocol::limits::clean_text(&serial),
        installed,
        "iPXE asked what to boot"
    );
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

fn boot_script(service: &BootService, headers: &HeaderMap) -> Result<String, Failure> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(Failure::bad("bad-host", "the request names no host"));
    }
    let boot = ipxe::Boot {
        kernel: &format!("http://{host}/boot/vmlinuz"),
        initrd: &format!("http://{host}/boot/initramfs.img"),
        cmdline: &service.cmdline,
    };
    ipxe::boot(&boot).map_err(|e| Failure::internal(&e))
}

async fn file(
    State(service): State<BootService>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if !FILES.contains(&name.as_str()) {
        return Err(Failure::missing("no-such-file", "the boot service has no such file"));
    }
    let path = service.dir.join(&name);
    let meta = tokio::fs::metadata(&path).await.map_err(|_| {
        Failure::missing("no-such-file", format!("{name} is not in the boot folder: make image"))
    })?;
    let modified = meta.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let nanos = modified.map_or(0, |since| since.as_nanos());
    let label = Label {
        etag: format!("\"{:x}-{nanos:x}\"", meta.len()),
        media: if name.ends_with(".efi") { "application/efi" } else { "application/octet-stream" },
        immutable: false,
    };
    files::serve(&path, &label, &method, &headers).await
}

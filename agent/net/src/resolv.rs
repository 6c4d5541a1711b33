//! resolv.conf (resolv.conf(5)): built from checked values only, written whole.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Resolvers written: `MAXNS` of resolv.h; more are never asked.
const SERVERS_MAX: usize = 3;
/// Search domains written: `MAXDNSRCH` of resolv.h.
const SEARCH_MAX: usize = 6;

/// The file for `servers` and `search`, in order, each once. Names that are not names are left out. Fuzz entry point.
pub fn render<'a>(
    servers: impl IntoIterator<Item = IpAddr>,
    search: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut text = String::from("# Written by cairn-agent; changes are lost.\n");
    let mut seen = Vec::new();
    for name in search {
        if let Some(name) = crate::dhcp::names::clean(name)
            && !seen.contains(&name)
            && seen.len() < SEARCH_MAX
        {
            seen.push(name);
        }
    }
    if !seen.is_empty() {
        text.push_str("search ");
        text.push_str(&seen.join(" "));
        text.push('\n');
    }
    let mut kept: Vec<IpAddr> = Vec::new();
    for server in servers {
        let usable = !server.is_unspecified() && !server.is_multicast();
        if usable && !kept.contains(&server) && kept.len() < SERVERS_MAX {
            kept.push(server);
            text.push_str(&format!("nameserver {server}\n"));
        }
    }
    text
}

/// Puts `text` at `path` in one step, mode 0644; does nothing when it is there already.
///
/// # Errors
/// As open(2), write(2) and rename(2).
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|have| have == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text.as_bytes(), 0o644)
}

/// Puts `bytes` at `path` in one step. For files below /run: they need not outlive a power cut.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(&temporary, path)
}

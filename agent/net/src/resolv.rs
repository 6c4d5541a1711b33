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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_once_in_order_and_no_more_than_are_read() {
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        let text = render(
            [ip(1), ip(1), IpAddr::from([0; 4]), IpAddr::from([224, 0, 0, 1]), ip(2), ip(3), ip(4)],
            ["Lab.Example.", "lab.example", "evil\nnameserver 6.6.6.6", "b", "c", "d", "e", "f", "g"],
        );
        assert_eq!(
            text,
            "# Written by cairn-agent; changes are lost.\nsearch lab.example b c d e f\n\
             nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
        );
    }

    #[test]
    fn the_file_is_replaced_whole_and_only_when_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/cairn/resolv.conf");
        write(&path, "a\n").unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let before = inode(&path);
        write(&path, "a\n").unwrap();
        assert_eq!(inode(&path), before);
        write(&path, "b\n").unwrap();
        assert_ne!(inode(&path), before);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn nothing_but_known_lines(
            servers in proptest::collection::vec(any::<IpAddr>(), 0..6),
            search in proptest::collection::vec(".{0,40}", 0..9),
        ) {
            let text = render(servers, search.iter().map(String::as_str));
            for line in text.lines() {
                let known = line.starts_with("# ") || line.starts_with("search ")
                    || line.strip_prefix("nameserver ").is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
                prop_assert!(known && line.is_ascii() && line.len() < 2048, "{:?}", line);
            }
        }
    }
}

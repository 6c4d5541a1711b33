//! The lock file: the versions a recipe was built from, and apt's answers from which it is made.

use serde::{Deserialize, Serialize};

use crate::document::toml_error;

/// A package at one version, as the archive's signed lists name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// Its name.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// SHA-256 of the `.deb`, hexadecimal.
    pub sha256: String,
}

/// `<recipe>.lock`: every package of the layer, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The format: 1.
    pub format: u32,
    /// The packages.
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// Bytes above which a lock file is not read; 1000 packages have 200 KB.
pub const LOCK_BYTES: usize = 4 << 20;

/// Reads a lock file.
///
/// # Errors
/// A line that names what is wrong, and where.
pub fn parse(text: &str) -> Result<Lock, String> {
    if text.len() > LOCK_BYTES {
        return Err(format!("has {} bytes, more than the {LOCK_BYTES} allowed", text.len()));
    }
    let lock: Lock = toml::from_str(text).map_err(|e| {
        let (line, message) = toml_error(text, &e);
        format!("line {line}: {message}")
    })?;
    if lock.format != 1 {
        return Err(format!("has format {}, this program reads format 1", lock.format));
    }
    for LockedPackage { name, version, sha256 } in &lock.packages {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:~".contains(&b))
        };
        if !word(name) || !word(version) || !is_sha256(sha256) {
            return Err(format!("{name:?} {version:?} is not a package at a version with a sha256"));
        }
    }
    Ok(lock)
}

/// Writes a lock file; the same packages give the same text.
#[must_use]
pub fn format(lock: &Lock) -> String {
    let mut text = String::from(
        "# The versions this recipe was built from. Written by `cairnctl bundle build --update-lock`.\nformat = 1\n",
    );
    for LockedPackage { name, version, sha256 } in &lock.packages {
        text.push_str(&format!(
            "\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsha256 = \"{sha256}\"\n"
        ));
    }
    text
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A file that apt would fetch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Download {
    /// The package.
    pub package: LockedPackage,
    /// The name under which apt keeps the file.
    pub file: String,
    /// Its length in bytes.
    pub length: u64,
}

/// Reads `apt-get --print-uris` with SHA-256 digests: `'uri' name_version_arch.deb length SHA256:hex` per line, sorted.
///
/// # Errors
/// The line that is not of that form.
pub fn parse_uris(text: &str) -> Result<Vec<Download>, String> {
    let mut found: Vec<Download> =
        text.lines().filter(|line| !line.is_empty()).map(parse_uri).collect::<Result<_, _>>()?;
    found.sort();
    Ok(found)
}

fn parse_uri(line: &str) -> Result<Download, String> {
    let read = || {
        let mut words = line.rsplitn(4, ' ');
        let sha256 = words.next()?.strip_prefix("SHA256:").filter(|hex| is_sha256(hex))?;
        let length = words.next()?.parse().ok()?;
        let file = words.next()?;
        let mut parts = file.strip_suffix(".deb")?.split('_');
        let (name, version) = (parts.next()?, parts.next()?.replace("%3a", ":"));
        parts.next()?;
        let package = LockedPackage { name: name.to_owned(), version, sha256: sha256.to_owned() };
        (!file.contains('/')).then(|| Download { package, file: file.to_owned(), length })
    };
    read().ok_or_else(|| format!("apt-get said {line:?}, which is not a file with a SHA-256"))
}

/// What a build took that its lock file does not say, one line each.
#[must_use]
pub fn differences(locked: &Lock, taken: &[LockedPackage]) -> Vec<String> {
    let version = |list: &[LockedPackage], name: &str| {
        list.iter().find(|package| package.name == name).map(|package| package.version.clone())
    };
    let mut names: Vec<&str> =
        locked.packages.iter().chain(taken).map(|package| package.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let lines =
        names.into_iter().filter_map(|name| match (version(&locked.packages, name), version(taken, name)) {
            (Some(old), Some(new)) if old != new => Some(format!("{name}: locked {old}, took {new}")),
            (Some(old), None) => Some(format!("{name}: locked {old}, not taken")),
            (None, Some(new)) => Some(format!("{name}: not locked, took {new}")),
            _ => None,
        });
    lines.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage { name: name.to_owned(), version: version.to_owned(), sha256: "ab".repeat(32) }
    }

    #[test]
    fn a_lock_reads_what_it_writes() {
        let lock = Lock { format: 1, packages: vec![package("a", "1:2.0-1+deb13u1"), package("b", "3~rc1")] };
        assert_eq!(parse(&format(&lock)).unwrap(), lock);
        for (from, to) in [
            ("format = 1", "format = 2"),
            ("name = \"a\"", "name = \"-a\""),
            ("abab", "xxxx"),
            ("sha256", "sha1"),
        ] {
            assert!(parse(&format(&lock).replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn apt_names_files() {
        let hex = "cd".repeat(32);
        let text = format!(
            "'http://m/p/zlib1g.deb' zlib1g_1%3a1.3+x_amd64.deb 88720 SHA256:{hex}\n'x' a_1_all.deb 5 SHA256:{hex}\n"
        );
        let found = parse_uris(&text).unwrap();
        assert_eq!(found[0].package.name, "a");
        assert_eq!(found[1].package.version, "1:1.3+x");
        assert_eq!(found[1].length, 88720);
        for bad in ["'x' a_1_all.deb 5 MD5Sum:00", "nonsense", "'x' ../a_1_all.deb 5 SHA256:x"] {
            assert!(parse_uris(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn differences_are_named() {
        let lock =
            Lock { format: 1, packages: vec![package("a", "1"), package("b", "1"), package("d", "1")] };
        let taken = [package("a", "1"), package("b", "2"), package("c", "1")];
        assert_eq!(
            differences(&lock, &taken),
            ["b: locked 1, took 2", "c: not locked, took 1", "d: locked 1, not taken"]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = parse(&text);
            let _ = parse_uris(&text);
        }
    }
}

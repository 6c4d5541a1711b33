//! Names of UKIs on the ESP and the tries in them (systemd: "Automatic Boot Assessment"; UAPI group: Boot Loader
//! Specification, "Boot counting"). Pure.
//!
//! `cairn_1.2+2.efi` has two tries left; the loader renames it to `cairn_1.2+1-1.efi`, then `cairn_1.2+0-2.efi`, before it
//! starts it. Without a counter the entry is good for ever.

use std::fmt;

/// The name of one UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiName {
    /// The version.
    pub version: String,
    /// Tries left and tries done; `None` for a good one.
    pub tries: Option<(u8, u8)>,
}

const PREFIX: &str = "cairn_";
const SUFFIX: &str = ".efi";

/// Whether `version` can be in a UKI's name: 1 to 64 of letters, digits, `.`, `-`, `_` and `~`. No `+`: the loader would
/// take what follows for a counter.
pub fn is_version(version: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b".-_~".contains(&b);
    (1..=64).contains(&version.len()) && version.bytes().all(fits) && !version.starts_with('.')
}

impl UkiName {
    /// Reads a file name; `None` for a file that is none of ours. FAT tells no case apart.
    pub fn parse(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        if !(lower.starts_with(PREFIX) && lower.ends_with(SUFFIX)) {
            return None;
        }
        let stem = name.get(PREFIX.len()..name.len().checked_sub(SUFFIX.len())?)?;
        let (version, tries) = match stem.split_once('+') {
            None => (stem, None),
            Some((version, counter)) => (version, Some(counter_of(counter)?)),
        };
        is_version(version).then(|| Self { version: version.to_owned(), tries })
    }

    /// Whether the loader has given up on it: it then boots it only when nothing else is left.
    pub fn is_spent(&self) -> bool {
        matches!(self.tries, Some((0, _)))
    }
}

fn counter_of(text: &str) -> Option<(u8, u8)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // The loader takes more; what does not fit here is as good as endless.
        digits.then(|| text.parse().unwrap_or(u8::MAX))
    };
    match text.split_once('-') {
        None => Some((number(text)?, 0)),
        Some((left, done)) => Some((number(left)?, number(done)?)),
    }
}

impl fmt::Display for UkiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.version)?;
        match self.tries {
            None => {}
            Some((left, 0)) => write!(f, "+{left}")?,
            Some((left, done)) => write!(f, "+{left}-{done}")?,
        }
        f.write_str(SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_as_the_loader_writes_them() {
        for (name, version, tries) in [
            ("cairn_1.0.efi", "1.0", None),
            ("cairn_1.0+2.efi", "1.0", Some((2, 0))),
            ("cairn_1.0+1-1.efi", "1.0", Some((1, 1))),
            ("cairn_2.0-rc1+0-2.efi", "2.0-rc1", Some((0, 2))),
            ("CAIRN_1.0.EFI", "1.0", None),
            ("cairn_1.0+999.efi", "1.0", Some((255, 0))),
        ] {
            let want = UkiName { version: version.to_owned(), tries };
            assert_eq!(UkiName::parse(name), Some(want), "{name}");
        }
        for other in [
            "linux.efi",
            "cairn_.efi",
            "cairn_1+.efi",
            "cairn_1+a.efi",
            "cairn_1+1-.efi",
            "cairn_1+1+1.efi",
            "cairn_1.efi.tmp",
            "cairn_.x.efi",
            "cairn_a b.efi",
            ".efi",
            "",
        ] {
            assert_eq!(UkiName::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_read_back(version in "[a-zA-Z0-9_~-][a-zA-Z0-9._~-]{0,20}", tries in prop::option::of((any::<u8>(), any::<u8>()))) {
            let name = UkiName { version, tries };
            prop_assert_eq!(UkiName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn any_text_is_read_without_a_panic(name in ".{0,40}") {
            let _ = UkiName::parse(&name);
            let _ = UkiName::parse(&format!("cairn_{name}.efi"));
        }
    }
}

//! Which disk a selector means. Node and `cairnctl plan preview` ask the same function, so a preview is the truth.
//!
//! - Every property that the selector names must hold. Texts are compared by letter case, with `*` for any run of
//!   characters and `?` for any one.
//! - A disk on USB or in a removable drive counts only where the selector names its transport: the stick that a node
//!   was booted from must never be what `path: "*"` finds.
//! - A drive without a medium (size 0) never counts.
//! - One match is an answer. None or several is an error that says what was seen.

use std::fmt;

use crate::inventory::Disk;
use crate::limits::clean_text;
use crate::plan::{Selector, Size};

/// Disks that an error names; the rest is counted.
const NAMED: usize = 8;

/// Why a selector gave no disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The machine has no disk that can be chosen at all.
    #[error("this machine shows no disk{}", .removable.then_some(" but removable ones, which count only where `match` names their transport").unwrap_or_default())]
    NoDisks {
        /// Whether there are disks on USB or in removable drives.
        removable: bool,
    },
    /// There are disks, and none has the properties.
    #[error("no disk has {wanted}; there are: {seen}")]
    None {
        /// The selector, as in the plan.
        wanted: String,
        /// The disks that were looked at.
        seen: Seen,
    },
    /// A disk has every property but the size.
    #[error("disk {name} is what the plan asks for but for its size: it has {size}, min-size is {min}")]
    TooSmall {
        /// The largest of those disks.
        name: String,
        /// Its size.
        size: Size,
        /// The least the plan takes.
        min: Size,
    },
    /// More than one disk has the properties.
    #[error("{} disks have {wanted}, and one is wanted: {}; add serial, wwn or path to `match`", .names.len(), Seen(.names.clone()))]
    Ambiguous {
        /// The selector, as in the plan.
        wanted: String,
        /// Kernel names of all that match.
        names: Vec<String>,
    },
}

impl SelectError {
    /// The stable word for console and events.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoDisks { .. } | Self::None { .. } => "disk-none",
            Self::TooSmall { .. } => "disk-too-small",
            Self::Ambiguous { .. } => "disk-ambiguous",
        }
    }
}

/// Texts of an error, shown up to a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(pub Vec<String>);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", "))?;
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The one disk of `disks` that `selector` means.
///
/// # Errors
/// [`SelectError`] unless exactly one matches.
pub fn select<'a>(disks: &'a [Disk], selector: &Selector) -> Result<&'a Disk, SelectError> {
    let eligible: Vec<&Disk> = disks.iter().filter(|disk| is_eligible(disk, selector)).collect();
    if eligible.is_empty() {
        return Err(SelectError::NoDisks { removable: disks.iter().any(|disk| disk.size_bytes > 0) });
    }
    let unsized_matches: Vec<&Disk> =
        eligible.iter().copied().filter(|disk| texts_match(disk, selector)).collect();
    let matches: Vec<&Disk> =
        unsized_matches.iter().copied().filter(|disk| size_matches(disk.size_bytes, selector)).collect();
    match (matches.as_slice(), selector.min_size) {
        ([disk], _) => Ok(disk),
        ([], Some(min)) => match unsized_matches.iter().max_by_key(|disk| disk.size_bytes) {
            Some(disk) if disk.size_bytes < min.0 => {
                Err(SelectError::TooSmall { name: clean_text(&disk.name), size: Size(disk.size_bytes), min })
            }
            _ => Err(none(&eligible, selector)),
        },
        ([], None) => Err(none(&eligible, selector)),
        _ => Err(SelectError::Ambiguous {
            wanted: describe(selector),
            names: matches.iter().map(|disk| clean_text(&disk.name)).collect(),
        }),
    }
}

fn none(eligible: &[&Disk], selector: &Selector) -> SelectError {
    let seen = eligible.iter().map(|disk| summary(disk)).collect();
    SelectError::None { wanted: describe(selector), seen: Seen(seen) }
}

fn is_eligible(disk: &Disk, selector: &Selector) -> bool {
    let portable = disk.removable || disk.transport == "usb";
    disk.size_bytes > 0 && (!portable || selector.transport.as_deref() == Some(disk.transport.as_str()))
}

fn texts_match(disk: &Disk, selector: &Selector) -> bool {
    let pairs = [
        (&selector.transport, &disk.transport),
        (&selector.model, &disk.model),
        (&selector.serial, &disk.serial),
        (&selector.wwn, &disk.wwn),
        (&selector.path, &disk.path),
    ];
    pairs.into_iter().all(|(pattern, text)| pattern.as_ref().is_none_or(|pattern| glob(pattern, text)))
}

fn size_matches(bytes: u64, selector: &Selector) -> bool {
    selector.min_size.is_none_or(|min| bytes >= min.0) && selector.max_size.is_none_or(|max| bytes <= max.0)
}

/// One disk in a few words: `vda (virtio, 8GiB, serial X)`.
fn summary(disk: &Disk) -> String {
    let mut text = format!("{} ({}, {}", disk.name, disk.transport, Size(disk.size_bytes));
    for (label, value) in [("model", &disk.model), ("serial", &disk.serial)] {
        if !value.is_empty() {
            text.push_str(&format!(", {label} {value}"));
        }
    }
    clean_text(&(text + ")"))
}

/// The selector as a plan writes it: `transport virtio, min-size 8GiB`.
pub fn describe(selector: &Selector) -> String {
    let sizes = [("min-size", selector.min_size), ("max-size", selector.max_size)];
    let texts = [
        ("transport", &selector.transport),
        ("model", &selector.model),
        ("serial", &selector.serial),
        ("wwn", &selector.wwn),
        ("path", &selector.path),
    ];
    let texts =
        texts.into_iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key} {value}")));
    let sizes = sizes.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key} {value}")));
    let all: Vec<String> = texts.chain(sizes).collect();
    if all.is_empty() { "any property".to_owned() } else { clean_text(&all.join(", ")) }
}

/// Whether all of `text` fits `pattern`, in which `*` is any run of characters and `?` any one.
/// Takes at most `pattern` times `text` steps.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands and how far it has eaten.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(name: &str, transport: &str, size: u64) -> Disk {
        Disk {
            name: name.to_owned(),
            transport: transport.to_owned(),
            size_bytes: size,
            serial: format!("S-{name}"),
            path: format!("pci-{name}"),
            ..Disk::default()
        }
    }

    fn selector(yaml: &str) -> Selector {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn machine() -> Vec<Disk> {
        vec![
            disk("vda", "virtio", 8 << 30),
            disk("nvme0n1", "nvme", 1 << 40),
            disk("nvme1n1", "nvme", 2 << 40),
            disk("sda", "usb", 16 << 30),
            Disk { removable: true, ..disk("sr0", "sata", 0) },
        ]
    }

    #[test]
    fn one_match_is_the_answer() {
        for (yaml, name) in [
            ("transport: virtio", "vda"),
            ("{transport: nvme, min-size: 1500GB}", "nvme1n1"),
            ("max-size: 8GiB", "vda"),
            ("serial: S-nvme0*", "nvme0n1"),
            ("path: pci-nvme?n1\nmax-size: 1TiB", "nvme0n1"),
            ("transport: usb", "sda"),
        ] {
            assert_eq!(select(&machine(), &selector(yaml)).map(|d| d.name.as_str()), Ok(name), "{yaml}");
        }
    }

    #[test]
    fn everything_else_says_why() {
        for (yaml, code, words) in [
            (
                "transport: nvme",
                "disk-ambiguous",
                "2 disks have transport nvme, and one is wanted: nvme0n1, nvme1n1",
            ),
            ("path: \"*\"", "disk-ambiguous", "3 disks have path *"),
            (
                "transport: sas",
                "disk-none",
                "no disk has transport sas; there are: vda (virtio, 8GiB, serial S-vda)",
            ),
            ("{transport: virtio, min-size: 9GiB}", "disk-too-small", "it has 8GiB, min-size is 9GiB"),
            (
                "{transport: nvme, max-size: 1GiB, min-size: 1MiB}",
                "disk-none",
                "no disk has transport nvme, min-size 1MiB",
            ),
            ("serial: S-sda", "disk-none", "serial S-sda"),
        ] {
            let error = select(&machine(), &selector(yaml)).unwrap_err();
            assert_eq!(error.code(), code, "{yaml}: {error}");
            assert!(error.to_string().contains(words), "{yaml}: {error}");
        }
        let stick = [disk("sda", "usb", 1 << 30)];
        let error = select(&stick, &selector("path: \"*\"")).unwrap_err();
        assert_eq!(error, SelectError::NoDisks { removable: true });
        assert!(error.to_string().contains("removable"), "{error}");
        assert_eq!(select(&[], &selector("path: \"*\"")), Err(SelectError::NoDisks { removable: false }));
    }

    #[test]
    fn long_lists_are_cut() {
        let disks: Vec<Disk> = (0..500).map(|n| disk(&format!("sd{n}"), "sas", 1 << 40)).collect();
        let error = select(&disks, &selector("transport: sas")).unwrap_err().to_string();
        assert!(error.contains("500 disks") && error.contains("and 492 more"), "{error}");
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("*", "", true),
            ("**", "x", true),
            ("?", "", false),
            ("a*b", "ab", true),
            ("a*b", "axxb", true),
            ("a*b", "axxbc", false),
            ("*aab", "aaaaab", true),
            ("pci-0000:*:03.?", "pci-0000:00:03.0", true),
            ("abc", "ABC", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern:?} {text:?}");
        }
    }

    /// The definition, by recursion.
    fn glob_by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], rest) => rest.is_empty(),
            (['*', p @ ..], rest) => (0..=rest.len()).any(|n| glob_by_definition(p, &rest[n..])),
            (['?', p @ ..], [_, t @ ..]) => glob_by_definition(p, t),
            ([c, p @ ..], [d, t @ ..]) => c == d && glob_by_definition(p, t),
            _ => false,
        }
    }

    prop_compose! {
        fn any_disk()(name in "[a-c]{1,2}", transport in prop::sample::select(vec!["virtio", "nvme", "usb", ""]),
                      size in 0u64..4, removable: bool) -> Disk {
            Disk { removable, ..disk(&name, transport, size << 30) }
        }
    }

    prop_compose! {
        fn any_selector()(min in prop::option::of(0u64..4), max in prop::option::of(0u64..4),
                          transport in prop::option::of(prop::sample::select(vec!["virtio", "nvme", "usb"])),
                          serial in prop::option::of("[S*?a-c-]{0,4}")) -> Selector {
            Selector { min_size: min.map(|n| Size(n << 30)), max_size: max.map(|n| Size(n << 30)),
                       transport: transport.map(str::to_owned), serial, ..Selector::default() }
        }
    }

    proptest! {
        #[test]
        fn globs_mean_what_they_are_defined_to(pattern in "[ab*?]{0,8}", text in "[abc]{0,10}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(glob(&pattern, &text), glob_by_definition(&p, &t));
        }

        #[test]
        fn an_answer_is_the_only_match_and_order_does_not_matter(
            disks in prop::collection::vec(any_disk(), 0..6), selector in any_selector()
        ) {
            let fits = |d: &Disk| is_eligible(d, &selector) && texts_match(d, &selector) && size_matches(d.size_bytes, &selector);
            let count = disks.iter().filter(|d| fits(d)).count();
            let mut reversed = disks.clone();
            reversed.reverse();
            match (select(&disks, &selector), select(&reversed, &selector)) {
                (Ok(a), Ok(b)) => {
                    prop_assert!(fits(a) && count == 1);
                    prop_assert_eq!(a, b);
                    prop_assert!(a.size_bytes > 0);
                    prop_assert!(a.transport != "usb" || selector.transport.as_deref() == Some("usb"));
                }
                (Err(a), Err(b)) => {
                    prop_assert_ne!(count, 1);
                    prop_assert_eq!(a.code(), b.code());
                    prop_assert_eq!(a.code() == "disk-ambiguous", count > 1);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_texts_are_compared_without_a_panic(pattern in ".{0,40}", text in ".{0,40}") {
            let _ = glob(&pattern, &text);
        }
    }
}

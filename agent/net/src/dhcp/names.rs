//! Domain names in DHCP options: RFC 1035 labels, compressed inside one option (RFC 3397).

/// Search domains kept; glibc reads six, musl as many as fit 256 characters.
const SEARCH_MAX: usize = 8;
/// The longest name (RFC 1035 section 2.3.4) as text.
const NAME_MAX: usize = 253;

/// `name` in lower case without a trailing dot, or `None` unless it is a host or domain name: letters, digits, inner
/// hyphens and underscores in labels of 1 to 63. Nothing else may reach resolv.conf or a host name.
pub fn clean(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let fits = !name.is_empty() && name.len() <= NAME_MAX && name.split('.').all(label);
    fits.then(|| name.to_ascii_lowercase())
}

/// The names of option 119, joined from its parts. Names that are not names are left out; what follows the first
/// broken one is dropped. Fuzz entry point.
pub fn parse_search(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() && names.len() < SEARCH_MAX {
        let Some((name, next)) = name(bytes, at) else { break };
        if let Some(name) = clean(&name)
            && !names.contains(&name)
        {
            names.push(name);
        }
        at = next;
    }
    names
}

/// The name at `start` and where the next one begins. A pointer has to point before the name or part that it ends,
/// so following them comes to an end.
fn name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut text, mut at, mut floor, mut next) = (String::new(), start, start, None);
    loop {
        match *bytes.get(at)? {
            0 => return Some((text, next.unwrap_or(at + 1))),
            high @ 0xc0.. => {
                let target = usize::from(high & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
                next = next.or(Some(at + 2));
                if target >= floor {
                    return None;
                }
                (at, floor) = (target, target);
            }
            length @ 1..=63 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                if !text.is_empty() {
                    text.push('.');
                }
                // Not a name then, and `clean` will say so.
                text.extend(label.iter().map(|b| if b.is_ascii() && *b != b'.' { *b as char } else { '?' }));
                if text.len() > NAME_MAX {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_3397() {
        let bytes = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(parse_search(bytes), ["eng.apple.com", "marketing.apple.com"]);
    }

    #[test]
    fn pointers_that_go_nowhere_end_the_list() {
        for bytes in [&b"\xc0\x00"[..], b"\x01a\xc0\x00", b"\x01a\xc0\x02\x00", b"\x3fab", b"\x80"] {
            assert_eq!(parse_search(bytes), Vec::<String>::new().as_slice(), "{bytes:?}");
        }
        for bytes in [&b"\x01a\x00\x01b\xc0\x04"[..], b"\x01a\x00\xc0\x09"] {
            assert_eq!(parse_search(bytes), ["a"], "{bytes:?}");
        }
    }

    #[test]
    fn only_names_pass() {
        assert_eq!(clean("Lab.Example.").as_deref(), Some("lab.example"));
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a\nnameserver 6.6.6.6",
            "ü.de",
            &"a.".repeat(128),
            &"a".repeat(64),
        ] {
            assert_eq!(clean(bad), None, "{bad:?}");
        }
        assert_eq!(parse_search(b"\x03a\nb\x00\x01c\x00"), ["c"]);
    }
}

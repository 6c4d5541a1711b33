//! Shell patterns as netplan's `match` takes them: `*`, `?` and `[...]`.

/// Whether `text` matches `pattern`. Linear in the product of the lengths; both are short.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(next) = one(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
        } else if let Some((at, taken)) = star {
            (p, t) = (at + 1, taken + 1);
            star = Some((at, taken + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Matches one byte of text; the position after the pattern's part.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let (inverted, start) = match pattern.get(p + 1) {
                Some(b'!' | b'^') => (true, p + 2),
                _ => (false, p + 1),
            };
            // A bracket right after the start is a member, not the end.
            let members = pattern.get(start + 1..).unwrap_or_default();
            let Some(length) = members.iter().position(|b| *b == b']') else {
                return (byte == b'[').then_some(p + 1);
            };
            let end = start + 1 + length;
            let (mut at, mut found) = (start, false);
            while at < end {
                if at + 2 < end && pattern[at + 1] == b'-' {
                    found |= (pattern[at]..=pattern[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= pattern[at] == byte;
                    at += 1;
                }
            }
            (found != inverted).then_some(end + 1)
        }
        same => (same == byte).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("*", "eth0", true),
            ("", "", true),
            ("", "a", false),
            ("eth?", "eth0", true),
            ("eth?", "eth10", false),
            ("en*s0", "enp2s0", true),
            ("en*s0", "enp2s0f1", false),
            ("en*s0*", "enp2s0f1", true),
            ("eth[0-3]", "eth2", true),
            ("eth[!0-3]", "eth2", false),
            ("eth[!0-3]", "eth4", true),
            ("eth[]a]", "eth]", true),
            ("eth[", "eth[", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("virtio_net", "virtio_net", true),
        ];
        for (pattern, text, expect) in cases {
            assert_eq!(matches(pattern, text), expect, "{pattern:?} on {text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_comes_to_an_end(pattern in ".{0,24}", text in ".{0,24}") {
            matches(&pattern, &text);
        }

        #[test]
        fn plain_text_matches_itself_alone(text in "[a-z0-9_.-]{0,15}") {
            proptest::prop_assert!(matches(&text, &text));
            let longer = format!("{text}x");
            proptest::prop_assert!(!matches(&text, &longer));
        }
    }
}

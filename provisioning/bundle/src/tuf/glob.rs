//! Path patterns of delegations: shell-style, `*` and `?` never match `/` (specification, 4.5).

/// Whether `path` matches `pattern`: `*`, `?` and `[...]` as in a shell, each within one part of the path.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = (pattern.split('/'), path.split('/'));
    loop {
        match (parts.0.next(), parts.1.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) => {
                let (pattern, part): (Vec<char>, Vec<char>) =
                    (pattern.chars().collect(), part.chars().collect());
                if !part_matches(&pattern, &part) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// One part, in time linear in the product of the lengths: the last `*` alone is taken back.
fn part_matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        if let Some(next) = one(pattern, p, text[t]) {
            p = next;
            t += 1;
        } else if let Some((after_star, from)) = retry {
            p = after_star;
            t = from + 1;
            retry = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches one character; returns where the pattern goes on.
fn one(pattern: &[char], p: usize, c: char) -> Option<usize> {
    match pattern.get(p)? {
        '?' => Some(p + 1),
        '[' => match set(pattern, p, c) {
            Some((matched, next)) => matched.then_some(next),
            // An unclosed bracket stands for itself.
            None => (c == '[').then_some(p + 1),
        },
        literal => (*literal == c).then_some(p + 1),
    }
}

/// A `[...]` set at `p`: whether `c` is in it, and where the pattern goes on.
fn set(pattern: &[char], p: usize, c: char) -> Option<(bool, usize)> {
    let mut at = p + 1;
    let negated = pattern.get(at) == Some(&'!');
    at += usize::from(negated);
    let first = at;
    let mut matched = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((matched != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                matched |= (low..=*high).contains(&c);
                at += 3;
            }
            _ => {
                matched |= low == c;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, path, expected) in [
            ("*", "a", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("os/*/*/manifest.json", "os/base/1.0/manifest.json", true),
            ("os/*/*/manifest.json", "os/base/manifest.json", false),
            ("os/*/*/manifest.json", "os/a/b/c/manifest.json", false),
            ("os/*/*/manifest.json", "kubernetes/a/b/manifest.json", false),
            ("foo-?.tgz", "foo-1.tgz", true),
            ("foo-?.tgz", "foo-12.tgz", false),
            ("foo-?.tgz", "foo-/.tgz", false),
            ("*.md", "README.MD", false),
            ("*.md", ".md", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[ab", "[ab", true),
            ("", "", true),
            ("", "a", false),
            ("?", "é", true),
            ("**", "abc", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        // A pattern made to take exponential time.
        assert!(!matches(&"a*".repeat(2000), &"a".repeat(1999).replace("aaaa", "aaab")));
    }
}

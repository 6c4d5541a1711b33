//! The files of depmod(8) as one look-up: modules.dep, modules.alias, modules.softdep, modules.builtin. Pure.
//!
//! The texts are kept as they are; of the aliases, which are searched for every device, a table of offsets by bus is made
//! once. A map with a string for each would take several times the few hundred KiB of the texts.

use std::collections::{BTreeMap, BTreeSet};

/// The longest of the files that is read, bytes. Debian's complete modules.alias has 1.5 MB.
pub const FILE_LIMIT: u64 = 8 << 20;

/// Modules that one request can load at most; a loop in the files cannot go on for ever.
const REQUEST_LIMIT: usize = 256;

/// The tables of one kernel version.
#[derive(Debug, Default, Clone)]
pub struct Index {
    dep: String,
    alias: String,
    /// Where the aliases of a bus (`pci`), or of exactly that name (`fs-ext4`), lie in `alias`.
    named: BTreeMap<String, Vec<Alias>>,
    /// Those that begin with neither, such as `acpi*:PNP0C31:*`.
    others: Vec<Alias>,
    softdep: String,
    builtin: String,
}

/// An `alias PATTERN MODULE` line by its offsets in the text.
#[derive(Debug, Clone, Copy)]
struct Alias {
    pattern: usize,
    /// Bytes of the pattern before its first wildcard.
    literal: usize,
    module: usize,
    end: usize,
}

/// The name under which an alias is looked for: the text up to its `:`, or all of it.
fn bus(text: &str) -> &str {
    text.split_once(':').map_or(text, |(bus, _)| bus)
}

fn table(alias: &str) -> (BTreeMap<String, Vec<Alias>>, Vec<Alias>) {
    let (mut named, mut others) = (BTreeMap::<String, Vec<Alias>>::new(), Vec::new());
    let mut at = 0;
    for line in alias.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let Some((pattern, rest)) = line.strip_prefix("alias ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        let module = rest.split([' ', '\r', '\n']).next().unwrap_or_default();
        if module.is_empty() {
            continue;
        }
        let literal = pattern.bytes().position(|byte| b"*?[".contains(&byte)).unwrap_or(pattern.len());
        let start = begin + "alias ".len();
        let from = start + pattern.len() + 1;
        let entry = Alias { pattern: start, literal, module: from, end: from + module.len() };
        let name = bus(pattern);
        if literal < name.len() || (literal == name.len() && literal < pattern.len() && name == pattern) {
            others.push(entry);
        } else if let Some(list) = named.get_mut(name) {
            list.push(entry);
        } else {
            named.insert(name.to_owned(), vec![entry]);
        }
    }
    (named, others)
}

/// A module's name as the kernel compares it: without directories and suffixes, `-` as `_`.
pub fn canonical(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.split(".ko").next().unwrap_or(name);
    name.replace('-', "_")
}

/// Whether `canonical(name)` is `canonical_name`, without making a string of it: it is asked for every line of the files.
fn is_called(name: &str, canonical_name: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    let same = |(a, b): (u8, u8)| a == b || (a == b'-' && b == b'_');
    name.len() >= canonical_name.len()
        && name.bytes().zip(canonical_name.bytes()).all(same)
        && (name.len() == canonical_name.len() || name[canonical_name.len()..].starts_with(".ko"))
        && !canonical_name.contains(".ko")
}

impl Index {
    /// Takes the four files' texts; a missing one is empty.
    pub fn new(dep: String, alias: String, softdep: String, builtin: String) -> Self {
        let (named, others) = table(&alias);
        Self { dep, alias, named, others, softdep, builtin }
    }

    /// Whether there is nothing to load from.
    pub fn is_empty(&self) -> bool {
        self.dep.is_empty()
    }

    /// The module files to load for `request` (a modalias or a module's name), in the order they must be loaded,
    /// relative to the modules' directory. Empty where the kernel has it built in, or nobody knows it.
    pub fn files_for(&self, request: &str) -> Vec<&str> {
        let mut order = Order { files: Vec::new(), seen: BTreeSet::new() };
        // A module's name has no colon, a device's modalias always has one.
        let by_name = if request.contains(':') { String::new() } else { canonical(request) };
        if !by_name.is_empty() && (self.line_of(&by_name).is_some() || self.is_builtin(&by_name)) {
            self.add(&by_name, &mut order);
        } else {
            for module in self.modules_of_alias(request) {
                self.add(&canonical(module), &mut order);
            }
        }
        order.files
    }

    /// The modules whose alias matches `request`, in the order of the file.
    pub fn modules_of_alias<'a>(&'a self, request: &str) -> impl Iterator<Item = &'a str> {
        let named = self.named.get(bus(request)).map_or(&[][..], Vec::as_slice);
        let matches = |alias: &&Alias| {
            let text = self.alias.as_bytes();
            let (from, wild) = (alias.pattern, alias.pattern + alias.literal);
            request.as_bytes().strip_prefix(&text[from..wild]).is_some_and(|rest| {
                // The pattern ends one byte before the module.
                fnmatch(&text[wild..alias.module - 1], rest)
            })
        };
        let mut found: Vec<&Alias> = named.iter().chain(&self.others).filter(matches).collect();
        found.sort_by_key(|alias| alias.pattern);
        found.into_iter().filter_map(|alias| self.alias.get(alias.module..alias.end))
    }

    fn is_builtin(&self, canonical_name: &str) -> bool {
        self.builtin.lines().any(|line| is_called(line.trim(), canonical_name))
    }

    /// The modules.dep line of a module: its file, then what it needs.
    fn line_of(&self, canonical_name: &str) -> Option<(&str, &str)> {
        self.dep.lines().find_map(|line| {
            let (file, needs) = line.split_once(':')?;
            is_called(file, canonical_name).then_some((file.trim(), needs))
        })
    }

    fn add<'a>(&'a self, canonical_name: &str, order: &mut Order<'a>) {
        if order.seen.len() >= REQUEST_LIMIT || !order.seen.insert(canonical_name.to_owned()) {
            return;
        }
        let Some((file, needs)) = self.line_of(canonical_name) else { return };
        let (pre, post) = self.softdeps_of(canonical_name);
        for module in pre {
            self.add(&canonical(module), order);
        }
        // depmod lists the whole closure, the deepest need last.
        for need in needs.split_whitespace().rev() {
            self.add(&canonical(need), order);
        }
        order.files.push(file);
        for module in post {
            self.add(&canonical(module), order);
        }
    }

    /// What should be loaded before and after a module, `softdep NAME pre: a b post: c`.
    fn softdeps_of(&self, canonical_name: &str) -> (Vec<&str>, Vec<&str>) {
        let (mut pre, mut post) = (Vec::new(), Vec::new());
        for line in self.softdep.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep")
                || words.next().map(canonical).as_deref() != Some(canonical_name)
            {
                continue;
            }
            let mut after = false;
            for word in words {
                match word {
                    "pre:" => after = false,
                    "post:" => after = true,
                    module if after => post.push(module),
                    module => pre.push(module),
                }
            }
        }
        (pre, post)
    }
}

/// What a request loads, in order.
struct Order<'a> {
    files: Vec<&'a str>,
    seen: BTreeSet<String>,
}

/// fnmatch(3) with `*`, `?` and `[a-z]`, as modules.alias uses it. Linear in time but for the last `*`.
pub fn fnmatch(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(&byte) => (byte == text[t]).then_some(1),
            None => None,
        };
        if let Some(length) = step {
            p += length;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p.min(pattern.len())..].iter().all(|byte| *byte == b'*')
}

/// The length of the `[...]` at the pattern's start if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut members = &pattern[1..end];
    let mut hit = false;
    while let Some((&first, rest)) = members.split_first() {
        if let [b'-', last, ..] = rest {
            hit |= (first..=*last).contains(&byte);
            members = &rest[2..];
        } else {
            hit |= first == byte;
            members = rest;
        }
    }
    hit.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines as depmod writes them for Debian trixie's 6.12 kernel.
    fn debian() -> Index {
        Index::new(
            "kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz\n\
             kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n\
             kernel/net/core/failover.ko.xz:\n\
             kernel/drivers/md/dm-mod.ko.xz:\n\
             kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-bufio.ko.xz kernel/drivers/md/dm-mod.ko.xz\n\
             kernel/drivers/md/dm-bufio.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
             kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz\n\
             kernel/lib/crc16.ko.xz:\n\
             kernel/fs/mbcache.ko.xz:\n\
             kernel/fs/jbd2/jbd2.ko.xz:\n\
             kernel/crypto/crc32c_generic.ko.xz:\n\
             kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz:\n"
                .to_owned(),
            "# Aliases extracted from modules themselves.\n\
             alias virtio:d00000001v* virtio_net\n\
             alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
             alias fs-ext4 ext4\n"
                .to_owned(),
            "# Soft dependencies extracted from modules themselves.\n\
             softdep ext4 pre: crc32c\nsoftdep jbd2 pre: crc32c_generic\n"
                .to_owned(),
            "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n".to_owned(),
        )
    }

    #[test]
    fn a_modalias_brings_its_module_after_what_it_needs() {
        for (request, files) in [
            (
                "virtio:d00000001v00001AF4",
                &[
                    "kernel/net/core/failover.ko.xz",
                    "kernel/drivers/net/net_failover.ko.xz",
                    "kernel/drivers/net/virtio_net.ko.xz",
                ][..],
            ),
            (
                "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00",
                &["kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz"],
            ),
            (
                "dm_verity",
                &[
                    "kernel/drivers/md/dm-mod.ko.xz",
                    "kernel/drivers/md/dm-bufio.ko.xz",
                    "kernel/drivers/md/dm-verity.ko.xz",
                ],
            ),
            (
                "fs-ext4",
                &[
                    "kernel/crypto/crc32c_generic.ko.xz",
                    "kernel/fs/jbd2/jbd2.ko.xz",
                    "kernel/fs/mbcache.ko.xz",
                    "kernel/lib/crc16.ko.xz",
                    "kernel/fs/ext4/ext4.ko.xz",
                ],
            ),
            ("virtio-pci", &[]),
            ("pci:v0000dead", &[]),
        ] {
            assert_eq!(debian().files_for(request), files, "{request}");
        }
    }

    #[test]
    fn a_loop_in_the_files_ends() {
        let index = Index::new(
            "a.ko: b.ko\nb.ko: a.ko\n".to_owned(),
            String::new(),
            "softdep a pre: b post: a\n".to_owned(),
            String::new(),
        );
        assert_eq!(index.files_for("a"), ["b.ko", "a.ko"]);
    }

    #[test]
    fn patterns_match_as_fnmatch() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b", "aXc", false),
            ("usb:v0525p*dc[0-3]*", "usb:v0525p1dc2x", true),
            ("usb:v0525p*dc[0-3]*", "usb:v0525p1dc4x", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[", "[", false),
            ("abc", "ab", false),
        ] {
            assert_eq!(fnmatch(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_files_are_searched_without_a_panic(
            dep in "[a-c./: \n]{0,200}", alias in "(alias [a-c*?\\[\\]-]{0,6} [a-c]\n){0,8}",
            softdep in "(softdep [a-c] (pre|post): [a-c ]{0,4}\n){0,8}", request in "[a-c]{0,3}",
        ) {
            let index = Index::new(dep, alias, softdep, String::new());
            let _ = index.files_for(&request);
        }

        #[test]
        fn the_table_of_aliases_finds_what_a_search_of_all_lines_finds(
            alias in "((alias |#)[a-b:*?\\[\\]-]{0,6} [a-c]?\n){0,12}", request in "[a-b:]{0,5}",
        ) {
            let all: Vec<&str> = alias
                .lines()
                .filter_map(|line| {
                    let (pattern, module) = line.strip_prefix("alias ")?.split_once(' ')?;
                    (!module.is_empty() && fnmatch(pattern.as_bytes(), request.as_bytes())).then_some(module)
                })
                .collect();
            let index = Index::new(String::new(), alias.clone(), String::new(), String::new());
            prop_assert_eq!(index.modules_of_alias(&request).collect::<Vec<_>>(), all);
        }

        #[test]
        fn names_are_compared_as_canonical_says(name in "[a/.ko_-]{0,9}", other in "[a_.ko]{0,5}") {
            prop_assert_eq!(is_called(&name, &other), canonical(&name) == other);
            prop_assert!(is_called(&name, &canonical(&name)));
        }

        #[test]
        fn text_matches_itself_and_a_star(text in "[a-z0-9:]{0,40}") {
            prop_assert!(fnmatch(text.as_bytes(), text.as_bytes()));
            prop_assert!(fnmatch(b"*", text.as_bytes()));
        }
    }
}

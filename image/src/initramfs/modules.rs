//! Choosing kernel modules: the dependency closure of a list of names, and the indexes reduced to what is chosen.
//! Pure functions over the text files that `depmod` writes.

use std::collections::{BTreeMap, BTreeSet};

/// Exact names in `modules.alias`: what a soft dependency such as `crypto-crc32c` stands for. Patterns are left out.
#[derive(Debug, Clone, Default)]
pub struct Aliases(BTreeMap<String, Vec<String>>);

impl Aliases {
    /// Parses `modules.alias` (`alias <pattern> <module>`).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
                && !alias.contains(['*', '?', '['])
            {
                out.entry(alias.replace('-', "_")).or_default().push(name_of(module));
            }
        }
        Self(out)
    }
}

/// A module's name as the kernel knows it: file name without directories and extensions, `_` for `-`.
#[must_use]
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

/// `modules.dep`: what must be loaded before each module.
#[derive(Debug, Clone, Default)]
pub struct Dependencies {
    /// Name -> path relative to the modules directory, and the paths it needs.
    by_name: BTreeMap<String, (String, Vec<String>)>,
}

/// The outcome of [`Dependencies::select`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Module files relative to the modules directory, each with all it depends on.
    pub paths: BTreeSet<String>,
    /// Names asked for that this kernel has no file for: built in, or not there.
    pub absent: Vec<String>,
}

impl Dependencies {
    /// Parses `modules.dep` (`path: path path ...`). Lines of another form are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut by_name = BTreeMap::new();
        for (path, needs) in text.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_whitespace().map(ToOwned::to_owned).collect();
            by_name.insert(name_of(path), (path.to_owned(), needs));
        }
        Self { by_name }
    }

    /// Files for the wanted names, with what `modules.dep` and the `pre:`/`post:` soft dependencies in
    /// `modules.softdep` add. A soft dependency that this kernel lacks is ignored, as modprobe does.
    #[must_use]
    pub fn select<'a>(&self, wanted: impl IntoIterator<Item = &'a str>, softdep: &str) -> Selection {
        let soft = parse_softdep(softdep);
        let mut selection = Selection::default();
        let mut queue: Vec<(String, bool)> = wanted.into_iter().map(|name| (name_of(name), true)).collect();
        let mut seen = BTreeSet::new();
        while let Some((name, asked)) = queue.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let Some((path, needs)) = self.by_name.get(&name) else {
                if asked {
                    selection.absent.push(name);
                }
                continue;
            };
            selection.paths.insert(path.clone());
            queue.extend(needs.iter().map(|path| (name_of(path), true)));
            queue.extend(soft.get(&name).into_iter().flatten().map(|name| (name.clone(), false)));
        }
        selection.absent.sort();
        selection
    }

    /// `modules.dep` with only the selected modules, their files renamed by `rename`.
    #[must_use]
    pub fn reduced(&self, selection: &Selection, rename: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        for path in &selection.paths {
            let needs = self.by_name.get(&name_of(path)).map_or(&[][..], |(_, needs)| needs);
            out.push_str(&rename(path));
            out.push(':');
            for need in needs {
                out.push(' ');
                out.push_str(&rename(need));
            }
            out.push('\n');
        }
        out
    }
}

fn parse_softdep(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("softdep") {
            continue;
        }
        let Some(name) = words.next() else { continue };
        let names = words.filter(|word| !matches!(*word, "pre:" | "post:")).map(name_of);
        out.entry(name_of(name)).or_default().extend(names);
    }
    out
}

/// `modules.softdep` for the selected modules, with aliases replaced by the selected modules they stand for and what
/// is not selected left out: the agent needs no alias look-up for it.
#[must_use]
pub fn reduced_softdep(text: &str, aliases: &Aliases, selection: &Selection) -> String {
    let names: BTreeSet<String> = selection.paths.iter().map(|path| name_of(path)).collect();
    let mut out = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
        if !names.contains(&name_of(module)) {
            continue;
        }
        let mut kept = Vec::new();
        let mut any = false;
        for word in words {
            if matches!(word, "pre:" | "post:") {
                kept.push(word.to_owned());
                continue;
            }
            let word = name_of(word);
            let meant = if names.contains(&word) {
                vec![word]
            } else {
                aliases.0.get(&word).cloned().unwrap_or_default()
            };
            let meant: Vec<String> = meant.into_iter().filter(|name| names.contains(name)).collect();
            any |= !meant.is_empty();
            kept.extend(meant);
        }
        if any {
            out.push_str(&format!("softdep {} {}\n", name_of(module), kept.join(" ")));
        }
    }
    out
}

/// `modules.alias` with only the `alias <pattern> <module>` lines of selected modules.
#[must_use]
pub fn reduced_aliases(text: &str, selection: &Selection) -> String {
    let names: BTreeSet<String> = selection.paths.iter().map(|path| name_of(path)).collect();
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let keep = line.split_whitespace().nth(2).is_some_and(|word| names.contains(&name_of(word)));
        if keep {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DEP: &str = "kernel/a/usb-storage.ko.xz: kernel/b/usbcore.ko.xz kernel/c/scsi_mod.ko.xz\n\
                       kernel/b/usbcore.ko.xz:\n\
                       kernel/c/scsi_mod.ko.xz: kernel/d/common.ko.xz\n\
                       kernel/d/common.ko.xz:\n\
                       kernel/e/ext4.ko.xz:\n\
                       kernel/f/crc32c_generic.ko.xz:\n\
                       kernel/g/unused.ko.xz:\n";

    #[test]
    fn closure_over_hard_and_soft_dependencies() {
        let dep = Dependencies::parse(DEP);
        let selection = dep.select(
            ["usb_storage", "ext4", "none"],
            "softdep ext4 pre: crc32c-generic missing\nsoftdep unused pre: ext4\n",
        );
        let names: Vec<String> = selection.paths.iter().map(|p| name_of(p)).collect();
        assert_eq!(names, ["usb_storage", "usbcore", "scsi_mod", "common", "ext4", "crc32c_generic"]);
        assert_eq!(selection.absent, ["none"]);
        let reduced = dep.reduced(&selection, |p| p.trim_end_matches(".xz").to_owned());
        assert!(reduced.contains("kernel/a/usb-storage.ko: kernel/b/usbcore.ko kernel/c/scsi_mod.ko\n"));
        assert!(!reduced.contains("unused"));
    }

    #[test]
    fn indexes_shrink_to_the_selection() {
        let dep = Dependencies::parse(DEP);
        let selection = dep.select(["usb-storage"], "");
        let alias = "# Aliases\nalias usb:v* usb_storage\nalias pci:v* unused\nalias fs-ext4 ext4\n";
        assert_eq!(reduced_aliases(alias, &selection), "alias usb:v* usb_storage\n");
    }

    #[test]
    fn soft_dependencies_name_modules_that_are_there() {
        let dep = Dependencies::parse(DEP);
        let selection = dep.select(["ext4", "crc32c_generic", "usbcore"], "");
        let aliases = Aliases::parse(
            "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias fs-* ext4\n",
        );
        let text = "softdep ext4 pre: crypto-crc32c nothing post: usbcore\nsoftdep usbcore pre: gone\nsoftdep x pre: ext4\n";
        assert_eq!(
            reduced_softdep(text, &aliases, &selection),
            "softdep ext4 pre: crc32c_generic post: usbcore\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed(text in "\\PC*(\n\\PC*)*", name in "[a-z_-]{0,8}") {
            let dep = Dependencies::parse(&text);
            let selection = dep.select([name.as_str()], &text);
            let _ = dep.reduced(&selection, ToOwned::to_owned);
            let _ = reduced_aliases(&text, &selection);
            let _ = reduced_softdep(&text, &Aliases::parse(&text), &selection);
        }
    }
}

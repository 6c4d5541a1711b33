//! The initramfs: kernel modules, the agent, Debian's file system tools, boot loader pieces, trust.
//!
//! It is three archives one after the other, which the kernel unpacks in turn: the *base* (modules and tools; changes
//! with Debian), the *agent* (changes with our code), and the *trust* (changes with the deployment). Each is compressed
//! apart and remembered by content, so that a changed agent costs seconds, not the whole compression.

pub mod cpio;
pub mod firmware;
pub mod lz4;
pub mod modules;
pub mod tools;
pub mod unpack;

use std::fs;
use std::path::Path;

use self::cpio::Tree;
use self::modules::{Aliases, Dependencies, Selection, name_of, reduced_aliases, reduced_softdep};
use crate::error::{self, Error};
use crate::kernel::Kernel;
use crate::toolbox::{Toolbox, run};

/// Lays out directories and links as on a merged-`/usr` system, and the device node that `/init` gets as its console.
///
/// # Errors
/// Never for an empty tree.
pub fn skeleton(tree: &mut Tree) -> Result<(), Error> {
    for directory in ["dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var"] {
        tree.directory(directory)?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        tree.directory(&format!("usr/{name}"))?;
        tree.link(name, &format!("usr/{name}"))?;
    }
    tree.character("dev/console", 0o600, 5, 1)?;
    Ok(())
}

/// Kernel modules in the image.
#[derive(Debug)]
pub struct Modules {
    /// What was chosen.
    pub selection: Selection,
    /// Bytes of the `.ko` files as stored in the archive.
    pub bytes: u64,
}

/// Adds the modules, with everything they need and the indexes for loading on demand, under `lib/modules/<release>`.
///
/// The files stay `.ko.xz`, which Debian's kernels decompress themselves; docs/image.md says why. `plain_files`:
/// decompressed.
///
/// # Errors
/// When the kernel package is not laid out as expected or a program fails.
pub fn add_modules(
    tree: &mut Tree,
    toolbox: &Toolbox,
    kernel: &Kernel,
    wanted: &[&str],
    plain_files: bool,
) -> Result<Modules, Error> {
    let dir = kernel.modules();
    let text = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(error::file("read", &path))
    };
    let dependencies = Dependencies::parse(&text("modules.dep")?);
    let softdep = text("modules.softdep")?;
    let builtin = text("modules.builtin")?;
    let alias = text("modules.alias")?;
    let mut selection = dependencies.select(wanted.iter().copied(), &softdep);
    let builtin_names: std::collections::BTreeSet<String> = builtin.lines().map(name_of).collect();
    selection.absent.retain(|name| !builtin_names.contains(name));

    let base = format!("usr/lib/modules/{}", kernel.release);
    let rename =
        |path: &str| if plain_files { path.trim_end_matches(".xz").to_owned() } else { path.to_owned() };
    let plain = if plain_files { Some(unpack(toolbox, &dir, &selection)?) } else { None };
    let mut bytes = 0;
    for path in &selection.paths {
        let from = plain.as_ref().map_or(&dir as &Path, |plain| plain.path()).join(rename(path));
        let content = fs::read(&from).map_err(error::file("read", &from))?;
        bytes += content.len() as u64;
        tree.file(&format!("{base}/{}", rename(path)), 0o644, content)?;
    }
    for (name, content) in [
        ("modules.dep", dependencies.reduced(&selection, rename)),
        ("modules.softdep", reduced_softdep(&softdep, &Aliases::parse(&alias), &selection)),
        ("modules.alias", reduced_aliases(&alias, &selection)),
        ("modules.builtin", builtin),
    ] {
        tree.file(&format!("{base}/{name}"), 0o644, content.into_bytes())?;
    }
    Ok(Modules { selection, bytes })
}

/// Decompresses the chosen modules into a temporary directory.
fn unpack(toolbox: &Toolbox, dir: &Path, selection: &Selection) -> Result<tempfile::TempDir, Error> {
    const SCRIPT: &str = r#"out=$1; shift
for f; do mkdir -p "$out/${f%/*}"; case $f in
  *.xz) xz -dc "$f" >"$out/${f%.xz}";;
  *) cp "$f" "$out/$f";;
esac; done"#;
    let out = tempfile::tempdir().map_err(error::file("create a directory in", &std::env::temp_dir()))?;
    let mut command = toolbox.enter().bind_ro(dir).bind(out.path()).cwd(dir).command("sh");
    command.args(["-euc", SCRIPT, "sh"]).arg(out.path()).args(&selection.paths);
    run(&mut command, "decompressing kernel modules", &|_| {})?;
    Ok(out)
}

/// Firmware file names that the chosen modules may ask for.
///
/// # Errors
/// When `modinfo` fails.
pub fn firmware_names(
    toolbox: &Toolbox,
    kernel: &Kernel,
    selection: &Selection,
) -> Result<Vec<String>, Error> {
    let dir = kernel.modules();
    let mut command = toolbox.enter().bind_ro(&dir).cwd(&dir).command("modinfo");
    command.args(["-F", "firmware"]).args(&selection.paths);
    let text = crate::debian::capture(&mut command, false)?;
    let mut names: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

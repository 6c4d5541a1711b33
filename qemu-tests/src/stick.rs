//! USB sticks: the boot image's, and small ones that carry only a seed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cairn_image::toolbox::Toolbox;
use cairn_protocol::seed::FILE_NAME;

use crate::dirs::{self, fail};

/// Where the file system of `cairn-usb.img` starts, as its partition table says and mtools writes it.
const ESP: &str = "@@1M";
/// A stick that carries only a seed; mkfs.vfat wants no less for its defaults.
const SEED_STICK: u64 = 16 << 20;

/// Why a stick was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// A program of the toolbox could not be run.
    #[error("cannot run {program} in the toolbox")]
    Run {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It failed.
    #[error("{program} could not write {}: {said}", path.display())]
    Failed {
        /// Which.
        program: &'static str,
        /// What was to be written.
        path: PathBuf,
        /// Its own words.
        said: String,
    },
}

/// Copies the boot stick's image.
///
/// # Errors
/// When it cannot be copied.
pub fn bootable(image: &Path, stick: &Path) -> Result<(), Error> {
    std::fs::copy(image, stick).map_err(fail("copy", image))?;
    Ok(())
}

/// Makes a stick with one empty file system.
///
/// # Errors
/// See [`Error`].
pub fn empty(toolbox: &Toolbox, stick: &Path) -> Result<(), Error> {
    let file = File::create(stick).map_err(fail("make", stick))?;
    file.set_len(SEED_STICK).map_err(fail("size", stick))?;
    let mut command = toolbox.enter().bind(stick).command("mkfs.vfat");
    command.args(["-n", "CAIRN-SEED"]).arg(stick);
    run("mkfs.vfat", command, stick)
}

/// Puts a seed on a stick, in place of one that is there.
///
/// # Errors
/// See [`Error`].
pub fn put_seed(toolbox: &Toolbox, stick: &Path, bootable: bool, seed: &Path) -> Result<(), Error> {
    let seed = std::path::absolute(seed).map_err(fail("find", seed))?;
    let volume = format!("{}{}", stick.display(), if bootable { ESP } else { "" });
    let mut command = toolbox.enter().bind(stick).bind_ro(&seed).command("mcopy");
    command.args(["-o", "-i", &volume]).arg(&seed).arg(format!("::/{FILE_NAME}"));
    run("mcopy", command, stick)
}

fn run(program: &'static str, mut command: Command, path: &Path) -> Result<(), Error> {
    let out = command.stdin(Stdio::null()).output().map_err(|source| Error::Run { program, source })?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr).trim_end().to_owned();
    Err(Error::Failed { program, path: path.to_owned(), said })
}

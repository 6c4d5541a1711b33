//! A directory as an erofs image, the same bytes each time.

use std::path::Path;

use crate::error::Error;
use crate::toolbox::{Toolbox, run};

/// Bytes per chunk of a file's data. Without it mkfs.erofs packs tails and block addresses between the inodes, and one
/// file that changes its size dirties all metadata: twice the bytes to fetch for a Debian update.
pub const CHUNK_BYTES: u32 = 65_536;

/// A UUID (RFC 9562 version 8: made from a hash) for an image whose inputs have this hexadecimal hash.
///
/// # Panics
/// Never for 32 or more hexadecimal digits.
#[must_use]
pub fn uuid_of(inputs: &str) -> String {
    let mut hex: Vec<char> =
        inputs.chars().filter(char::is_ascii_hexdigit).chain("0".repeat(32).chars()).take(32).collect();
    hex[12] = '8';
    hex[16] = match hex[16].to_digit(16).unwrap_or(0) & 3 {
        0 => '8',
        1 => '9',
        2 => 'a',
        _ => 'b',
    };
    let text: String = hex.into_iter().collect();
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// Writes `root` as an uncompressed erofs image to `image`, which must not exist. Owners, modes and extended attributes
/// (file capabilities) are kept; every time stamp becomes `epoch`, in seconds.
///
/// # Errors
/// When mkfs.erofs fails.
pub fn write(toolbox: &Toolbox, root: &Path, image: &Path, epoch: u64, uuid: &str) -> Result<(), Error> {
    write_with(toolbox, root, image, epoch, uuid, &[])
}

/// As [`write()`], with everything root's, whoever made it.
///
/// # Errors
/// When mkfs.erofs fails.
pub fn write_as_root(
    toolbox: &Toolbox,
    root: &Path,
    image: &Path,
    epoch: u64,
    uuid: &str,
) -> Result<(), Error> {
    write_with(toolbox, root, image, epoch, uuid, &["--all-root"])
}

fn write_with(
    toolbox: &Toolbox,
    root: &Path,
    image: &Path,
    epoch: u64,
    uuid: &str,
    more: &[&str],
) -> Result<(), Error> {
    let home = image.parent().unwrap_or(Path::new("/"));
    let mut command = toolbox.enter().bind_ro(root).bind(home).command("mkfs.erofs");
    command.args(["--quiet", "-b4096", "--workers=1", "--all-time"]);
    command.arg(format!("--chunksize={CHUNK_BYTES}")).arg(format!("-T{epoch}")).arg(format!("-U{uuid}"));
    command.args(more).arg(image).arg(root);
    Ok(run(&mut command, "mkfs.erofs", &|_| {})?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_well_formed() {
        assert_eq!(uuid_of(&"f".repeat(64)), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(uuid_of(&"0".repeat(64)), "00000000-0000-8000-8000-000000000000");
        assert_eq!(uuid_of(""), uuid_of(&"0".repeat(64)));
    }
}

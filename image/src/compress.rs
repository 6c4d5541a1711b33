//! zstd, the same bytes every time, remembered by content.

use std::fs;
use std::io::Write;

use sha2::{Digest, Sha256};

use crate::error::{self, Error};
use crate::toolbox::cache_dir;

/// The level beyond which zstd needs `--ultra`; decompression speed does not depend on it.
pub(crate) const LEVEL: i32 = 19;
/// 64 MiB window: the archive is one window, so a driver's boilerplate is found again in the next driver. The kernel
/// allocates the window while it unpacks.
pub(crate) const WINDOW_LOG: u32 = 26;

/// Compresses in one thread: several would give other bytes than one.
///
/// # Errors
/// When the library refuses a parameter.
pub(crate) fn zstd(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), LEVEL)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.long_distance_matching(true)?;
    encoder.include_checksum(false)?;
    encoder.set_pledged_src_size(Some(data.len() as u64))?;
    encoder.write_all(data)?;
    encoder.finish()
}

/// As [`zstd`], from the cache when the same bytes were compressed before.
///
/// # Errors
/// When there is no cache directory or the library refuses. A cache that cannot be written to is passed over.
pub(crate) fn zstd_cached(data: &[u8]) -> Result<Vec<u8>, Error> {
    let mut hash = Sha256::new();
    hash.update(format!("{LEVEL} {WINDOW_LOG} {}\n", zstd::zstd_safe::version_number()));
    hash.update(data);
    let dir = cache_dir()?.join("zstd");
    let path = dir.join(hex::encode(hash.finalize()));
    if let Ok(found) = fs::read(&path) {
        return Ok(found);
    }
    let compressed = zstd(data).map_err(error::file("compress for", &path))?;
    let _ = fs::create_dir_all(&dir);
    if let Ok(mut tmp) = tempfile::NamedTempFile::new_in(&dir)
        && tmp.write_all(&compressed).is_ok()
        && tmp.as_file().sync_all().is_ok()
    {
        let _ = tmp.persist(&path);
    }
    Ok(compressed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn twice_is_the_same_and_comes_back() {
        let data: Vec<u8> = (0..200_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let one = super::zstd(&data).unwrap();
        assert_eq!(one, super::zstd(&data).unwrap());
        let mut decoder = zstd::stream::Decoder::new(&one[..]).unwrap();
        decoder.window_log_max(super::WINDOW_LOG).unwrap();
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut decoder, &mut back).unwrap();
        assert_eq!(back, data);
    }
}

//! One chunk: its name, its compressed form, its limits.
//!
//! A chunk's id is the SHA-256 of its plain bytes. At rest and on the wire it is one zstd frame, a `.cacnk` file of
//! casync's and desync's stores.

use sha2::{Digest as _, Sha256};

use crate::Sha256Digest;

/// A chunk's name: the SHA-256 of its plain bytes.
pub type ChunkId = Sha256Digest;

/// The least a chunk has, but for the last of a component. 16 KiB: below, index and requests outgrow the savings
/// (measured in docs/bundles.md).
pub const MIN_BYTES: u32 = 16 << 10;
/// What a chunk has on average.
pub const AVG_BYTES: u32 = 64 << 10;
/// The most a chunk has.
pub const MAX_BYTES: u32 = 256 << 10;
/// The most plain bytes a chunk of anybody's index may have; a reader's buffer is this long at most.
pub const HARD_MAX_BYTES: u32 = 1 << 20;

/// zstd's level for chunks. A chunk is compressed once and sent to thousands of sites: 19 sends 12 to 18 % less than 3.
pub const DEFAULT_LEVEL: i32 = 19;

/// The most bytes that a frame of `plain` bytes may have: zstd's own bound (`ZSTD_COMPRESSBOUND` in `zstd.h`), and room
/// for a frame header and checksum. What is longer is not read.
pub const fn compressed_limit(plain: u32) -> u32 {
    plain + (plain >> 8) + 128
}

/// Why a chunk was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Longer than any frame of that many plain bytes.
    #[error(
        "chunk {id} came with {length} bytes, more than the {limit} a chunk of its size can have: it was not read"
    )]
    TooLong {
        /// Which.
        id: ChunkId,
        /// Its length.
        length: usize,
        /// The limit.
        limit: u32,
    },
    /// Not a zstd frame of the length that the index says.
    #[error("chunk {id} does not unpack to the {expected} bytes its index says: it was damaged or replaced")]
    Frame {
        /// Which.
        id: ChunkId,
        /// What the index says.
        expected: u32,
    },
    /// Other bytes than its name says.
    #[error("chunk {id} has the digest {found}: it was damaged or replaced")]
    Digest {
        /// Which.
        id: ChunkId,
        /// What it was.
        found: Sha256Digest,
    },
}

/// The id of `plain`.
pub fn id_of(plain: &[u8]) -> ChunkId {
    Sha256Digest(Sha256::digest(plain).into())
}

/// Unpacks chunks and checks them; keeps its buffers from one to the next.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder, with no buffer yet.
    ///
    /// # Panics
    /// When there is no memory for zstd's context (160 KiB).
    pub fn new() -> Self {
        Self { zstd: zstd::bulk::Decompressor::new().expect("memory for a zstd context"), plain: Vec::new() }
    }

    /// Unpacks `frame`, whose plain bytes must be `length` long and have the digest `id`.
    ///
    /// # Errors
    /// [`ChunkError`]; the bytes are then not to be had.
    pub fn decode(&mut self, id: &ChunkId, length: u32, frame: &[u8]) -> Result<&[u8], ChunkError> {
        let limit = compressed_limit(length.min(HARD_MAX_BYTES));
        if length > HARD_MAX_BYTES || frame.len() > limit as usize {
            return Err(ChunkError::TooLong { id: *id, length: frame.len(), limit });
        }
        let damaged = ChunkError::Frame { id: *id, expected: length };
        self.plain.resize(length as usize, 0);
        match self.zstd.decompress_to_buffer(frame, &mut self.plain[..]) {
            Ok(written) if written == length as usize => {}
            _ => return Err(damaged),
        }
        let found = id_of(&self.plain);
        if found == *id { Ok(&self.plain) } else { Err(ChunkError::Digest { id: *id, found }) }
    }
}

/// Fuzz entry: the first four bytes are the length (little endian), then 32 of the id, the rest is the frame.
pub fn fuzz(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<4>() else { return };
    let Some((id, frame)) = rest.split_first_chunk::<32>() else { return };
    let _ =
        Decoder::new().decode(&Sha256Digest(*id), u32::from_le_bytes(*head) % (HARD_MAX_BYTES + 2), frame);
}

#[cfg(feature = "publish")]
pub use encode::Encoder;

#[cfg(feature = "publish")]
mod encode {
    /// Packs chunks; keeps its context from one to the next.
    pub struct Encoder(zstd::bulk::Compressor<'static>);

    impl Encoder {
        /// An encoder at zstd's `level` (1 to 22).
        ///
        /// # Errors
        /// When zstd has no such level or no memory.
        pub fn new(level: i32) -> std::io::Result<Self> {
            zstd::bulk::Compressor::new(level).map(Self)
        }

        /// One frame of `plain`.
        ///
        /// # Errors
        /// When zstd has no memory.
        pub fn encode(&mut self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
            self.0.compress(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (ChunkId, Vec<u8>, Vec<u8>) {
        let plain: Vec<u8> = (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).take(200_000).collect();
        let frame = Encoder::new(3).unwrap().encode(&plain).unwrap();
        (id_of(&plain), plain, frame)
    }

    #[test]
    fn a_chunk_comes_back() {
        let (id, plain, frame) = sample();
        let mut decoder = Decoder::new();
        for _ in 0..2 {
            assert_eq!(decoder.decode(&id, plain.len() as u32, &frame).unwrap(), plain);
        }
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let (id, plain, frame) = sample();
        let mut decoder = Decoder::new();
        for at in (0..frame.len()).step_by(1 + frame.len() / 200) {
            let mut bad = frame.clone();
            bad[at] ^= 0x20;
            // A flipped bit may hit a part of the header that says nothing about the bytes; it may never change them.
            if let Ok(read) = decoder.decode(&id, plain.len() as u32, &bad) {
                assert_eq!(read, plain, "byte {at}");
            }
        }
    }

    #[test]
    fn wrong_lengths_and_bombs_are_refused() {
        let (id, plain, frame) = sample();
        let mut decoder = Decoder::new();
        let length = plain.len() as u32;
        for wrong in [0, 1, length - 1, length + 1] {
            assert!(decoder.decode(&id, wrong, &frame).is_err(), "{wrong}");
        }
        assert!(matches!(
            decoder.decode(&id, HARD_MAX_BYTES + 1, &frame).unwrap_err(),
            ChunkError::TooLong { .. }
        ));
        let long = vec![0; compressed_limit(length) as usize + 1];
        assert!(matches!(decoder.decode(&id, length, &long).unwrap_err(), ChunkError::TooLong { .. }));
        let bomb = Encoder::new(19).unwrap().encode(&vec![0; 64 << 20]).unwrap();
        assert!(matches!(decoder.decode(&id, length, &bomb).unwrap_err(), ChunkError::Frame { .. }));
        let mut two = frame.clone();
        two.extend_from_slice(&frame);
        assert!(decoder.decode(&id, length, &two).is_err());
    }

    #[test]
    fn a_chunk_under_another_name_is_refused() {
        let (_, plain, frame) = sample();
        let other = id_of(b"other");
        assert!(matches!(
            Decoder::new().decode(&other, plain.len() as u32, &frame).unwrap_err(),
            ChunkError::Digest { .. }
        ));
    }

    #[test]
    fn incompressible_chunks_keep_the_limit() {
        let mut x = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .take(MAX_BYTES as usize)
        .collect();
        for length in [1usize, 100, 16 << 10, 65_537, MAX_BYTES as usize] {
            let frame = Encoder::new(19).unwrap().encode(&noise[..length]).unwrap();
            assert!(frame.len() <= compressed_limit(length as u32) as usize, "{length}: {}", frame.len());
        }
    }
}

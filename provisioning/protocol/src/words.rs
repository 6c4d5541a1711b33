//! The words by which a person compares a node's key on its console with the one that central shows.
//!
//! Proquints (D. S. Wilkerson, "A Proposal for Proquints", arXiv:0901.4016): sixteen bits become five letters that
//! can be read aloud. Four of them show 64 bits of the key's SHA-256: finding another key with the same words takes
//! about 2^64 tries, more than a token's short life allows.

use crate::ids::Sha256Digest;

const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
const VOWELS: &[u8; 4] = b"aiou";

fn proquint(word: u16) -> String {
    let consonant = |shift: u16| CONSONANTS[usize::from((word >> shift) & 0xf)] as char;
    let vowel = |shift: u16| VOWELS[usize::from((word >> shift) & 0x3)] as char;
    [consonant(12), vowel(10), consonant(6), vowel(4), consonant(0)].into_iter().collect()
}

/// The four words for a public key (DER SubjectPublicKeyInfo), such as `lusab-babad-gutih-tugad`.
pub fn of_key(spki: &[u8]) -> String {
    let Sha256Digest(digest) = Sha256Digest::of(spki);
    let words: Vec<_> =
        digest[..8].chunks_exact(2).map(|pair| proquint(u16::from_be_bytes([pair[0], pair[1]]))).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proquints_of_the_paper() {
        // 127.0.0.1 and 63.84.220.193, the paper's first two examples.
        for (high, low, text) in [(0x7f00, 0x0001, "lusab-babad"), (0x3f54, 0xdcc1, "gutih-tugad")] {
            assert_eq!(format!("{}-{}", proquint(high), proquint(low)), text);
        }
    }

    #[test]
    fn four_words_for_a_key() {
        assert_eq!(of_key(b"key").split('-').count(), 4);
        assert_ne!(of_key(b"key"), of_key(b"kez"));
    }
}

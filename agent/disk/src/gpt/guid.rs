//! GUIDs as GPT stores them: the first three groups little-endian (UEFI 2.10, appendix A).

use std::fmt;

/// A GUID in its on-disk form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// Where each byte of the text's order lies on disk.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => panic!("not a hexadecimal digit"),
    }
}

impl Guid {
    /// No partition.
    pub const ZERO: Self = Self([0; 16]);

    /// A constant of this program, `8-4-4-4-12` hexadecimal digits; anything else does not compile.
    pub const fn new(text: &str) -> Self {
        let text = text.as_bytes();
        assert!(text.len() == 36, "a GUID has 36 characters");
        let mut guid = [0; 16];
        let (mut at, mut n) = (0, 0);
        while n < 16 {
            if text[at] == b'-' {
                at += 1;
            }
            guid[ORDER[n]] = nibble(text[at]) << 4 | nibble(text[at + 1]);
            at += 2;
            n += 1;
        }
        Self(guid)
    }

    /// A version 4 GUID from 16 random bytes (RFC 9562).
    pub fn random(mut bytes: [u8; 16]) -> Self {
        // On disk the version lies in the high byte of the third group, which is little-endian.
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, at) in ORDER.iter().enumerate() {
            if [4, 6, 8, 10].contains(&n) {
                f.write_str("-")?;
            }
            write!(f, "{:02X}", self.0[*at])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_esp_type_lies_on_disk_as_the_specification_shows() {
        const ESP: Guid = Guid::new("C12A7328-F81F-11D2-BA4B-00C04FD430C8");
        assert_eq!(ESP.0[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(ESP.to_string(), "C12A7328-F81F-11D2-BA4B-00C04FD430C8");
        assert_eq!(Guid::new("21686148-6449-6E6F-744E-656564454649").0, *b"Hah!IdontNeedEFI");
    }

    #[test]
    fn random_ones_are_version_4() {
        let text = Guid::random([0xff; 16]).to_string();
        assert_eq!((&text[14..15], &text[19..20]), ("4", "B"));
    }
}

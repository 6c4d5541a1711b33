//! The sections of a PE file (Microsoft PE/COFF specification), enough to cut a UKI apart. Pure, with limits.

/// Bytes from the start of the file that hold all headers of a UKI; the stub's end is far below.
pub const HEAD_BYTES: usize = 64 << 10;
/// The most sections the Windows loader takes, and more than any UKI has.
const MAX_SECTIONS: u16 = 96;

/// A section: where its bytes lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, such as `.linux`.
    pub name: String,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes that mean something; padding left out.
    pub length: u64,
}

/// Why the bytes are no PE file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    /// A magic is missing.
    #[error("it is not a PE file")]
    Magic,
    /// Headers end in the middle, or lie beyond the first 64 KiB.
    #[error("its headers are cut off")]
    Headers,
    /// More than 96 sections.
    #[error("it has {0} sections, more than {MAX_SECTIONS}")]
    Sections(u16),
    /// A section's bytes lie outside the file.
    #[error("a section lies outside the file")]
    Outside,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The sections of the file of `length` bytes that begins with `head`.
///
/// # Errors
/// [`PeError`].
pub fn sections(head: &[u8], length: u64) -> Result<Vec<Section>, PeError> {
    if !head.starts_with(b"MZ") {
        return Err(PeError::Magic);
    }
    let pe = u32_at(head, 0x3c).ok_or(PeError::Headers)? as usize;
    let coff = head.get(pe..).ok_or(PeError::Headers)?;
    if !coff.starts_with(b"PE\0\0") {
        return Err(PeError::Magic);
    }
    let count = u16_at(coff, 6).ok_or(PeError::Headers)?;
    if count > MAX_SECTIONS {
        return Err(PeError::Sections(count));
    }
    let first = 24 + usize::from(u16_at(coff, 20).ok_or(PeError::Headers)?);
    let mut sections = Vec::with_capacity(usize::from(count));
    for n in 0..usize::from(count) {
        let entry = coff.get(first + 40 * n..first + 40 * (n + 1)).ok_or(PeError::Headers)?;
        let field = |at| u32_at(entry, at).map(u64::from).ok_or(PeError::Headers);
        let (virtual_size, raw_size, offset) = (field(8)?, field(16)?, field(20)?);
        let used = if virtual_size == 0 { raw_size } else { raw_size.min(virtual_size) };
        if used > 0 && offset + used > length {
            return Err(PeError::Outside);
        }
        let name = entry[..8].split(|byte| *byte == 0).next().unwrap_or_default();
        sections.push(Section { name: String::from_utf8_lossy(name).into_owned(), offset, length: used });
    }
    Ok(sections)
}

/// `VERSION_ID` of an os-release text (os-release(5)), as a UKI carries it in `.osrel`.
pub fn version_id(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.trim().strip_prefix("VERSION_ID="))?.trim();
    let quotes = ['"', '\''];
    Some(value.strip_prefix(quotes).and_then(|rest| rest.strip_suffix(quotes)).unwrap_or(value))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A PE file of the given sections, each padded to 512 bytes.
    pub(crate) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c..0x40].copy_from_slice(&0x40_u32.to_le_bytes());
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x46..0x48].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        file[0x54..0x56].copy_from_slice(&16_u16.to_le_bytes());
        for (n, (name, bytes)) in sections.iter().enumerate() {
            let at = 0x40 + 24 + 16 + 40 * n;
            let offset = file.len() as u32;
            let padded = bytes.len().next_multiple_of(512);
            file[at..at + name.len()].copy_from_slice(name.as_bytes());
            file[at + 8..at + 12].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            file[at + 16..at + 20].copy_from_slice(&(padded as u32).to_le_bytes());
            file[at + 20..at + 24].copy_from_slice(&offset.to_le_bytes());
            file.extend_from_slice(bytes);
            file.resize(offset as usize + padded, 0);
        }
        file
    }

    #[test]
    fn sections_are_where_they_were_put() {
        let file = pe(&[(".linux", b"kernel"), (".initrd", &[7; 600]), (".cmdline", b"quiet")]);
        let found = sections(&file, file.len() as u64).unwrap();
        let cut = |n: usize| &file[found[n].offset as usize..][..found[n].length as usize];
        assert_eq!((found[0].name.as_str(), cut(0)), (".linux", b"kernel".as_slice()));
        assert_eq!((found[1].name.as_str(), cut(1)), (".initrd", [7; 600].as_slice()));
        assert_eq!((found[2].name.as_str(), cut(2)), (".cmdline", b"quiet".as_slice()));
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = pe(&[(".linux", b"kernel")]);
        assert_eq!(sections(b"ELF", 3), Err(PeError::Magic));
        assert_eq!(sections(&good[..0x50], 4096), Err(PeError::Headers));
        assert_eq!(sections(&good, 1025), Err(PeError::Outside));
        let mut many = good.clone();
        many[0x46] = 97;
        assert_eq!(sections(&many, 4096), Err(PeError::Sections(97)));
    }

    #[test]
    fn versions() {
        for (text, version) in [
            ("ID=cairn\nVERSION_ID=1.2.3\n", Some("1.2.3")),
            ("VERSION_ID=\"1.2\"\n", Some("1.2")),
            ("ID=cairn\n", None),
            ("VERSION_ID=\n", Some("")),
        ] {
            assert_eq!(version_id(text), version);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), length: u64) {
            let _ = sections(&bytes, length);
            // The same behind a plausible head.
            if bytes.len() > 0x60 {
                bytes[..2].copy_from_slice(b"MZ");
                bytes[0x3c..0x40].copy_from_slice(&0x40_u32.to_le_bytes());
                bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
                if let Ok(found) = sections(&bytes, length) {
                    for section in found {
                        prop_assert!(section.length == 0 || section.offset + section.length <= length);
                    }
                }
            }
        }
    }
}

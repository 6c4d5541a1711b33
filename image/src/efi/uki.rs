//! A unified kernel image: systemd's stub with kernel, initramfs and command line as further PE sections
//! (UAPI.5, <https://uapi-group.org/specifications/specs/unified_kernel_image/>).
//!
//! Written by hand and not by objcopy: that one stamps the time and keeps alignment rules of its own. The PE layout is
//! Microsoft's "PE Format"; offsets below are relative to the `PE\0\0` signature unless said otherwise.

/// Why a stub cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short, or a magic number is wrong.
    #[error("the stub is not a PE32+ file")]
    NotPe,
    /// No space for our section headers.
    #[error("the stub's header has no room for {0} more sections")]
    NoRoom(usize),
    /// Image beyond 4 GiB.
    #[error("the image would be larger than a PE file can be")]
    TooLarge,
}

/// A section to be added.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Up to 8 bytes, with its dot.
    pub name: &'static str,
    /// Content.
    pub data: &'a [u8],
}

const SECTION_HEADER: usize = 40;
/// IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ.
const READ_ONLY_DATA: u32 = 0x4000_0040;

fn u16_at(data: &[u8], at: usize) -> Result<usize, Error> {
    data.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).ok_or(Error::NotPe)
}

fn u32_at(data: &[u8], at: usize) -> Result<usize, Error> {
    let bytes = data.get(at..at + 4).ok_or(Error::NotPe)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

fn put(data: &mut [u8], at: usize, value: usize) -> Result<(), Error> {
    let value = u32::try_from(value).map_err(|_| Error::TooLarge)?;
    data.get_mut(at..at + 4).ok_or(Error::NotPe)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Appends the sections to a stub.
///
/// # Errors
/// See [`Error`].
pub fn build(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>, Error> {
    let pe = u32_at(stub, 0x3c)?;
    // PE32+ magic of the optional header, which follows signature (4) and COFF header (20).
    if stub.get(..2) != Some(b"MZ")
        || stub.get(pe..pe + 4) != Some(b"PE\0\0")
        || u16_at(stub, pe + 24)? != 0x20b
    {
        return Err(Error::NotPe);
    }
    let count = u16_at(stub, pe + 6)?;
    let optional = u16_at(stub, pe + 20)?;
    let section_alignment = u32_at(stub, pe + 24 + 32)?;
    let file_alignment = u32_at(stub, pe + 24 + 36)?;
    let header_size = u32_at(stub, pe + 24 + 60)?;
    if !section_alignment.is_power_of_two() || !file_alignment.is_power_of_two() {
        return Err(Error::NotPe);
    }
    let table = pe + 24 + optional;
    let first_free = table + count * SECTION_HEADER;
    if first_free + sections.len() * SECTION_HEADER > header_size {
        return Err(Error::NoRoom(sections.len()));
    }

    let mut next_address = 0;
    for index in 0..count {
        let header = table + index * SECTION_HEADER;
        next_address = next_address.max(u32_at(stub, header + 8)? + u32_at(stub, header + 12)?);
    }
    let mut out = stub.to_vec();
    let mut initialized = u32_at(stub, pe + 24 + 8)?;
    for (index, section) in sections.iter().enumerate() {
        next_address = next_address.next_multiple_of(section_alignment);
        out.resize(out.len().next_multiple_of(file_alignment), 0);
        let raw_size = section.data.len().next_multiple_of(file_alignment);
        let header = first_free + index * SECTION_HEADER;
        let mut name = [0; 8];
        name[..section.name.len().min(8)]
            .copy_from_slice(&section.name.as_bytes()[..section.name.len().min(8)]);
        let at = out.len();
        out[header..header + SECTION_HEADER].fill(0);
        out[header..header + 8].copy_from_slice(&name);
        put(&mut out, header + 8, section.data.len())?;
        put(&mut out, header + 12, next_address)?;
        put(&mut out, header + 16, raw_size)?;
        put(&mut out, header + 20, at)?;
        put(&mut out, header + 36, READ_ONLY_DATA as usize)?;
        out.extend_from_slice(section.data);
        out.resize(at + raw_size, 0);
        next_address += section.data.len();
        initialized += raw_size;
    }
    let total = u16::try_from(count + sections.len()).map_err(|_| Error::TooLarge)?;
    out[pe + 6..pe + 8].copy_from_slice(&total.to_le_bytes());
    put(&mut out, pe + 24 + 8, initialized)?;
    put(&mut out, pe + 24 + 56, next_address.next_multiple_of(section_alignment))?;
    // CheckSum: 0 means none; UEFI does not look at it.
    put(&mut out, pe + 24 + 64, 0)?;
    Ok(out)
}

/// The sections of a PE32+ file by name, cut to their virtual size. For tests and tools; the boot loaders read them
/// themselves.
///
/// # Errors
/// When the file is not PE32+ or a section points outside of it.
pub fn sections(image: &[u8]) -> Result<Vec<(String, &[u8])>, Error> {
    let pe = u32_at(image, 0x3c)?;
    if image.get(pe..pe.saturating_add(4)) != Some(b"PE\0\0") {
        return Err(Error::NotPe);
    }
    let table = pe + 24 + u16_at(image, pe + 20)?;
    let mut out = Vec::new();
    for index in 0..u16_at(image, pe + 6)? {
        let header = table + index * SECTION_HEADER;
        let name = image.get(header..header + 8).ok_or(Error::NotPe)?;
        let size = u32_at(image, header + 8)?.min(u32_at(image, header + 16)?);
        let at = u32_at(image, header + 20)?;
        let data = image.get(at..at.saturating_add(size)).ok_or(Error::NotPe)?;
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        out.push((name, data));
    }
    Ok(out)
}

/// `.osrel`: what systemd-boot shows, and sorts by.
#[must_use]
pub fn os_release(version: &str) -> String {
    format!(
        "ID=cairn\nNAME=\"Cairn\"\nPRETTY_NAME=\"Cairn {version}\"\nVERSION_ID={version}\nVERSION=\"{version}\"\n\
         IMAGE_ID=cairn\nIMAGE_VERSION={version}\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A PE32+ file with one section and room for more.
    fn stub() -> Vec<u8> {
        let mut data = vec![0; 0x600];
        data[..2].copy_from_slice(b"MZ");
        data[0x3c] = 0x40;
        data[0x40..0x44].copy_from_slice(b"PE\0\0");
        data[0x46] = 1;
        data[0x54] = 0xf0;
        data[0x58..0x5a].copy_from_slice(&0x20b_u16.to_le_bytes());
        put(&mut data, 0x58 + 32, 0x1000).unwrap();
        put(&mut data, 0x58 + 36, 0x200).unwrap();
        put(&mut data, 0x58 + 60, 0x400).unwrap();
        let header = 0x58 + 0xf0;
        data[header..header + 5].copy_from_slice(b".text");
        put(&mut data, header + 8, 0x180).unwrap();
        put(&mut data, header + 12, 0x1000).unwrap();
        put(&mut data, header + 16, 0x200).unwrap();
        put(&mut data, header + 20, 0x400).unwrap();
        data
    }

    #[test]
    fn added_sections_are_found_again() {
        let linux = vec![7; 5000];
        let added =
            [Section { name: ".osrel", data: b"ID=cairn\n" }, Section { name: ".linux", data: &linux }];
        let image = build(&stub(), &added).unwrap();
        let found = sections(&image).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[1], (".osrel".to_owned(), &b"ID=cairn\n"[..]));
        assert_eq!(found[2].1, &linux[..]);
        assert_eq!(image.len() % 0x200, 0);
        // .text ends at 0x1180, .osrel is at 0x2000, .linux at 0x3000 with 5000 bytes: the image ends at 0x5000.
        assert_eq!(u32_at(&image, 0x58 + 56), Ok(0x5000));
        assert_eq!(image, build(&stub(), &added).unwrap());
    }

    #[test]
    fn refusals() {
        assert_eq!(build(b"MZ", &[]), Err(Error::NotPe));
        let many = [Section { name: ".x", data: b"" }; 30];
        assert_eq!(build(&stub(), &many), Err(Error::NoRoom(30)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read(noise in proptest::collection::vec(0_u8.., 0..700), at in 0_usize..0x200) {
            let mut data = stub();
            for (i, byte) in noise.iter().enumerate() {
                if let Some(slot) = data.get_mut(at + i) { *slot = *byte; }
            }
            let _ = sections(&data);
            let _ = sections(&noise);
            let _ = build(&data, &[Section { name: ".a", data: b"x" }]);
        }
    }
}

//! Entry points for the fuzzers: every parser of bytes that a foreign disk or file may hold.

use crate::gpt;
use crate::loader::grubenv::GrubEnv;
use crate::loader::names::UkiName;
use crate::loader::{grub, pe};
use crate::{record, signature};

/// A partition table: header, entries behind it, MBR.
pub fn partition_table(data: &[u8]) {
    if let Some(header) = gpt::parse_header(data) {
        assert!(header.table_bytes() <= 1024 * 512);
        if let Some(table) = gpt::parse_entries(&header, data.get(512..).unwrap_or_default()) {
            assert!(table.numbered().all(|(_, partition)| partition.first <= partition.last));
            let _ = crate::layout::Layout::of_table(&table, 512);
        }
    }
    let _ = signature::parse_mbr(data);
}

/// Signatures in the head and tail of a disk.
pub fn signatures(data: &[u8]) {
    let (head, tail) = data.split_at(data.len() / 2);
    assert!(signature::detect(head, tail).len() <= 32);
    let _ = signature::is_blank(data);
}

/// A UKI's headers.
pub fn uki(data: &[u8]) {
    if let Ok(sections) = pe::sections(data, data.len() as u64) {
        for section in sections.iter().filter(|section| section.length > 0) {
            assert!(section.offset + section.length <= data.len() as u64);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = pe::version_id(text);
    }
}

/// Boot files: names, GRUB's environment, its images.
pub fn boot_files(data: &[u8]) {
    if let Some(name) = std::str::from_utf8(data).ok().and_then(UkiName::parse) {
        assert_eq!(UkiName::parse(&name.to_string()), Some(name));
    }
    let env = GrubEnv::parse(data);
    if let Some(bytes) = env.to_bytes() {
        assert_eq!(GrubEnv::parse(&bytes), env);
    }
    let _ = grub::boot_code(data, 2048);
    let _ = grub::core_image(data, 2048, 1 << 20);
}

/// `install.json` of a disk that may be anybody's.
pub fn install_record(data: &[u8]) {
    let _ = record::parse(data);
}

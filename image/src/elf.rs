//! One question about an ELF file: does it need a dynamic loader? There is none for `/init`.

/// Why a binary cannot be `/init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a 64-bit little-endian x86-64 ELF file.
    #[error("not an x86-64 ELF program")]
    NotElf,
    /// It names an interpreter.
    #[error("not static: build it with RUSTFLAGS=\"-C target-feature=+crt-static\" and an explicit --target")]
    Dynamic,
}

/// `PT_INTERP` of elf(5).
const PT_INTERP: u32 = 3;

/// Checks that a program needs no dynamic loader.
///
/// # Errors
/// See [`Error`].
pub fn check_static(data: &[u8]) -> Result<(), Error> {
    // e_ident: magic, 64 bit, little endian; e_machine at 18: EM_X86_64.
    if data.get(..6) != Some(b"\x7fELF\x02\x01") || data.get(18..20) != Some(&[62, 0]) {
        return Err(Error::NotElf);
    }
    let number = |at: usize, len: usize| {
        let bytes = data.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return Err(Error::NotElf);
    };
    for index in 0..count {
        let at = usize::try_from(table.saturating_add(index * size)).map_err(|_| Error::NotElf)?;
        if number(at, 4).ok_or(Error::NotElf)? == u64::from(PT_INTERP) {
            return Err(Error::Dynamic);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_test_is_dynamic() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check_static(&me), Err(Error::Dynamic));
        assert_eq!(check_static(b"#!/bin/sh"), Err(Error::NotElf));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(noise in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = check_static(&noise);
            let mut data = b"\x7fELF\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\x3e\0".to_vec();
            data.extend(noise);
            let _ = check_static(&data);
        }
    }
}

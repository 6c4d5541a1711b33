//! Extended attributes of a file itself, symbolic links not followed (xattr(7)): file capabilities are one of them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::{Result, SysError};

/// The kernel's own limits: all names of a file (`XATTR_LIST_MAX`), one value (`XATTR_SIZE_MAX`).
const MAX_BYTES: usize = 64 << 10;

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn sized(result: libc::ssize_t, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// All attributes of `path` and their values. A file system without any gives none.
///
/// # Errors
/// [`SysError`].
pub fn list(path: &Path) -> Result<Vec<(CString, Vec<u8>)>> {
    let all = || {
        let c = c_path(path)?;
        let mut names = vec![0_u8; MAX_BYTES];
        // SAFETY: `c` is a NUL-terminated path and `names` has as many writable bytes as is said.
        let result = unsafe { libc::llistxattr(c.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        let names = match sized(result, names) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        names
            .split_inclusive(|byte| *byte == 0)
            .map(|name| {
                let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?.to_owned();
                let mut value = vec![0_u8; MAX_BYTES];
                // SAFETY: both texts are NUL-terminated and `value` has as many writable bytes as is said.
                let result = unsafe {
                    libc::lgetxattr(c.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
                };
                Ok((name, sized(result, value)?))
            })
            .collect()
    };
    all().map_err(SysError::at("read the attributes of", path))
}

/// Sets one attribute of `path`.
///
/// # Errors
/// [`SysError`].
pub fn set(path: &Path, name: &CStr, value: &[u8]) -> Result<()> {
    let set = || {
        let c = c_path(path)?;
        // SAFETY: both texts are NUL-terminated and `value` has as many readable bytes as is said.
        let result =
            unsafe { libc::lsetxattr(c.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    set().map_err(SysError::at("set an attribute of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back() {
        let file = tempfile::NamedTempFile::new().unwrap();
        match set(file.path(), c"user.cairn", b"value") {
            Ok(()) => assert_eq!(list(file.path()).unwrap(), [(c"user.cairn".to_owned(), b"value".to_vec())]),
            // A tmpfs of an older kernel has no user attributes.
            Err(error) => assert_eq!(error.errno(), Some(libc::EOPNOTSUPP), "{error}"),
        }
        assert!(list(Path::new("/no/such/file")).is_err());
    }
}

//! Loading kernel modules (finit_module(2)).

use std::fs::File;
use std::path::Path;

use nix::kmod::{ModuleInitFlags, finit_module};

use crate::{Result, SysError};

/// `MODULE_INIT_COMPRESSED_FILE` of include/uapi/linux/module.h: the kernel decompresses the file itself (since 5.17,
/// with `MODULE_DECOMPRESS` and the algorithm that the file was compressed with).
const COMPRESSED_FILE: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// Loads the module in `path` (`.ko`, or `.ko.zst`, `.ko.xz`, `.ko.gz` where the kernel decompresses) with
/// `parameters` (`name=value` separated by spaces). Its dependencies must be loaded already. A module that is loaded
/// already is fine.
///
/// # Errors
/// [`SysError`]: `ENOENT` no such file or a missing dependency's symbol, `ENOEXEC` not a module of this kernel,
/// `EOPNOTSUPP` compressed and the kernel does not decompress.
pub fn load(path: &Path, parameters: &str) -> Result<()> {
    let at = |e| SysError::at("load the kernel module", path)(e);
    let file = File::open(path).map_err(at)?;
    let parameters = std::ffi::CString::new(parameters).map_err(|e| at(e.into()))?;
    let flags = if is_compressed(path) { COMPRESSED_FILE } else { ModuleInitFlags::empty() };
    match finit_module(&file, &parameters, flags) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(at(error.into())),
    }
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["zst", "xz", "gz"].iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_known_by_the_name() {
        for (name, compressed) in [("a.ko", false), ("a.ko.zst", true), ("a.ko.xz", true), ("a.ko.gz", true)]
        {
            assert_eq!(is_compressed(Path::new(name)), compressed, "{name}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = load(file.path(), "").unwrap_err();
        assert!(error.to_string().contains("load the kernel module"), "{error}");
        assert!(load(Path::new("/no/such.ko"), "").is_err());
    }
}

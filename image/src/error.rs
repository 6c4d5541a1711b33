//! What can go wrong while building an image.

use std::path::{Path, PathBuf};

use crate::{efi, initramfs::cpio, toolbox};

/// A build that stopped. The message says what was being done; causes follow as sources.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The toolbox could not be built or a program in it failed.
    #[error(transparent)]
    Toolbox(#[from] toolbox::Error),
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two parts of the image want the same path.
    #[error("cannot put together the initramfs")]
    Archive(#[from] cpio::Error),
    /// The UKI stub is not what we expect.
    #[error("cannot put together the UKI")]
    Uki(#[from] efi::uki::Error),
    /// A foreign program's answer, or a file of a package, is not what we expect.
    #[error("{what}: {problem}")]
    Unexpected {
        /// Where.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An argument that cannot be used.
    #[error("{0}")]
    Argument(String),
}

impl Error {
    pub(crate) fn unexpected(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into(), problem: problem.into() }
    }
}

/// For `map_err`: a file operation with its path.
pub(crate) fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

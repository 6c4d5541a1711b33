//! What can go wrong with a disk, and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use cairn_bundle::durable::FileError;
use cairn_protocol::plan::Size;
use cairn_protocol::select::SelectError;
use cairn_sys::SysError;

/// An error of this crate. [`DiskError::code`] is set for refusals: the disk was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// None, several or too small by the plan's own words.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// The disk cannot hold the partitions.
    #[error("disk {name} has {size}; with the plan's partition sizes at least {needed} are needed")]
    TooSmall {
        /// Kernel name.
        name: String,
        /// Its size.
        size: Size,
        /// The least size that holds ESP, STATE and the smallest DATA.
        needed: Size,
    },
    /// Somebody else's data is on it.
    #[error("disk {name} holds {what}, and the plan does not allow to overwrite it")]
    Foreign {
        /// Kernel name.
        name: String,
        /// What was found.
        what: String,
    },
    /// A file system of ours is damaged beyond what `e2fsck -p` mends.
    #[error("the file system on {} is damaged: e2fsck ended with status {status}: {said}", path.display())]
    Damaged {
        /// The partition.
        path: PathBuf,
        /// e2fsck's exit status (e2fsck(8)).
        status: i32,
        /// Its last line.
        said: String,
    },
    /// The disk does not carry what it should.
    #[error("{} is not as it should be: {why}", path.display())]
    Unexpected {
        /// The disk, partition or file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A tool failed.
    #[error("{tool} failed on {} ({status}): {said}", path.display())]
    Tool {
        /// The program.
        tool: String,
        /// What it worked on.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// Its last line.
        said: String,
    },
    /// There is no room.
    #[error("{} has {free} free and {needed} are needed", path.display())]
    Full {
        /// The file system.
        path: PathBuf,
        /// Bytes free.
        free: Size,
        /// Bytes needed.
        needed: Size,
    },
    /// A system call.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
}

impl DiskError {
    /// For `map_err`: an error of `doing` something to `path`.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File(FileError { doing, path: path.as_ref().to_owned(), source })
    }

    /// The same for nix's errors.
    pub(crate) fn nix(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let inner = Self::io(doing, path);
        move |errno| inner(errno.into())
    }

    /// The stable word for console and events, where this is a refusal.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Select(error) => Some(error.code()),
            Self::TooSmall { .. } => Some("disk-too-small"),
            Self::Foreign { .. } => Some("disk-foreign"),
            _ => None,
        }
    }

    /// What a person can do about it, in one line.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Select(_) => {
                "compare disks.system.match of the plan with the node's inventory (cairnctl node show)"
            }
            Self::TooSmall { .. } => "choose a larger disk, or smaller esp-size and state-size in the plan",
            Self::Foreign { .. } => {
                "take the disk out, or set disks.system.wipe: true for this node in the plan, which destroys what is on it"
            }
            Self::Damaged { .. } | Self::Unexpected { .. } => {
                "look at the disk's health; to start over: cairnctl node reinstall"
            }
            Self::Full { .. } => "make room, or choose larger partitions in the plan and reinstall",
            Self::Sys(_) | Self::File(_) | Self::Tool { .. } => {
                "look at the kernel's messages for this disk; it may be failing"
            }
        }
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, DiskError>;

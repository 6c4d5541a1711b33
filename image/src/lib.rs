//! Builds Cairn's boot images, layers and the toolbox they are built with.
//!
//! Principles: the same inputs give the same bytes; a build writes to a temporary name and renames, so that what
//! exists is complete; caches are keyed by the hash of their inputs and may be deleted at any time.

pub mod build;
mod compress;
pub mod debian;
pub mod document;
pub mod drivers;
pub mod efi;
pub mod elf;
pub mod error;
pub mod fuzz;
pub mod grub;
pub mod initramfs;
pub mod kernel;
pub mod layer;
pub mod oci;
mod parts;
pub mod sbom;
pub mod toolbox;
pub mod trust;

pub use error::Error;

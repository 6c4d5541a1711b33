//! The Update Framework (<https://theupdateframework.github.io/specification/>, version 1.0.x): what makes a manifest
//! trusted, and what a node notices when somebody withholds, replays or mixes.
//!
//! - [`Updater`] is the client of the specification's section 5. It has no network: it says which file it needs and how
//!   long it may be, and is fed. What it trusts lies in a [`MetadataStore`].
//! - [`offline`] checks again, at boot and without a network, what a generation was installed with.
//! - [`repository`] (feature `publish`) makes, signs and publishes; [`signing`] holds key files.
//!
//! The parts below are pure: [`json`] reads strictly, [`canonical`] writes what is signed, [`metadata`] has the roles'
//! types, [`keys`] verifies.

pub mod canonical;
pub mod error;
mod exchange;
mod glob;
pub mod json;
pub mod keys;
pub mod metadata;
pub mod offline;
#[cfg(feature = "publish")]
pub mod repository;
#[cfg(feature = "publish")]
pub mod signing;
pub mod store;
mod target;
pub mod time;
mod trusted;
pub mod updater;

pub use error::{Mismatch, TufError};
pub use metadata::{Role, TargetInfo};
pub use store::{DirStore, MemoryStore, MetadataStore};
pub use time::Date;
pub use updater::{Answer, Limits, Request, RunError, Step, Updater};

/// Percent-encodes all but unreserved characters (RFC 3986, 2.3): a role's or target's name in a URL or a file name.
pub fn quote(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

/// Fuzz entry: any bytes as each role's metadata.
pub fn fuzz(data: &[u8]) {
    use metadata::{Parsed, Root, Snapshot, Targets, Timestamp};
    let _ = Parsed::<Root>::parse(&Role::Root, data);
    let _ = Parsed::<Timestamp>::parse(&Role::Timestamp, data);
    let _ = Parsed::<Snapshot>::parse(&Role::Snapshot, data);
    let _ = Parsed::<Targets>::parse(&Role::Targets, data);
}

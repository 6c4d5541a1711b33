//! Bundles: what a site installs, how it travels, and why a node may believe it.
//!
//! - A **bundle** is a [`manifest`]: a list of components with their lengths, digests and verity roots. It is a TUF
//!   target; nothing else of a bundle is signed, because everything else is named by digest from there.
//! - A **component** is cut into [`chunk`]s. Its [`caibx`] index lists them in order; a [`store`] keeps them, compressed.
//!   [`assemble`] puts a component together again from what a node has and what it is fed. [`verity`] computes the
//!   hash tree that the kernel checks the component against while it runs.
//! - [`tuf`] is The Update Framework: the client that every node runs, and (feature `publish`) the repository.
//!
//! There is no network here. What needs bytes from elsewhere says which and how many at most, and is fed them; so the
//! agent, the tools, the tests and the fuzzers drive the same code. Nothing from outside is parsed before its length
//! was checked, and nothing is believed before its digest or its signature was.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod assemble;
pub mod caibx;
pub mod chunk;
pub mod durable;
pub mod manifest;
#[cfg(feature = "publish")]
pub mod publish;
pub mod store;
pub mod tuf;
pub mod verity;

pub use cairn_protocol::ids::Sha256Digest;

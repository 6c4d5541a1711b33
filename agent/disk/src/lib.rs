//! Disks of a node: finding and choosing, partitions and file systems, boot loaders, generations, layers, the new root.
//!
//! - Blocking, no threads, no async. Every path can be given, so that all but device-mapper runs on plain files and
//!   loop devices.
//! - What decides is pure (bytes and structs in, a value out): [`gpt`], [`layout`], [`signature`], [`choose`],
//!   [`fat`], [`loader::names`], [`loader::pe`], [`loader::grubenv`], [`loader::grub`], [`generation::choose`].
//! - Foreign data is never written over unless the plan says so for that disk. What cannot be read counts as foreign.
//! - Power may fail at any write. Orders of writes are chosen so that what is left is the old state, the new one, or one
//!   that is known as unfinished and made again; docs/disks.md and docs/generations.md list them.
//! - Errors have `code()`, the stable word where they are a refusal, and `advice()` for a person.
//!
//! | in the order of a boot | |
//! |---|---|
//! | [`discover`], [`content`] | which disks there are and what is on them |
//! | [`installed`], [`record`] | the disk that carries a finished installation |
//! | [`choose`] | which disk a plan means, and whether it may be written to |
//! | [`system`] | partitions and file systems made, checked, mounted |
//! | [`folder`] | a folder in place of a disk, where a node is a container |
//! | [`loader`] | systemd-boot and GRUB, their tries, UKIs on the ESP |
//! | [`generation`] | what may be booted, which one is, what becomes of it |
//! | [`layer`] | erofs images checked, attached under dm-verity, mended |
//! | [`root`] | the new root put together and switched to |
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bus;
pub mod choose;
pub mod content;
pub mod discover;
pub mod error;
pub mod fat;
pub mod folder;
pub mod fuzz;
pub mod generation;
pub mod gpt;
pub mod installed;
pub mod layer;
pub mod layout;
pub mod loader;
pub mod mounts;
pub mod parts;
pub mod record;
pub mod root;
pub mod signature;
pub mod system;
pub mod tool;

//! Wire and plan types shared by node, central and tools.
//!
//! - No I/O: every function here works on `&str`, `&[u8]` and plain structs, so all of it is tested without a machine.
//! - Everything from outside is measured against [`limits`] before it is parsed, and unknown keys are errors.
//! - What one key vouches for travels as a [`signed::Envelope`]: the payload is kept as the exact bytes that were
//!   signed, so no canonical form is needed.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod assignment;
pub mod console;
pub mod enrol;
pub mod generation;
pub mod heartbeat;
pub mod ids;
pub mod inventory;
pub mod limits;
pub mod netplan;
pub mod plan;
pub mod seed;
pub mod select;
pub mod settings;
pub mod signed;
pub mod stage;
pub mod words;
mod yaml;

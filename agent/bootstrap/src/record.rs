//! What was done on this disk: one small file, written whole after each step.

use std::collections::BTreeMap;

use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::limits::{self, TooLong};
use cairn_protocol::plan::Timeouts;
use serde::{Deserialize, Serialize};

use crate::material::CaHash;
use crate::steps::{Step, Way};

/// The record's file below its directory.
pub const FILE_NAME: &str = "bootstrap.json";
/// The longest record that is read, bytes.
pub const RECORD_BYTES: usize = 64 << 10;

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// How this node comes in, decided once: a node that has begun a cluster goes on with it after any power cut.
    pub way: Option<RecordedWay>,
    /// Which cluster it is a member of.
    pub cluster: Option<CaHash>,
    /// The version that was bootstrapped or upgraded to last.
    pub version: Option<String>,
    /// The speed that was measured at the first bootstrap.
    pub speed: Option<Timeouts>,
    /// Whether all steps were done once.
    pub member: bool,
    /// Digests of what steps were done with, by name.
    pub done: BTreeMap<String, Sha256Digest>,
}

/// [`Way`] as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedWay {
    /// [`Way::Init`].
    Init,
    /// [`Way::JoinControlPlane`].
    JoinControlPlane,
    /// [`Way::JoinWorker`].
    JoinWorker,
}

impl From<Way> for RecordedWay {
    fn from(way: Way) -> Self {
        match way {
            Way::Init => Self::Init,
            Way::JoinControlPlane => Self::JoinControlPlane,
            Way::JoinWorker => Self::JoinWorker,
        }
    }
}

impl From<RecordedWay> for Way {
    fn from(way: RecordedWay) -> Self {
        match way {
            RecordedWay::Init => Self::Init,
            RecordedWay::JoinControlPlane => Self::JoinControlPlane,
            RecordedWay::JoinWorker => Self::JoinWorker,
        }
    }
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Over the limit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Not the JSON it should be.
    #[error("the bootstrap's record cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        limits::check("the bootstrap's record", bytes, RECORD_BYTES)?;
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Whether `step` was done with what has the digest `with`.
    pub fn has(&self, step: Step, with: Sha256Digest) -> bool {
        self.done.get(step.name()) == Some(&with)
    }

    /// Whether `step` was ever done on this disk.
    pub fn has_any(&self, step: Step) -> bool {
        self.done.contains_key(step.name())
    }

    /// Notes that `step` was done.
    pub fn note(&mut self, step: Step, with: Sha256Digest) {
        self.done.insert(step.name().to_owned(), with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let mut record = Record { way: Some(Way::Init.into()), ..Record::default() };
        let (one, two) = (Sha256Digest::of(b"1"), Sha256Digest::of(b"2"));
        record.note(Step::Certs, one);
        let again = Record::parse(&serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(again, record);
        assert!(again.has(Step::Certs, one) && !again.has(Step::Certs, two) && !again.has(Step::Etcd, one));
        assert!(Record::parse(b"{}").unwrap() == Record::default());
        assert!(Record::parse(b"[").is_err());
    }
}

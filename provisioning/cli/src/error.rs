//! What can go wrong, as exit codes that scripts can rely on.
//!
//! 0 done, 1 failed, 2 wrong usage (clap's own), 3 refused by the controller, 4 not reachable, 5 invalid input file.

use std::path::Path;

use crate::output::Format;

/// A command that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Anything not below.
    #[error("{0}")]
    Failed(String),
    /// Options that do not go together, or a missing one.
    #[error("{0}")]
    Usage(String),
    /// The controller said no.
    #[error("the controller refused ({code}): {detail}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its stable word.
        code: String,
        /// Its line for people.
        detail: String,
    },
    /// No answer.
    #[error("{url} is not reachable: {why}")]
    Unreachable {
        /// What was called.
        url: String,
        /// Why, and what to do.
        why: String,
    },
    /// A file is missing or not what it should be.
    #[error("{path}: {why}")]
    Input {
        /// The file.
        path: String,
        /// What is wrong, with its line where it has one.
        why: String,
    },
}

impl Error {
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    pub(crate) fn input(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Input { path: path.display().to_string(), why: why.to_string() }
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused { .. } => 3,
            Self::Unreachable { .. } => 4,
            Self::Input { .. } => 5,
        }
    }

    /// The stable word for machines.
    fn code(&self) -> &str {
        match self {
            Self::Failed(_) => "failed",
            Self::Usage(_) => "usage",
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "unreachable",
            Self::Input { .. } => "invalid-input",
        }
    }

    /// What standard error gets.
    pub(crate) fn report(&self, format: Format) -> String {
        match format {
            Format::Text => format!("cairnctl: {self}"),
            Format::Json => serde_json::json!({
                "error": { "exit_code": self.exit_code(), "code": self.code(), "message": self.to_string() }
            })
            .to_string(),
        }
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    match cairn_bundle::durable::read(path, limit) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Error::input(path, "there is no such file")),
        Err(error) => Err(Error::input(path, error)),
    }
}

/// As [`read_limited`], as UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, Error> {
    String::from_utf8(read_limited(path, limit)?).map_err(|_| Error::input(path, "is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_as_documented() {
        let refused = Error::Refused { status: 403, code: "x".to_owned(), detail: "no".to_owned() };
        let unreachable = Error::Unreachable { url: "u".to_owned(), why: "w".to_owned() };
        for (error, code) in [
            (Error::failed("x"), 1),
            (Error::Usage("x".to_owned()), 2),
            (refused, 3),
            (unreachable, 4),
            (Error::input(Path::new("f"), "x"), 5),
        ] {
            assert_eq!(error.exit_code(), code);
            let json: serde_json::Value = serde_json::from_str(&error.report(Format::Json)).unwrap();
            assert_eq!(json["error"]["exit_code"], code);
        }
    }
}

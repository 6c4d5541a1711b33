//! Why the controller could not be asked, or its answer not be taken.

use cairn_protocol::limits::TooLong;
use cairn_protocol::signed::SignedError;

use super::tls::PinMismatch;

/// What went wrong on the line.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// There is no URL to ask.
    #[error("the image names no controller")]
    NoController,
    /// The URL cannot be used.
    #[error("{url:?} is not a controller's URL: it takes https://host:port")]
    Url {
        /// The URL.
        url: String,
    },
    /// The name has no address, or nobody listens there.
    #[error("{url} cannot be reached: {source}")]
    Connect {
        /// The URL.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another CA's controller.
    #[error("{url}: {source}")]
    Pin {
        /// The URL.
        url: String,
        /// Which key was shown.
        source: PinMismatch,
    },
    /// The TLS handshake failed.
    #[error("{url}: no TLS: {why}")]
    Tls {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("{url} did not {doing} within {seconds} s")]
    Timeout {
        /// The URL.
        url: String,
        /// `answer`, `accept a connection`.
        doing: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The connection broke.
    #[error("{url}: the answer broke off: {why}")]
    Broken {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
    /// The answer was longer than it may be.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The controller said no.
    #[error("{detail}")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// A stable word.
        code: String,
        /// One line.
        detail: String,
    },
    /// The answer cannot be read.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// What was signed does not verify.
    #[error(transparent)]
    Signed(#[from] SignedError),
}

/// The words of the controller that the console shows as refusals.
const REFUSALS: [&str; 6] = [
    "unknown-serial",
    "token-used",
    "token-unknown",
    "token-expired",
    "serial-already-enrolled",
    "unknown-node",
];

impl UplinkError {
    /// The stable word, where this is a refusal and not only a line that is down.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Pin { .. } | Self::Signed(SignedError::Pin { .. }) => Some("ca-pin"),
            Self::TooLong(_) | Self::Signed(SignedError::TooLong(_)) => Some("answer-too-long"),
            Self::Signed(_) => Some("clock-unbelievable"),
            Self::Problem { code, .. } => REFUSALS.into_iter().find(|known| known == code),
            _ => None,
        }
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoController | Self::Url { .. } => {
                "build the image with a trust directory, or hand it a seed with a URL"
            }
            Self::Connect { .. } | Self::Timeout { .. } => {
                "check cable, address, route and firewall to the controller; the node tries again by itself"
            }
            Self::Pin { .. } | Self::Signed(SignedError::Pin { .. }) => {
                "boot the image that was built for this controller, or find out who answers in its place"
            }
            Self::Tls { .. } | Self::Broken { .. } => {
                "look into the controller's log; the node tries again by itself"
            }
            Self::TooLong(_) => {
                "find out who answers in the controller's place; the node tries again by itself"
            }
            Self::Signed(_) => {
                "find out who answers in the controller's place; the node tries again by itself"
            }
            Self::Problem { code, .. } => match code.as_str() {
                "unknown-serial" => {
                    "put this serial into the site's plan, or hand the node a seed with a token"
                }
                "token-used" | "token-unknown" | "token-expired" => {
                    "make a new token: cairnctl site seed --with-token"
                }
                "serial-already-enrolled" => {
                    "if the machine was replaced: cairnctl node release <site> <node>"
                }
                _ => "look into the controller's log; the node tries again by itself",
            },
            Self::Malformed { .. } => {
                "update the controller or the image: they do not speak the same version"
            }
        }
    }

    /// Whether the controller does not take this node's certificate any more.
    pub fn needs_enrolment(&self) -> bool {
        matches!(self, Self::Problem { status: 401 | 403, .. })
    }
}

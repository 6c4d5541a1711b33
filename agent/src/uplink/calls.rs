//! The calls of the controller's API that a node makes.

use std::time::Duration;

use bytes::Bytes;
use cairn_protocol::api::{self, Problem};
use cairn_protocol::enrol::{EnrolAnswer, EnrolRequest, RenewAnswer, RenewRequest};
use cairn_protocol::heartbeat::{Heartbeat, HeartbeatAnswer};
use cairn_protocol::limits::{self, clean_text};
use cairn_protocol::signed::{Envelope, SignedTime};
use hyper::{Method, StatusCode};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::de::DeserializeOwned;

use super::http::{Answer, Ask};
use super::tls::Dates;
use super::{Uplink, UplinkError, Worst};

/// The answer about the assignment.
#[derive(Debug)]
pub enum AssignmentAnswer {
    /// As before.
    Unchanged,
    /// The plan has no place for this node any more.
    None,
    /// A new one, not verified yet.
    New {
        /// The signed assignment.
        envelope: Envelope,
        /// Its etag.
        etag: String,
    },
}

/// Reads a problem's body; whatever it is not, it is one line with the status.
pub fn read_problem(status: u16, body: &[u8]) -> UplinkError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => UplinkError::Problem {
            status,
            code: clean_text(&problem.code),
            detail: clean_text(&problem.detail),
        },
        Err(_) => UplinkError::Problem {
            status,
            code: "http".to_owned(),
            detail: format!("the controller answered with status {status}"),
        },
    }
}

fn json<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, UplinkError> {
    serde_json::from_slice(body).map_err(|e| UplinkError::Malformed { what, why: clean_text(&e.to_string()) })
}

fn body<T: serde::Serialize>(what: &'static str, value: &T) -> Result<Bytes, UplinkError> {
    let json = serde_json::to_vec(value).map_err(|e| UplinkError::Malformed { what, why: e.to_string() })?;
    Ok(Bytes::from(json))
}

/// Answers that are no success become errors.
fn success(answer: Answer) -> Result<Answer, UplinkError> {
    if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
        Ok(answer)
    } else {
        Err(read_problem(answer.status.as_u16(), &answer.body))
    }
}

impl Uplink {
    fn get<'a>(path: &'a str, what: &'static str, limit: usize) -> Ask<'a> {
        Ask {
            method: Method::GET,
            path,
            body: None,
            etag: None,
            what,
            limit,
            dates: Dates::Judged,
            as_node: true,
        }
    }

    /// Looks for a controller that signs the time, each for `patience` at most, beginning at number `first` (counted
    /// round): the first that does is the current one from now on. Whatever another one answers, the search goes on.
    /// Once the time is believed, [`Uplink::judge_dates`] lets the connection serve on.
    ///
    /// # Errors
    /// [`UplinkError`]: the most telling of all.
    pub async fn search(&self, first: usize, patience: Duration) -> Result<u64, UplinkError> {
        let count = self.controllers.len();
        let mut worst = Worst::default();
        for number in (0..count).map(|step| (first % count + step) % count) {
            let late = || UplinkError::Timeout {
                url: self.controllers.get(number).cloned().unwrap_or_default(),
                doing: "sign the time",
                seconds: patience.as_secs(),
            };
            match tokio::time::timeout(patience, self.time_of(number)).await {
                Ok(Ok(time)) => {
                    self.state().current = number;
                    return Ok(time);
                }
                Ok(Err(error)) => worst.note(error),
                Err(_) => worst.note(late()),
            }
        }
        Err(worst.take())
    }

    /// The time as one controller signs it, proven to answer a nonce of this moment.
    async fn time_of(&self, number: usize) -> Result<u64, UplinkError> {
        const WHAT: &str = "the signed time";
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).map_err(|_| UplinkError::Malformed {
            what: "a nonce",
            why: "the kernel has no randomness".to_owned(),
        })?;
        let nonce = hex::encode(nonce);
        let path = format!("{}?nonce={nonce}", api::TIME);
        let ask =
            Ask { dates: Dates::Ignored, as_node: false, ..Self::get(&path, WHAT, limits::ANSWER_BYTES) };
        let answer = self.ask_one(number, &ask).await;
        let time = answer.and_then(success).and_then(|answer| {
            let signed: SignedTime = json(WHAT, &answer.body)?;
            Ok(signed.verify(self.pin, &nonce)?.0)
        });
        if time.is_err() {
            // Such a connection's dates will not be judged.
            self.pool().clear();
        }
        time
    }

    /// Asks for a certificate.
    ///
    /// # Errors
    /// [`UplinkError`]; a refusal is its `Problem`.
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolAnswer, UplinkError> {
        const WHAT: &str = "the enrolment's answer";
        let ask = Ask {
            method: Method::POST,
            body: Some(body("the enrolment", request)?),
            as_node: false,
            ..Self::get(api::ENROL, WHAT, limits::ANSWER_BYTES)
        };
        json(WHAT, &success(self.ask(&ask).await?)?.body)
    }

    /// Asks for the next certificate.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewAnswer, UplinkError> {
        const WHAT: &str = "the renewal's answer";
        let ask = Ask {
            method: Method::POST,
            body: Some(body("the renewal", request)?),
            ..Self::get(api::RENEW, WHAT, limits::ANSWER_BYTES)
        };
        json(WHAT, &success(self.ask(&ask).await?)?.body)
    }

    /// The node's assignment, where it is another than the one with `etag`.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub async fn assignment(&self, etag: Option<&str>) -> Result<AssignmentAnswer, UplinkError> {
        const WHAT: &str = "the assignment";
        let ask = Ask { etag, ..Self::get(api::ASSIGNMENT, WHAT, limits::ASSIGNMENT_BYTES) };
        let answer = success(self.ask(&ask).await?)?;
        match answer.status {
            StatusCode::NOT_MODIFIED => Ok(AssignmentAnswer::Unchanged),
            StatusCode::NO_CONTENT => Ok(AssignmentAnswer::None),
            _ => {
                let envelope: Envelope = json(WHAT, &answer.body)?;
                let etag = cairn_protocol::generation::id_of(&envelope);
                Ok(AssignmentAnswer::New { envelope, etag })
            }
        }
    }

    /// Sends a heartbeat.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<HeartbeatAnswer, UplinkError> {
        const WHAT: &str = "the heartbeat's answer";
        let ask = Ask {
            method: Method::POST,
            body: Some(body("the heartbeat", heartbeat)?),
            ..Self::get(api::HEARTBEAT, WHAT, limits::HEARTBEAT_BYTES)
        };
        json(WHAT, &success(self.ask(&ask).await?)?.body)
    }

    /// Sends the full status, as the bytes whose digest the heartbeats carry.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub async fn status(&self, status: Bytes) -> Result<(), UplinkError> {
        let ask = Ask {
            method: Method::PUT,
            body: Some(status),
            ..Self::get(api::STATUS, "the status' answer", limits::ANSWER_BYTES)
        };
        success(self.ask(&ask).await?).map(drop)
    }

    /// A file of the repository, at most `limit` bytes; `None` where the controller has none of that name.
    ///
    /// # Errors
    /// [`UplinkError`].
    pub async fn file(
        &self,
        path: &str,
        what: &'static str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, UplinkError> {
        let answer = self.ask(&Self::get(path, what, limit)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(success(answer)?.body))
    }
}

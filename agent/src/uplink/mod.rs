//! The line to the controller: HTTPS whose server is known by the image's pin, every answer measured while it is read.
//!
//! HTTP/1.1 on hyper and rustls directly: an agent asks one thing at a time (chunks: a few), and wants to see each byte
//! of an answer counted before it is kept.

mod calls;
mod error;
mod http;
mod tls;

pub use calls::{AssignmentAnswer, read_problem};
pub use error::UplinkError;
pub(crate) use http::plain_get;
pub use http::{Answer, Ask};
pub use tls::{Dates, PinMismatch, validity};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cairn_protocol::ids::Sha256Digest;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::clock::Clock;
use crate::identity::Credential;

/// How long a connection may take, look-up and TLS each on their own. Satellite lines need 1 to 2 s for both; emulated
/// machines some seconds of CPU for TLS.
const CONNECT: Duration = Duration::from_secs(15);
/// How long an answer may stay away, and how long it may pause in its middle.
const IDLE: Duration = Duration::from_secs(30);

/// The line to the controller.
#[derive(Debug)]
pub struct Uplink {
    /// Base URLs in the order in which they are tried.
    controllers: Vec<String>,
    pin: Sha256Digest,
    clock: Arc<Clock>,
    state: Mutex<State>,
    pool: Mutex<Vec<http::Connection>>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that answered last.
    current: usize,
    credential: Option<Arc<Credential>>,
}

/// The most telling of several errors: a refusal before a line that is down.
#[derive(Debug, Default)]
struct Worst(Option<UplinkError>);

impl Worst {
    fn note(&mut self, error: UplinkError) {
        if self.0.as_ref().is_none_or(|worst| worst.code().is_none()) {
            self.0 = Some(error);
        }
    }

    fn take(self) -> UplinkError {
        self.0.unwrap_or(UplinkError::NoController)
    }
}

impl Uplink {
    /// A line to `controllers`, in that order.
    pub fn new(controllers: Vec<String>, pin: Sha256Digest, clock: Arc<Clock>) -> Self {
        Self { controllers, pin, clock, state: Mutex::default(), pool: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self) -> MutexGuard<'_, Vec<http::Connection>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows this certificate from now on; open connections of before are dropped.
    pub fn use_credential(&self, credential: Option<Arc<Credential>>) {
        self.state().credential = credential;
        self.pool().clear();
    }

    /// The clock is trusted now: the dates of the connections on which the time was asked are judged after all. One that
    /// passes serves on, and saves a handshake; any other is closed.
    pub fn judge_dates(&self) {
        let judge = |name: &ServerName<'_>, chain: &[CertificateDer<'_>]| {
            tls::is_valid_now(self.pin, &self.clock, chain, name)
        };
        self.pool().retain_mut(|connection| connection.judge_dates(judge));
    }

    /// The controller that answered last.
    pub fn current(&self) -> Option<String> {
        self.controllers.get(self.state().current).cloned()
    }

    /// Asks, at the controller that answered last first, then at the others.
    ///
    /// # Errors
    /// [`UplinkError`]: the most telling of all tries, a refusal before a line that is down.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, UplinkError> {
        let count = self.controllers.len();
        let first = self.state().current;
        let mut worst = Worst::default();
        for number in (first..count).chain(0..first.min(count)) {
            match self.ask_one(number, ask).await {
                Ok(answer) => {
                    self.state().current = number;
                    return Ok(answer);
                }
                Err(error) => worst.note(error),
            }
        }
        Err(worst.take())
    }

    async fn ask_one(&self, number: usize, ask: &Ask<'_>) -> Result<Answer, UplinkError> {
        let base = self.controllers.get(number).ok_or(UplinkError::NoController)?;
        let kept = {
            let mut pool = self.pool();
            let at = pool.iter().position(|kept| kept.fits(number, ask.dates));
            at.map(|at| pool.swap_remove(at))
        };
        // A kept connection may have been closed meanwhile: then a new one gets the same question. Every call of the
        // API may be made twice.
        if let Some(mut kept) = kept
            && let Ok(answer) = kept.ask(base, ask).await
        {
            self.keep(kept);
            return Ok(answer);
        }
        let credential = self.state().credential.clone();
        let credential = credential.filter(|_| ask.dates == Dates::Judged && ask.as_node);
        let tls = tls::config(self.pin, Arc::clone(&self.clock), ask.dates, credential.as_deref(), base)?;
        let mut connection = http::Connection::open(base, number, ask.dates, ask.as_node, tls).await?;
        let answer = connection.ask(base, ask).await?;
        self.keep(connection);
        Ok(answer)
    }

    fn keep(&self, connection: http::Connection) {
        /// As many as are ever used at once.
        const POOL: usize = 4;
        let mut pool = self.pool();
        if connection.is_open() && pool.len() < POOL {
            pool.push(connection);
        }
    }
}

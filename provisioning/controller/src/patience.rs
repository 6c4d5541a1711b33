//! How long a connection may hold its place.
//!
//! Places are limited ([`crate::server`]), so whoever does nothing with one loses it: who asks nothing, whose body
//! trickles, who does not read answers. A peer on a bad line is slow and steady; it keeps its place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;

/// Bytes a second that a peer keeps up on average, whatever its line: 8 kbit/s, less than the worst satellite line.
pub const SLOWEST: u64 = 1 << 10;
/// The most that a peer which took much at once may be behind afterwards. Buffers take some MiB at once; who is so slow
/// that a third of them lasts longer comes back and goes on where it was.
const CREDIT: Duration = Duration::from_secs(300);
/// Between two signs of life of an answer that goes on for ever; a watch has one every 15 seconds.
const ENDLESS: Duration = Duration::from_secs(60);

/// What a listener puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Without a request, from one's end to the next one's head. Longer than the default heartbeat interval with its
    /// jitter, so that a node keeps its connection.
    pub idle: Duration,
    /// A pause in a body or an answer, and the time before [`SLOWEST`] counts.
    pub slow: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Of these, of one address (IPv6: of one /64 network).
    pub per_address: usize,
}

impl Patience {
    /// How often a connection is looked at.
    pub(crate) fn look(&self) -> Duration {
        (self.idle.min(self.slow) / 4).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// When a body or an answer of which `bytes` have passed since `begun` has to have gone on.
    pub(crate) fn deadline(&self, begun: Instant, now: Instant, bytes: u64) -> Instant {
        let average = begun + self.slow + Duration::from_secs(bytes / SLOWEST);
        average.min(now + self.slow + CREDIT)
    }
}

/// What a connection does.
#[derive(Debug)]
pub(crate) struct Pulse {
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that run.
    open: usize,
    /// When the last of them ended.
    idle_since: Instant,
    /// Answers that are being sent: by when each has to have gone on.
    answers: HashMap<u64, Instant>,
    next: u64,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does something, or will.
    Fine,
    /// Nothing was asked for too long.
    Idle,
    /// An answer is not taken.
    Stuck,
}

impl Pulse {
    pub(crate) fn new(patience: Patience, now: Instant) -> Arc<Self> {
        let state = State { open: 0, idle_since: now, answers: HashMap::new(), next: 0 };
        Arc::new(Self { patience, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn verdict(&self, now: Instant) -> Verdict {
        let state = self.state();
        if state.answers.values().any(|deadline| *deadline < now) {
            Verdict::Stuck
        } else if state.open == 0 && now.duration_since(state.idle_since) > self.patience.idle {
            Verdict::Idle
        } else {
            Verdict::Fine
        }
    }

    /// A request begins; it ends when what this answers is dropped.
    pub(crate) fn exchange(self: &Arc<Self>) -> Exchange {
        let mut state = self.state();
        state.open += 1;
        state.next += 1;
        Exchange { pulse: self.clone(), number: state.next }
    }
}

/// A request that runs.
#[derive(Debug)]
pub(crate) struct Exchange {
    pulse: Arc<Pulse>,
    number: u64,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.pulse.state();
        state.answers.remove(&self.number);
        state.open -= 1;
        state.idle_since = Instant::now();
    }
}

impl Exchange {
    /// Watches over the answer until its last byte is taken.
    pub(crate) fn answer(self, response: Response) -> Response {
        let kind = response.headers().get(axum::http::header::CONTENT_TYPE);
        let endless = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let (begun, bytes) = (Instant::now(), 0);
        let watched = Watched { inner: Body::empty(), exchange: self, endless, begun, bytes };
        watched.went_on();
        response.map(|inner| Body::new(Watched { inner, ..watched }))
    }
}

/// The body of an answer; being asked for the next piece is its sign of life.
struct Watched {
    inner: Body,
    exchange: Exchange,
    endless: bool,
    begun: Instant,
    bytes: u64,
}

impl Watched {
    fn went_on(&self) {
        let Exchange { pulse, number } = &self.exchange;
        let deadline = if self.endless {
            Instant::now() + ENDLESS.max(pulse.patience.slow)
        } else {
            pulse.patience.deadline(self.begun, Instant::now(), self.bytes)
        };
        pulse.state().answers.insert(*number, deadline);
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            self.went_on();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// Connections by address.
#[derive(Debug, Default, Clone)]
pub(crate) struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Crowd {
    /// A place for a connection from `address`, unless it has `most` already.
    pub(crate) fn enter(&self, address: IpAddr, most: usize) -> Option<Place> {
        let of = origin(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), of })
    }
}

/// One of an address's connections, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Crowd,
    of: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

/// Who an address belongs to: a machine has a whole /64 of IPv6 to itself.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(75),
        slow: Duration::from_secs(30),
        connections: 8,
        per_address: 2,
    };

    #[test]
    fn a_connection_that_asks_nothing_is_idle_and_one_that_asks_is_not() {
        let begun = Instant::now();
        let pulse = Pulse::new(PATIENCE, begun);
        let late = begun + Duration::from_secs(76);
        assert_eq!(pulse.verdict(begun + Duration::from_secs(74)), Verdict::Fine);
        assert_eq!(pulse.verdict(late), Verdict::Idle);
        let exchange = pulse.exchange();
        assert_eq!(pulse.verdict(late), Verdict::Fine, "handling is ours to hurry");
        let response = exchange.answer(Response::new(Body::from("x")));
        assert_eq!(pulse.verdict(late), Verdict::Stuck);
        drop(response);
        assert_eq!(pulse.verdict(Instant::now()), Verdict::Fine);
    }

    #[tokio::test]
    async fn an_answer_may_take_as_long_as_its_bytes_and_a_watch_for_ever() {
        use futures_util::StreamExt as _;
        let pulse = Pulse::new(PATIENCE, Instant::now());
        let piece = || Ok::<_, axum::Error>(Bytes::from(vec![0; 100 << 10]));
        let body = Body::from_stream(futures_util::stream::iter([piece(), piece()]));
        let mut stream = pulse.exchange().answer(Response::new(body)).into_body().into_data_stream();
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(pulse.verdict(at(31)), Verdict::Stuck);
        stream.next().await.unwrap().unwrap();
        // 100 KiB at 1 KiB a second.
        assert_eq!((pulse.verdict(at(125)), pulse.verdict(at(131))), (Verdict::Fine, Verdict::Stuck));
        drop(stream);
        let watch =
            Response::builder().header("content-type", "text/event-stream").body(Body::empty()).unwrap();
        let _watch = pulse.exchange().answer(watch);
        assert_eq!((pulse.verdict(at(55)), pulse.verdict(at(61))), (Verdict::Fine, Verdict::Stuck));
    }

    #[test]
    fn an_address_has_its_share() {
        let crowd = Crowd::default();
        let enter = |address: &str| crowd.enter(address.parse().unwrap(), 2);
        let (one, _two) = (enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap());
        assert!(enter("10.0.0.1").is_none());
        assert!(enter("10.0.0.2").is_some());
        drop(one);
        assert!(enter("10.0.0.1").is_some());
        let _net = (enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap());
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::3").is_some());
    }
}

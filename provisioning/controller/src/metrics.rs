//! What `/metrics` shows, as OpenMetrics text.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::store::plans::SiteView;

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// The counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    seconds: Histogram,
    refusals: Family<Code, Counter>,
    heartbeats: Counter,
    nodes: Family<State, Gauge<i64>>,
    sites: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("cairn_controller");
        let requests = Family::default();
        registry.register("requests", "HTTP requests by route and status", requests.clone());
        // 1 ms to 8 s: a chunk from memory to a plan of thousands of nodes.
        let seconds = Histogram::new((0..14).map(|n| 0.001 * f64::from(1 << n)));
        registry.register_with_unit(
            "request_duration",
            "Time to a request's answer",
            Unit::Seconds,
            seconds.clone(),
        );
        let refusals = Family::default();
        registry.register("refusals", "What was refused, by code", refusals.clone());
        let heartbeats = Counter::default();
        registry.register("heartbeats", "Heartbeats stored", heartbeats.clone());
        let nodes = Family::default();
        registry.register("nodes", "Nodes in plans: all, enrolled, ready, lost", nodes.clone());
        let sites = Gauge::default();
        registry.register("sites", "Sites with a plan", sites.clone());
        Self { registry, requests, seconds, refusals, heartbeats, nodes, sites }
    }
}

impl Metrics {
    /// Counts an answered request; `route` is the route's pattern, so that labels stay few.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        self.requests.get_or_create(&Request { route: route.to_owned(), status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a refusal.
    pub fn refused(&self, code: &str) {
        self.refusals.get_or_create(&Code { code: code.to_owned() }).inc();
    }

    /// Counts a heartbeat.
    pub fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// Takes the sites' figures.
    pub fn sites(&self, sites: &[SiteView]) {
        self.sites.set(sites.len() as u64);
        let sum =
            |of: fn(&SiteView) -> u64| i64::try_from(sites.iter().map(of).sum::<u64>()).unwrap_or(i64::MAX);
        for (state, count) in [
            ("all", sum(|site| site.nodes)),
            ("enrolled", sum(|site| site.enrolled)),
            ("ready", sum(|site| site.ready)),
            ("lost", sum(|site| site.lost)),
        ] {
            self.nodes.get_or_create(&State { state }).set(count);
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        let metrics = Metrics::default();
        metrics.request("/v1/time", 200, Duration::from_millis(2));
        metrics.refused("ca-pin");
        metrics.heartbeat();
        let text = metrics.text();
        for line in [
            "cairn_controller_requests_total{route=\"/v1/time\",status=\"200\"} 1",
            "cairn_controller_refusals_total{code=\"ca-pin\"} 1",
            "cairn_controller_heartbeats_total 1",
            "cairn_controller_request_duration_seconds_count 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

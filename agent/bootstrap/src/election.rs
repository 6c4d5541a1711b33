//! Who holds the endpoint's address, by a Lease of the cluster (pure).
//!
//! As client-go's leader election: a lease counts as expired only after its whole duration was *watched* without a change,
//! so nobody's clock has to agree with another's.

use std::time::Duration;

use serde_json::{Value, json};

/// What a control plane remembers of the lease between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The object's version, and since when it has been that.
    version: Option<(String, Duration)>,
}

/// What to do about the lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// Nobody has made it: make it, with this node as its holder.
    Create(Value),
    /// Write it: it is this node's, or nobody's any more. Whoever writes first has it, by the object's version.
    Write(Value),
    /// Another node's.
    Other,
}

/// The Lease's path.
pub const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/cairn-endpoint";
/// The path of its kind.
pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

impl Observed {
    /// Judges the lease as it was read (`None`: there is none), at `now` of a clock that only runs forward; `time` is for
    /// people who read the object.
    pub fn turn(
        &mut self,
        lease: Option<&Value>,
        node: &str,
        seconds: u32,
        now: Duration,
        time: &str,
    ) -> Turn {
        let Some(lease) = lease else {
            self.version = None;
            return Turn::Create(object(node, seconds, time, None));
        };
        let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let since = match &self.version {
            Some((known, since)) if known == version => *since,
            _ => {
                self.version = Some((version.to_owned(), now));
                now
            }
        };
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let duration = lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(0);
        let expired = now.saturating_sub(since) > Duration::from_secs(duration);
        if holder == node || holder.is_empty() || expired {
            Turn::Write(object(node, seconds, time, Some(lease)))
        } else {
            Turn::Other
        }
    }
}

/// The lease as `node` writes it.
fn object(node: &str, seconds: u32, time: &str, before: Option<&Value>) -> Value {
    let none = Value::Null;
    let before = before.unwrap_or(&none);
    let changes_hands = before["spec"]["holderIdentity"].as_str().is_some_and(|holder| holder != node);
    let transitions = before["spec"]["leaseTransitions"].as_u64().unwrap_or(0) + u64::from(changes_hands);
    let acquired = match before["spec"]["acquireTime"].as_str() {
        Some(since) if !changes_hands => since,
        _ => time,
    };
    let mut metadata = json!({ "name": "cairn-endpoint", "namespace": "kube-system" });
    if let Some(version) = before["metadata"]["resourceVersion"].as_str() {
        metadata["resourceVersion"] = json!(version);
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": seconds,
            "acquireTime": acquired,
            "renewTime": time,
            "leaseTransitions": transitions,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-27T06:00:00.000000Z";

    fn lease(version: &str, holder: &str) -> Value {
        json!({
            "metadata": { "resourceVersion": version },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 10, "acquireTime": "then", "leaseTransitions": 3 },
        })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_makes_it_and_the_holder_keeps_it() {
        let mut observed = Observed::default();
        let Turn::Create(made) = observed.turn(None, "cp1", 10, at(0), TIME) else { panic!() };
        assert_eq!(made["spec"]["holderIdentity"], "cp1");
        let Turn::Write(kept) = observed.turn(Some(&lease("7", "cp1")), "cp1", 10, at(1), TIME) else {
            panic!()
        };
        assert_eq!(
            (kept["metadata"]["resourceVersion"].as_str(), kept["spec"]["acquireTime"].as_str()),
            (Some("7"), Some("then"))
        );
        assert_eq!(kept["spec"]["leaseTransitions"], 3);
    }

    #[test]
    fn another_takes_it_after_watching_it_for_its_whole_time() {
        let mut observed = Observed::default();
        assert_eq!(observed.turn(Some(&lease("7", "cp1")), "cp2", 10, at(100), TIME), Turn::Other);
        assert_eq!(observed.turn(Some(&lease("7", "cp1")), "cp2", 10, at(110), TIME), Turn::Other);
        assert_eq!(
            observed.turn(Some(&lease("8", "cp1")), "cp2", 10, at(111), TIME),
            Turn::Other,
            "it was renewed"
        );
        assert_eq!(observed.turn(Some(&lease("8", "cp1")), "cp2", 10, at(121), TIME), Turn::Other);
        let Turn::Write(taken) = observed.turn(Some(&lease("8", "cp1")), "cp2", 10, at(122), TIME) else {
            panic!()
        };
        assert_eq!(taken["spec"]["leaseTransitions"], 4);
        assert_eq!(taken["spec"]["acquireTime"], TIME);
        let mut other = Observed::default();
        assert!(
            matches!(other.turn(Some(&lease("9", "")), "cp3", 10, at(0), TIME), Turn::Write(_)),
            "it was given up"
        );
    }
}

//! The real program over real TLS on loopback.
#![allow(clippy::unwrap_used)]

mod durability;
mod enrolment;
mod harness;
mod house;
mod limits;
mod nodes;
mod patience;
mod publisher;
mod publishing;
mod revoked;
mod trust;

//! The Edge Controller: enrolment, plans, bundle repository, heartbeats.

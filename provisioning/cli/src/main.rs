//! The operator's and release engineer's command.

fn main() {}

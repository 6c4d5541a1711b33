//! A TUF client on the command line.
fn main() {}

//! Random bytes from the kernel, through ring.

use ring::rand::{SecureRandom as _, SystemRandom};

/// `N` random bytes.
///
/// # Panics
/// When the kernel has no random bytes to give (getrandom(2) fails): nothing of ours can go on without them.
#[expect(clippy::expect_used, reason = "a controller without random numbers must not issue anything")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// `n` random bytes, at most 32, as hexadecimal digits.
pub fn hex(n: usize) -> String {
    hex::encode(&bytes::<32>()[..n.min(32)])
}

//! Sizes and durations as people write them in rack files: `16GiB`, `90s`, `20m`.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Bytes {
    /// From mebibytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// From gibibytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// Reads `512MiB`, `16GiB`, `1TiB` or `4096B`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        number.checked_mul(1 << shift).map(Self)
    }
}

impl Span {
    /// From seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// Reads `250ms`, `90s`, `20m` or `2h`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(millis).map(|millis| Self(Duration::from_millis(millis)))
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    Some((number.parse().ok()?, unit))
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no size such as \"512MiB\" or \"16GiB\"")))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no time such as \"90s\" or \"20m\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(Bytes::parse("16GiB"), Some(Bytes::gib(16)));
        assert_eq!(Bytes::parse("512MiB"), Some(Bytes::mib(512)));
        assert_eq!(Span::parse("20m"), Some(Span::seconds(1200)));
        assert_eq!(Span::parse("250ms"), Some(Span(Duration::from_millis(250))));
        for wrong in
            ["", "16", "GiB", "16 GiB", "16GB", "-1GiB", "99999999999999TiB", "18446744073709551616B"]
        {
            assert_eq!(Bytes::parse(wrong), None, "{wrong}");
        }
        for wrong in ["", "5", "m", "5 m", "5d", "18446744073709551615h"] {
            assert_eq!(Span::parse(wrong), None, "{wrong}");
        }
    }
}

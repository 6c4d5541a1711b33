//! Ethernet frames, as far as a switch reads them.

/// Shortest frame that has both addresses and a type (IEEE 802.3 without padding: QEMU's back ends do not pad).
pub const MIN_FRAME: usize = 14;
/// Longest frame carried: a 9216-byte jumbo payload, both addresses, type and two tags.
pub const MAX_FRAME: usize = 9216 + 14 + 8;
/// Length of an 802.1Q tag.
const TAG: usize = 4;
/// EtherType of an 802.1Q tag.
const TPID: [u8; 2] = [0x81, 0x00];
/// Where the tag stands: after both addresses.
const TAG_AT: usize = 12;

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Broadcast or multicast: the lowest bit of the first octet.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// 01-80-C2-00-00-00 to -0F: for the bridge itself, never forwarded (IEEE 802.1Q table 8-1).
    #[must_use]
    pub fn is_link_local(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] < 0x10
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a switch reads of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// VLAN of the outer 802.1Q tag. A priority tag (VLAN 0) counts as none, but is there to be removed.
    pub tag: Option<u16>,
}

/// Why a frame is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than [`MIN_FRAME`], or a tag without what must follow.
    #[error("frame is too short")]
    Short,
    /// Longer than [`MAX_FRAME`].
    #[error("frame is too long")]
    Long,
    /// The source is a group address.
    #[error("source is a group address")]
    GroupSource,
}

/// Reads the header of a frame.
///
/// # Errors
/// When the frame is none that a switch carries.
pub fn parse(frame: &[u8]) -> Result<Header, Malformed> {
    if frame.len() > MAX_FRAME {
        return Err(Malformed::Long);
    }
    let (addresses, rest) = frame.split_at_checked(TAG_AT).ok_or(Malformed::Short)?;
    let kind = rest.first_chunk::<2>().ok_or(Malformed::Short)?;
    let mac = |at: usize| -> Option<Mac> { Some(Mac(*addresses.get(at..)?.first_chunk()?)) };
    let (destination, source) = mac(0).zip(mac(6)).ok_or(Malformed::Short)?;
    if source.is_group() {
        return Err(Malformed::GroupSource);
    }
    let tag = if *kind == TPID {
        let tag = rest.first_chunk::<6>().ok_or(Malformed::Short)?;
        Some(u16::from_be_bytes([tag[2], tag[3]]) & 0x0fff)
    } else {
        None
    };
    Ok(Header { destination, source, tag })
}

/// Writes `frame` to `out` without its outer tag. The frame must have one.
pub fn untag(frame: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(frame.get(..TAG_AT).unwrap_or_default());
    out.extend_from_slice(frame.get(TAG_AT + TAG..).unwrap_or_default());
}

/// Writes `frame` to `out` with a tag for `vlan`.
pub fn tag(frame: &[u8], vlan: u16, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(frame.get(..TAG_AT).unwrap_or_default());
    out.extend_from_slice(&TPID);
    out.extend_from_slice(&(vlan & 0x0fff).to_be_bytes());
    out.extend_from_slice(frame.get(TAG_AT..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x00];
        frame.extend_from_slice(b"payload");
        frame
    }

    #[test]
    fn reads_addresses_and_tag() {
        let header = parse(&sample()).unwrap();
        assert_eq!(header.destination.to_string(), "52:54:00:00:00:02");
        assert_eq!(header.source.to_string(), "52:54:00:00:00:01");
        assert_eq!(header.tag, None);
        let mut tagged = Vec::new();
        tag(&sample(), 77, &mut tagged);
        assert_eq!(parse(&tagged).unwrap().tag, Some(77));
        let mut bare = Vec::new();
        untag(&tagged, &mut bare);
        assert_eq!(bare, sample());
    }

    #[test]
    fn refuses_what_no_switch_carries() {
        assert_eq!(parse(&sample()[..13]), Err(Malformed::Short));
        assert_eq!(parse(&vec![0; MAX_FRAME + 1]), Err(Malformed::Long));
        let mut group = sample();
        group[6] |= 1;
        assert_eq!(parse(&group), Err(Malformed::GroupSource));
        let mut cut = sample();
        cut[12..14].copy_from_slice(&TPID);
        assert_eq!(parse(&cut[..16]), Err(Malformed::Short));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let _ = parse(&bytes);
            tag(&bytes, 4095, &mut out);
            untag(&bytes, &mut out);
        }
    }
}

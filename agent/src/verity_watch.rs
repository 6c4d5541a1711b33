//! What the kernel's log says about damaged layers.
//!
//! dm-verity logs `device-mapper: verity: 254:0: data block 1234 is corrupted` (drivers/md/dm-verity-target.c,
//! `verity_handle_err`) once for each of the first 100 bad blocks of a device.

/// A block that does not match its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BadBlock {
    /// Major and minor number of the data device below dm-verity.
    pub device: (u32, u32),
    /// Whether it is a block of the hash tree, not of the data.
    pub metadata: bool,
    /// Number of the block, counted in 4096 bytes.
    pub block: u64,
}

/// The longest record that is looked at; the kernel's own limit is 1024 bytes of text (include/linux/printk.h).
const RECORD_LIMIT: usize = 4096;

/// Reads one record of `/dev/kmsg` (`priority,sequence,time,flags;text`, Documentation/ABI/testing/dev-kmsg).
pub fn parse_record(record: &[u8]) -> Option<BadBlock> {
    if record.len() > RECORD_LIMIT {
        return None;
    }
    let text = std::str::from_utf8(record).ok()?;
    let (header, text) = text.split_once(';')?;
    // Facility 0 is the kernel: anyone who may write to /dev/kmsg can write the text, but not with this facility.
    let priority: u32 = header.split(',').next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    let rest = text.lines().next()?.strip_prefix("device-mapper: verity: ")?;
    let (device, rest) = rest.split_once(": ")?;
    let (major, minor) = device.split_once(':')?;
    let rest = rest.strip_suffix(" is corrupted")?;
    let (metadata, block) = match rest.strip_prefix("metadata block ") {
        Some(block) => (true, block),
        None => (false, rest.strip_prefix("data block ")?),
    };
    Some(BadBlock {
        device: (major.parse().ok()?, minor.parse().ok()?),
        metadata,
        block: block.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_own_words() {
        let data = b"3,812,9912345,-;device-mapper: verity: 7:0: data block 1234 is corrupted\n";
        assert_eq!(parse_record(data), Some(BadBlock { device: (7, 0), metadata: false, block: 1234 }));
        let tree =
            b"3,813,9912345,-;device-mapper: verity: 7:1: metadata block 5 is corrupted\n SUBSYSTEM=block\n";
        assert_eq!(parse_record(tree), Some(BadBlock { device: (7, 1), metadata: true, block: 5 }));
    }

    #[test]
    fn other_records_say_nothing() {
        let others: [&[u8]; 5] = [
            b"6,1,2,-;device-mapper: uevent: version 1.0.3\n",
            // A process wrote this: facility 1.
            b"11,812,9912345,-;device-mapper: verity: 7:0: data block 1234 is corrupted\n",
            b"3,812,9912345,-;device-mapper: verity: 7:0: data block 99999999999999999999999 is corrupted\n",
            b"",
            b"\xff;\xff",
        ];
        for record in others {
            assert_eq!(parse_record(record), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_record(&bytes);
        }
    }
}

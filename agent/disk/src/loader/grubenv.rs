//! GRUB's environment block (GRUB manual, "Environment block"): 1024 bytes that GRUB itself can rewrite in place. Pure.

use std::collections::BTreeMap;

/// Its length. GRUB writes it back block by block, so it never changes.
pub const BYTES: usize = 1024;
const HEADER: &[u8] = b"# GRUB Environment Block\n";

/// Variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrubEnv(pub BTreeMap<String, String>);

impl GrubEnv {
    /// Reads a block. What is damaged is left out: the caller writes it anew.
    pub fn parse(bytes: &[u8]) -> Self {
        let Some(body) = bytes.get(..bytes.len().min(BYTES)).and_then(|block| block.strip_prefix(HEADER))
        else {
            return Self::default();
        };
        let mut variables = BTreeMap::new();
        for line in body.split(|byte| *byte == b'\n') {
            if line.first() == Some(&b'#') {
                break;
            }
            let text = std::str::from_utf8(line).ok().and_then(|line| line.split_once('='));
            if let Some((key, value)) =
                text.filter(|(key, value)| is_plain(key) && !key.is_empty() && is_plain(value))
            {
                variables.insert(key.to_owned(), value.to_owned());
            }
        }
        Self(variables)
    }

    /// The block; `None` when the variables do not fit, or one has characters that GRUB would read otherwise.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = HEADER.to_vec();
        for (key, value) in &self.0 {
            if key.is_empty() || !is_plain(key) || !is_plain(value) {
                return None;
            }
            bytes.extend_from_slice(format!("{key}={value}\n").as_bytes());
        }
        (bytes.len() <= BYTES).then(|| {
            bytes.resize(BYTES, b'#');
            bytes
        })
    }

    /// A variable; an empty one is none, as in GRUB's scripts.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What versions and counters consist of; nothing that the block's own syntax or a script gives a meaning to.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_block_is_what_grub_editenv_writes() {
        let env = GrubEnv(BTreeMap::from([
            ("cairn_tries".to_owned(), "2".to_owned()),
            ("cairn_try".to_owned(), "1.0".to_owned()),
        ]));
        let bytes = env.to_bytes().unwrap();
        let text = "# GRUB Environment Block\ncairn_tries=2\ncairn_try=1.0\n";
        assert_eq!(bytes, [text.as_bytes(), &vec![b'#'; BYTES - text.len()]].concat());
        assert_eq!(GrubEnv::parse(&bytes), env);
    }

    #[test]
    fn damage_is_left_out() {
        for bad in [b"".as_slice(), b"# GRUB", b"# GRUB Environment Block\n=x\na b=c\nnothing\nx=\xff\n####"]
        {
            assert_eq!(GrubEnv::parse(bad), GrubEnv::default());
        }
        assert_eq!(GrubEnv(BTreeMap::from([("a".to_owned(), "b\nc=d".to_owned())])).to_bytes(), None);
        assert_eq!(GrubEnv(BTreeMap::from([("a".to_owned(), "b".repeat(BYTES))])).to_bytes(), None);
    }

    proptest! {
        #[test]
        fn blocks_read_back(variables in prop::collection::btree_map("[a-z_]{1,12}", "[a-z0-9.~-]{0,20}", 0..8)) {
            let env = GrubEnv(variables);
            prop_assert_eq!(GrubEnv::parse(&env.to_bytes().unwrap()), env);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = GrubEnv::parse(&bytes);
            let _ = GrubEnv::parse(&[HEADER, &bytes].concat());
        }
    }
}

//! Canonical JSON (<http://wiki.laptop.org/go/Canonical_JSON>): the bytes that are signed and that key ids are made of.
//!
//! Keys sorted by their characters, no white space, whole numbers, and in strings only `"` and `\` escaped.

use serde_json::Value;

/// A number that canonical JSON has no form for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a whole number of 64 bits")]
pub struct NotCanonical(String);

/// The canonical form of `value`.
///
/// # Errors
/// [`NotCanonical`] for a fraction.
pub fn encode(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), NotCanonical> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => out.extend_from_slice(n.to_string().as_bytes()),
            (None, Some(n)) => out.extend_from_slice(n.to_string().as_bytes()),
            (None, None) => return Err(NotCanonical(number.to_string())),
        },
        Value::String(text) => string(text, out),
        Value::Array(list) => {
            out.push(b'[');
            for (n, item) in list.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(map) => {
            // serde_json's map may keep the order of insertion, where some crate of the build asks for that.
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            out.push(b'{');
            for (n, (key, item)) in keys.into_iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                string(key, out);
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' || byte == b'\\' {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_forms() {
        let value = json!({"b": [1, -2, true, null], "a": "x\"\\\n\u{e9}\u{1F600}", "": {}, "B": []});
        assert_eq!(
            String::from_utf8(encode(&value).unwrap()).unwrap(),
            "{\"\":{},\"B\":[],\"a\":\"x\\\"\\\\\n\u{e9}\u{1F600}\",\"b\":[1,-2,true,null]}"
        );
        assert!(encode(&json!([1.5])).is_err());
        assert_eq!(encode(&json!(u64::MAX)).unwrap(), b"18446744073709551615");
    }

    proptest! {
        #[test]
        fn the_order_of_keys_does_not_matter(pairs in prop::collection::hash_map(".*", any::<i64>(), 0..20)) {
            let mut forward: Vec<_> = pairs.into_iter().collect();
            let a: serde_json::Map<_, _> = forward.iter().cloned().map(|(k, v)| (k, v.into())).collect();
            forward.reverse();
            let b: serde_json::Map<_, _> = forward.into_iter().map(|(k, v)| (k, v.into())).collect();
            prop_assert_eq!(encode(&a.into()).unwrap(), encode(&b.into()).unwrap());
        }
    }
}

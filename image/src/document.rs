//! What is wrong with a TOML document, on one line.

use cairn_protocol::limits::clean_text;

/// Line (from 1) and message of why `text` is not what it should be.
#[must_use]
pub fn toml_error(text: &str, error: &toml::de::Error) -> (usize, String) {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    (line, clean_text(error.message()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn one_line_that_names_the_line() {
        for (text, line) in [("a = 1\nb = [\n", 2), ("\n\na = 1\na = 2\n", 4), ("x", 1)] {
            let error = toml::from_str::<toml::Table>(text).unwrap_err();
            let (found, message) = super::toml_error(text, &error);
            assert!(!message.contains('\n') && !message.is_empty());
            assert_eq!(found, line, "{text:?}: {message}");
        }
    }
}

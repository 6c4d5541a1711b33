//! Reading YAML that people write: what is wrong is said in one line, with its place, and in no library's words.

use serde::de::DeserializeOwned;

use crate::limits;

/// What the library says to programmers, and what it means to somebody who wrote the document.
const WORDS: [(&str, &str); 3] = [
    (", set DuplicateKeyPolicy in Options if acceptable", ""),
    ("recursive references require weak recursion types", "an alias cannot stand within what it names"),
    ("duplicate mapping key: ", "this key is there twice: "),
];

/// Reads a document.
///
/// # Errors
/// One line that says what is wrong, and at which line and column.
pub(crate) fn read<T: DeserializeOwned>(yaml: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(yaml, options).map_err(|e| limits::clean_text(&plain(&e.to_string())))
}

fn plain(text: &str) -> String {
    let mut text = WORDS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    for signed in ["i", "u"] {
        for bits in ["8", "16", "32", "64"] {
            text = text.replace(&format!("invalid {signed}{bits} "), "this is no number that fits here ");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::plan::Plan;

    #[test]
    fn errors_are_for_who_wrote_the_document() {
        for (yaml, said) in [
            ("version: 1\nsite: s1\nsite: s2\nnodes: {n1: {}}\n", "this key is there twice: site at line 3"),
            ("version: x\nsite: s1\nnodes: {n1: {}}\n", "this is no number that fits here at line 1"),
            (
                "version: 1\nsite: s1\nnodes: &a {n1: *a}\n",
                "an alias cannot stand within what it names at line 3",
            ),
            ("version: 1\nsite: s1\nnodes: {n1: {seriall: x}}\n", "unknown field `seriall`"),
        ] {
            let error = Plan::parse(yaml).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "{error}");
            for word in ["Options", "u32", "recursion"] {
                assert!(!error.contains(word), "{error}");
            }
        }
    }
}

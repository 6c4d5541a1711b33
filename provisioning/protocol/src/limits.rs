//! Sizes above which an input is refused before it is parsed.
//!
//! Each is several times what a large site needs, and small enough that an agent with 10 MB of memory can hold one.

/// A site's plan, bytes of YAML. 5,000 nodes with a network section each fit.
pub const PLAN_BYTES: usize = 4 << 20;
/// A seed file, bytes: a network document and a token.
pub const SEED_BYTES: usize = 256 << 10;
/// A node's assignment envelope, bytes: its own part of the plan and some bundle names.
pub const ASSIGNMENT_BYTES: usize = 256 << 10;
/// An enrolment request, bytes: a CSR and an inventory.
pub const ENROL_BYTES: usize = 256 << 10;
/// A heartbeat or its answer, bytes.
pub const HEARTBEAT_BYTES: usize = 64 << 10;
/// A full status report, bytes: an inventory of several hundred disks and links.
pub const STATUS_BYTES: usize = 512 << 10;
/// Any other JSON answer of the controller to a node, bytes.
pub const ANSWER_BYTES: usize = 64 << 10;
/// `image.json`, bytes.
pub const SETTINGS_BYTES: usize = 16 << 10;
/// A generation file, bytes: an assignment and a component list.
pub const GENERATION_BYTES: usize = 512 << 10;
/// Events in one heartbeat; the rest follows in the next.
pub const EVENTS_PER_HEARTBEAT: usize = 32;
/// Steps of a node's bootstrap in its status.
pub const BOOTSTRAP_STEPS: usize = 32;
/// Log lines of one such step: enough to see why a program failed.
pub const STEP_LOG_LINES: usize = 8;
/// Characters of one event's or one waiting reason's text; longer ones are cut.
pub const TEXT_CHARS: usize = 400;

/// `text` cut to [`TEXT_CHARS`] characters, control characters and line breaks replaced, marks that turn the direction of
/// writing left out, so that a hostile peer's text cannot draw on a console, fill a log, or read as what it is not.
pub fn clean_text(text: &str) -> String {
    let blank = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let kept = text.chars().filter(|c| !turns_direction(*c)).take(TEXT_CHARS);
    kept.map(|c| if blank(c) { ' ' } else { c }).collect()
}

/// Unicode's `Bidi_Control` (PropList.txt): with them `exe.gpj` is shown for `jpg.exe`.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The input was longer than its limit and was not parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {length} bytes, more than the {limit} allowed: it was not read")]
pub struct TooLong {
    /// What the input was, as an operator would call it.
    pub what: &'static str,
    /// Its length in bytes.
    pub length: usize,
    /// The limit in bytes.
    pub limit: usize,
}

/// Fails when `bytes` is longer than `limit`.
///
/// # Errors
/// [`TooLong`], naming `what`.
pub fn check(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), TooLong> {
    if bytes.len() > limit { Err(TooLong { what, length: bytes.len(), limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_made_harmless() {
        for (text, clean) in [
            ("\u{1b}[2Jgone\r\nnext", " [2Jgone  next"),
            ("a\u{202e}gpj.exe\u{202c}", "agpj.exe"),
            ("\u{2066}x\u{2069}\u{200f}\u{61c}", "x"),
            ("one\u{2028}two", "one two"),
            ("Käse, \u{5e9}\u{5dc}", "Käse, \u{5e9}\u{5dc}"),
        ] {
            assert_eq!(clean_text(text), clean);
        }
        assert_eq!(clean_text(&"ä".repeat(1000)).chars().count(), TEXT_CHARS);
        // What is left out does not count.
        assert_eq!(clean_text(&format!("{}end", "\u{202e}".repeat(1000))), "end");
    }
}

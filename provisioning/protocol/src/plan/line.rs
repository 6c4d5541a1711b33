//! Where a key stands in a plan's text, so that a rule over several keys can name a line too.

/// The line, counted from 1, of the key path `at` (`nodes.n1.disks`) in `yaml`: of its last part that is found. `None`
/// where not even the first is. A key is looked for after the line of the one before it, so a block and a flow style
/// document are read alike.
pub(super) fn of_key(yaml: &str, at: &str) -> Option<usize> {
    let lines: Vec<&str> = yaml.lines().collect();
    let mut found: Option<(usize, usize)> = None;
    for part in at.split('.') {
        let (first, column) = found.map_or((0, 0), |(line, column)| (line, column));
        let next = (first..lines.len()).find_map(|number| {
            let from = if number == first { column } else { 0 };
            key_in(lines.get(number)?, part, from).map(|end| (number, end))
        });
        match next {
            Some(next) => found = Some(next),
            None => break,
        }
    }
    found.map(|(line, _)| line + 1)
}

/// Where in `line` from byte `from` on the key `part` ends, its colon included.
fn key_in(line: &str, part: &str, from: usize) -> Option<usize> {
    let text = line.get(from..)?;
    let comment = text.find(" #").unwrap_or(text.len());
    let text = text.get(..comment)?;
    if text.trim_start().starts_with('#') {
        return None;
    }
    let mut search = 0;
    while let Some(position) = text.get(search..)?.find(part) {
        let start = search + position;
        let end = start + part.len();
        let before = text.get(..start)?.chars().next_back();
        let after = text.get(end..)?.trim_start_matches(['"', '\'']);
        let begins = before.is_none_or(|c| c.is_whitespace() || "{,\"'".contains(c));
        if begins && after.trim_start().starts_with(':') {
            return Some(from + end + 1);
        }
        search = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_both_styles() {
        let yaml = "version: 1\n# nodes: no\nnodes:\n  n1: { serial: A, roles: [worker] }\n  n2:\n    roles: [worker]\n    bundles: { \"os/base\": 1 }\n";
        for (at, line) in [
            ("version", Some(1)),
            ("nodes", Some(3)),
            ("nodes.n1.roles", Some(4)),
            ("nodes.n2.roles", Some(6)),
            ("nodes.n2.bundles.os/base", Some(7)),
            ("nodes.n2.disks", Some(5)),
            ("nodes.n", Some(3)),
            ("disks", None),
        ] {
            assert_eq!(of_key(yaml, at), line, "{at}");
        }
    }
}

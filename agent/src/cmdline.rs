//! The kernel's command line: `console=` devices and the `cairn.*` knobs. Pure.

/// The longest command line that is read, bytes; the kernel's own limit on x86 (COMMAND_LINE_SIZE) is 2048.
pub const LIMIT: usize = 4096;

/// The least `cairn.rate`, bytes per second: slower than this a base layer takes an hour and a heartbeat a second.
const LEAST_RATE: u64 = 64 << 10;

/// What the agent takes from the command line. Nothing here authorises anything: the pin in the image decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// Devices of `console=`, without options, in order: `tty0`, `ttyS0`.
    pub consoles: Vec<String>,
    /// `cairn.seed=URL`: where a signed seed may be fetched from.
    pub seed: Option<String>,
    /// `cairn.controller=URL`, each: a suggestion; the pin decides.
    pub controllers: Vec<String>,
    /// `cairn.boot=`: a hint how this boot started: `usb`, `netboot`, `disk`, `direct`, `container`.
    pub boot: Option<String>,
    /// `cairn.rate=BYTES`: fetch at most so many bytes per second; 65,536 at least.
    pub rate: Option<u64>,
    /// `cairn.debug`: more lines on the console.
    pub debug: bool,
    /// `cairn.watchdog=off`: leave the hardware watchdog alone.
    pub watchdog_off: bool,
}

/// Words of a command line; double quotes keep spaces, as the kernel's `next_arg` does.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Whether `url` is a plain http or https URL, short and without odd characters.
fn plain_url(url: &str) -> bool {
    (url.starts_with("http://") || url.starts_with("https://"))
        && url.len() <= 512
        && url.bytes().all(|b| b.is_ascii_graphic())
}

impl Cmdline {
    /// Reads the text of `/proc/cmdline`; whatever is not known is somebody else's and skipped.
    pub fn parse(text: &str) -> Self {
        let mut cmdline = Self::default();
        let text: String = text.chars().take(LIMIT).collect();
        for word in words(&text) {
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            match key {
                "console" => {
                    let device = value.split(',').next().unwrap_or_default();
                    let plain = !device.is_empty() && device.bytes().all(|b| b.is_ascii_alphanumeric());
                    if plain && !cmdline.consoles.iter().any(|known| known == device) {
                        cmdline.consoles.push(device.to_owned());
                    }
                }
                "cairn.seed" if plain_url(value) => cmdline.seed = Some(value.to_owned()),
                "cairn.controller" if plain_url(value) => cmdline.controllers.push(value.to_owned()),
                "cairn.boot" if ["usb", "netboot", "disk", "direct", "container"].contains(&value) => {
                    cmdline.boot = Some(value.to_owned());
                }
                "cairn.rate" => cmdline.rate = value.parse().ok().filter(|rate| *rate >= LEAST_RATE),
                "cairn.debug" => cmdline.debug = value != "0",
                "cairn.watchdog" => cmdline.watchdog_off = value == "off",
                _ => {}
            }
        }
        cmdline
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knobs_are_read_and_the_rest_is_skipped() {
        let cmdline = Cmdline::parse(
            "BOOT_IMAGE=/vmlinuz quiet console=tty0 console=ttyS0,115200n8 console=ttyS0 no_timer_check \
             cairn.seed=http://10.0.0.1/s.json cairn.controller=https://c:8443 cairn.boot=usb cairn.debug\n",
        );
        assert_eq!(cmdline.consoles, ["tty0", "ttyS0"]);
        assert_eq!(cmdline.seed.as_deref(), Some("http://10.0.0.1/s.json"));
        assert_eq!(cmdline.controllers, ["https://c:8443"]);
        assert_eq!(cmdline.boot.as_deref(), Some("usb"));
        assert!(cmdline.debug && !cmdline.watchdog_off);
    }

    #[test]
    fn odd_values_are_not_taken() {
        let cmdline = Cmdline::parse(
            "cairn.seed=file:///etc/passwd cairn.boot=x console=../../sda console= cairn.watchdog=off",
        );
        assert_eq!(cmdline, Cmdline { watchdog_off: true, ..Cmdline::default() });
        assert_eq!(words("a=\"b c\" d"), ["a=b c", "d"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            let _ = Cmdline::parse(&text);
        }
    }
}

//! Where Debian packages come from: the host's own apt configuration, with the release replaced.
//!
//! No registry's address is written into this program: a site behind a mirror, a proxy or a frozen snapshot has told
//! apt so already.

use std::process::Command;

use super::Error;

/// Archive addresses taken from the host, and the apt options that belong to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// Main archive (`<mirror>/dists/trixie`).
    pub main: String,
    /// Security archive, where the host has one.
    pub security: Option<String>,
    /// `apt.conf` lines such as proxies and date checks.
    pub options: Vec<String>,
}

/// Overrides the main archive; for hosts whose apt knows no Debian archive.
pub const MIRROR_VARIABLE: &str = "CAIRN_DEBIAN_MIRROR";
/// Overrides the security archive.
pub const SECURITY_VARIABLE: &str = "CAIRN_DEBIAN_SECURITY_MIRROR";

/// Keys of the host's `Acquire` settings which a mirror may need to be reachable or accepted.
const CARRIED: &[&str] = &[
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
    "Acquire::Retries ",
    "Acquire::http::",
    "Acquire::https::",
];

impl Mirrors {
    /// Reads the host's apt configuration (`apt-get indextargets`, `apt-config dump`) and the two override variables.
    ///
    /// # Errors
    /// When apt cannot be run, or knows no Debian archive and no override is set.
    pub fn from_host() -> Result<Self, Error> {
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(SITE) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]))?;
        let config = output(Command::new("apt-config").arg("dump"))?;
        let mut found = parse(&targets, &config);
        if let Ok(main) = std::env::var(MIRROR_VARIABLE) {
            let security = found.as_ref().and_then(|m| m.security.clone());
            let options = carried_options(&config);
            found = Some(Self { main, security, options });
        }
        let mut found = found.ok_or(Error::NoMirror)?;
        if let Ok(security) = std::env::var(SECURITY_VARIABLE) {
            found.security = Some(security);
        }
        Ok(found)
    }

    /// The one-line `sources.list` entries of a suite, its updates and its security archive.
    /// `components`: for example `main non-free-firmware`.
    #[must_use]
    pub fn sources(&self, suite: &str, components: &str) -> Vec<String> {
        let mut lines = vec![
            format!("deb {} {suite} {components}", self.main),
            format!("deb {} {suite}-updates {components}", self.main),
        ];
        if let Some(security) = &self.security {
            lines.push(format!("deb {security} {suite}-security {components}"));
        }
        lines
    }
}

fn output(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|source| Error::Run { program: name.clone(), source })?;
    if !out.status.success() {
        return Err(Error::Failed {
            what: name,
            status: out.status.to_string(),
            tail: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn carried_options(config: &str) -> Vec<String> {
    config
        .lines()
        .filter(|line| CARRIED.iter().any(|key| line.starts_with(key)))
        .filter(|line| !line.ends_with("\"\";"))
        .map(ToOwned::to_owned)
        .collect()
}

/// Picks the archives out of `SITE RELEASE COMPONENT` lines. Third-party repositories do not carry Debian's code
/// names with component `main` under a path that ends in `debian` or `debian-security`.
fn parse(targets: &str, config: &str) -> Option<Mirrors> {
    let mut main = None;
    let mut security = None;
    for line in targets.lines() {
        let mut words = line.split_whitespace();
        let (Some(site), Some(release), Some("main")) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let site = site.trim_end_matches('/');
        if release.ends_with("-security") && site.contains("debian") {
            security.get_or_insert_with(|| site.to_owned());
        } else if RELEASES.contains(&release) && site.contains("debian") {
            main.get_or_insert_with(|| site.to_owned());
        }
    }
    Some(Mirrors { main: main?, security, options: carried_options(config) })
}

/// Names under which a host's main archive may be listed.
const RELEASES: &[&str] =
    &["bullseye", "bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TARGETS: &str = "\
http://mirror.example/debian bookworm main
http://mirror.example/debian bookworm-updates main
http://mirror.example/debian-security bookworm-security main
http://other.example/apt cloud-sdk-bookworm main
http://other.example/debian nodistro main
";

    #[test]
    fn archives_come_from_the_host() {
        let config = "Acquire \"\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::http::Proxy \"http://p:1\";\n\
                      Acquire::http::Dl-Limit \"\";\nAcquire::Languages \"\";\n";
        let mirrors = parse(TARGETS, config).unwrap();
        assert_eq!(mirrors.main, "http://mirror.example/debian");
        assert_eq!(mirrors.security.as_deref(), Some("http://mirror.example/debian-security"));
        assert_eq!(
            mirrors.options,
            ["Acquire::Check-Valid-Until \"false\";", "Acquire::http::Proxy \"http://p:1\";"]
        );
        assert_eq!(
            mirrors.sources("trixie", "main"),
            [
                "deb http://mirror.example/debian trixie main",
                "deb http://mirror.example/debian trixie-updates main",
                "deb http://mirror.example/debian-security trixie-security main",
            ]
        );
    }

    #[test]
    fn a_host_without_debian_is_told_apart() {
        assert_eq!(parse("http://archive.example/ubuntu noble main\n", ""), None);
    }
}

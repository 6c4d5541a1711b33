//! What a rack with a controller needs before it is powered on: keys, CA, image, a published bundle. Made by the programs that
//! operators use, kept in the cache, each step done again only when what it is made from changed.
//!
//! This runs outside the lab's namespaces, which have no way to a package mirror. Inside, [`Prepared::locate`] finds it again.
//!
//! - [`stamp`]: when a step is done again.
//! - [`bundles`]: bundles beside the release.

mod bundles;
pub mod stamp;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use cairn_image::toolbox;

use crate::dirs::{self, fail};
use crate::site::{CONTROLLER_NAME, CONTROLLER_PORT};
use crate::spec::Bundle;
use stamp::Stamp;

/// Raised when older caches no longer fit.
const FORMAT: u32 = 1;
/// Trust domain of labs.
const TRUST_DOMAIN: &str = "cairn.lab";
/// Added to the image's command line: TCG may deliver the timer's first interrupt too late.
const EXTRA_CMDLINE: &str = "no_timer_check";

/// Why a rack could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] toolbox::Error),
    /// A program is missing.
    #[error("{} is not there; `make lab` builds it", .0.display())]
    Missing(PathBuf),
    /// A program could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Program and arguments.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}); see {}", log.display())]
    Failed {
        /// Program and arguments.
        program: String,
        /// Exit status.
        status: std::process::ExitStatus,
        /// Everything it said.
        log: PathBuf,
    },
}

/// The programs of the house.
#[derive(Debug, Clone)]
pub struct Tools {
    /// `cairn-controller`.
    pub controller: PathBuf,
    /// `cairnctl`.
    pub cairnctl: PathBuf,
    /// `cairn-image`.
    pub image: PathBuf,
    /// The static agent.
    pub agent: PathBuf,
}

impl Tools {
    /// Finds them: in `CAIRN_BIN_DIR`, or beside this program (or one folder up, for tests); the agent in `CAIRN_AGENT`, or in
    /// the static target's folder.
    ///
    /// # Errors
    /// Names the first one that is missing.
    pub fn find() -> Result<Self, Error> {
        let own = std::env::current_exe().map_err(fail("find", Path::new("/proc/self/exe")))?;
        let beside = own.parent().unwrap_or(Path::new(".")).to_owned();
        let beside = if beside.ends_with("deps") { beside.join("..") } else { beside };
        let dir = std::env::var_os("CAIRN_BIN_DIR").map_or(beside.clone(), PathBuf::from);
        let agent = std::env::var_os("CAIRN_AGENT").map(PathBuf::from);
        let agent = agent.unwrap_or_else(|| beside.join("../x86_64-unknown-linux-gnu/agent/cairn-agent"));
        let tools = Self {
            controller: dir.join("cairn-controller"),
            cairnctl: dir.join("cairnctl"),
            image: dir.join("cairn-image"),
            agent,
        };
        for path in [&tools.controller, &tools.cairnctl, &tools.image, &tools.agent] {
            if !path.exists() {
                return Err(Error::Missing(path.clone()));
            }
        }
        Ok(tools)
    }
}

/// The benchmark's init, a static program that prints one line, beside the agent.
///
/// # Errors
/// When it is missing.
pub fn print_init(tools: &Tools) -> Result<PathBuf, Error> {
    let path = tools.agent.with_file_name("cairn-print-init");
    if path.exists() { Ok(path) } else { Err(Error::Missing(path)) }
}

/// What was prepared, by where it is.
#[derive(Debug, Clone)]
pub struct Prepared {
    root: PathBuf,
    address: Ipv4Addr,
    /// Name of the repository's folder below `root`.
    repository: String,
}

impl Prepared {
    /// Where the preparation for a controller at `address` is kept.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn locate(address: Ipv4Addr) -> Result<Self, Error> {
        let root = toolbox::cache_dir()?.join("lab").join(format!("{FORMAT}-{address}"));
        Ok(Self { root, address, repository: "repo".to_owned() })
    }

    /// The same with a repository that also has these bundles.
    #[must_use]
    pub fn with_bundles(self, bundles: &[Bundle]) -> Self {
        if bundles.is_empty() {
            return self;
        }
        Self { repository: format!("repo-{}", bundles::key(bundles)), ..self }
    }

    /// Keeps everything as it is until the answer is dropped: another lab may want to prepare it anew, from newer programs.
    ///
    /// # Errors
    /// When nothing was prepared.
    pub fn hold(&self) -> Result<File, Error> {
        let path = self.root.join("lock");
        let file = File::open(&path).map_err(fail("open", &path))?;
        file.lock_shared().map_err(fail("lock", &path))?;
        Ok(file)
    }

    /// Boot files.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    /// Boot files with the benchmark's init in place of the agent.
    #[must_use]
    pub fn print_image(&self) -> PathBuf {
        self.root.join("print-image")
    }

    /// A controller's folder as `cairn-controller init` made it: copied for each run, never run itself.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }

    /// Credential of an operator.
    #[must_use]
    pub fn operator(&self) -> PathBuf {
        self.controller().join("operator")
    }

    /// Release keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The signed repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.root.join(&self.repository)
    }

    /// The controller's base URL by address, for programs that do not ask the site's DNS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{CONTROLLER_PORT}", self.address)
    }
}

/// Everything that is prepared once for many runs, the release only with a `recipe`, and with it the further `bundles` that a
/// rack names; `say` gets one line per step that is really done.
///
/// # Errors
/// See [`Error`].
pub fn prepare(
    address: Ipv4Addr,
    recipe: Option<&Path>,
    bundles: &[Bundle],
    say: &dyn Fn(&str),
) -> Result<Prepared, Error> {
    let tools = Tools::find()?;
    let prepared = Prepared::locate(address)?.with_bundles(bundles);
    let root = &prepared.root;
    std::fs::create_dir_all(root).map_err(fail("make", root))?;
    let lock_path = root.join("lock");
    let lock = File::create(&lock_path).map_err(fail("make", &lock_path))?;
    lock.lock().map_err(fail("lock", &lock_path))?;
    let step = |name: &str| Step { root, name: name.to_owned(), say };
    let (keys, controller, trust) = (prepared.keys(), prepared.controller(), root.join("trust"));
    let (empty, image, bundle) = (root.join("repo-empty"), prepared.image(), root.join("bundle"));

    let s = |path: &Path| path.to_string_lossy().into_owned();
    let identity = Stamp::new("identity").text(&address.to_string());
    step("keys")
        .run(&identity, &[&keys], || vec![call(&tools.cairnctl, &["keys", "init", "--dir", &s(&keys)])])?;
    step("ca").run(&identity, &[&controller], || {
        let name = ["--name", CONTROLLER_NAME, "--name", &address.to_string()].map(str::to_owned);
        let words = ["init", "--dir", &s(&controller), "--trust-domain", TRUST_DOMAIN].map(str::to_owned);
        vec![Call { program: tools.controller.clone(), words: words.into_iter().chain(name).collect() }]
    })?;
    step("repository").run(&identity, &[&empty], || {
        vec![call(&tools.cairnctl, &["repo", "init", "--keys", &s(&keys), "--repo", &s(&empty)])]
    })?;
    step("trust").run(&identity, &[&trust], || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let url = format!("https://{CONTROLLER_NAME}:{CONTROLLER_PORT}");
        vec![call(
            &tools.cairnctl,
            &[
                "trust",
                "export",
                "--credentials",
                &s(&prepared.operator()),
                "--keys",
                &s(&keys),
                "--repo",
                &s(&empty),
                "--controller",
                &url,
                "--image-version",
                env!("CARGO_PKG_VERSION"),
                "--build-time",
                &now.to_string(),
                "--out",
                &s(&trust),
            ],
        )]
    })?;
    let made_of = Stamp::new("image").file(&tools.agent)?.file(&tools.image)?.folder(&trust)?;
    step("image").run(&made_of, &[&image], || {
        vec![call(
            &tools.image,
            &[
                "build",
                "--agent",
                &s(&tools.agent),
                "--trust",
                &s(&trust),
                "--out",
                &s(&image),
                "--no-crates",
                "--cmdline-extra",
                EXTRA_CMDLINE,
            ],
        )]
    })?;
    let Some(recipe) = recipe else { return Ok(prepared) };
    let uki = image.join("cairn.efi");
    let made_of = Stamp::new("bundle").file(recipe)?.file(&uki)?.file(&tools.cairnctl)?;
    step("bundle").run(&made_of, &[&bundle], || {
        vec![call(&tools.cairnctl, &["bundle", "build", &s(recipe), "--out", &s(&bundle), "--uki", &s(&uki)])]
    })?;
    let repo = root.join("repo");
    step("release").run(&made_of, &[&repo], || {
        let copy = Call { program: PathBuf::from("cp"), words: vec!["-a".to_owned(), s(&empty), s(&repo)] };
        let words = ["bundle", "add", &s(&bundle), "--keys", &s(&keys), "--repo", &s(&repo)];
        vec![copy, call(&tools.cairnctl, &words)]
    })?;
    if !bundles.is_empty() {
        bundles::prepare(&prepared, &tools, &made_of, bundles, say)?;
    }
    let repo = prepared.repository();
    // Online metadata ages by the day; what is published must be fresh.
    let words = ["repo", "refresh", "--keys", &s(&keys), "--repo", &s(&repo)].map(str::to_owned);
    run(&tools.cairnctl, &words, &root.join("refresh.log"))?;
    Ok(prepared)
}

/// The benchmark's image, beside what [`prepare`] made.
///
/// # Errors
/// See [`Error`].
pub fn prepare_print_image(prepared: &Prepared, say: &dyn Fn(&str)) -> Result<(), Error> {
    let tools = Tools::find()?;
    let init = print_init(&tools)?;
    let out = prepared.print_image();
    let made_of = Stamp::new("print-image").file(&init)?.file(&tools.image)?;
    let step = Step { root: &prepared.root, name: "print-image".to_owned(), say };
    step.run(&made_of, &[&out], || {
        let (init, out) = (init.to_string_lossy(), out.to_string_lossy());
        vec![call(&tools.image, &["build", "--agent", &init, "--out", &out, "--no-crates"])]
    })
}

/// One program to run.
struct Call {
    program: PathBuf,
    words: Vec<String>,
}

fn call(program: &Path, words: &[&str]) -> Call {
    Call { program: program.to_owned(), words: words.iter().map(|word| (*word).to_owned()).collect() }
}

struct Step<'a> {
    root: &'a Path,
    name: String,
    say: &'a dyn Fn(&str),
}

impl Step<'_> {
    /// Runs the calls unless the step is done with these inputs; what an earlier one left in `outputs` is removed first.
    fn run(
        &self,
        made_of: &Stamp,
        outputs: &[&Path],
        calls: impl FnOnce() -> Vec<Call>,
    ) -> Result<(), Error> {
        self.run_with(made_of, outputs, calls, &|call, log| run(&call.program, &call.words, log))
    }

    /// As [`Step::run`], each call done by `how`.
    fn run_with(
        &self,
        made_of: &Stamp,
        outputs: &[&Path],
        calls: impl FnOnce() -> Vec<Call>,
        how: &dyn Fn(&Call, &Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let stamp = self.root.join(format!("{}.stamp", self.name));
        if made_of.matches(&stamp) && outputs.iter().all(|output| output.exists()) {
            return Ok(());
        }
        (self.say)(&format!("preparing {}", self.name));
        let _ = std::fs::remove_file(&stamp);
        for output in outputs {
            match std::fs::remove_dir_all(output) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(fail("remove", output)(error).into());
                }
                _ => {}
            }
        }
        let log = self.root.join(format!("{}.log", self.name));
        let _ = std::fs::remove_file(&log);
        for call in calls() {
            how(&call, &log)?;
        }
        Ok(made_of.write(&stamp)?)
    }
}

/// Runs a program with everything it says appended to `log`. It ends when this thread does, however that comes about: a
/// build that nobody waits for must not go on under a lock that is free again.
///
/// # Errors
/// When it cannot be run or fails.
pub fn run(program: &Path, words: &[String], log: &Path) -> Result<(), Error> {
    let shown = format!("{} {}", program.display(), words.join(" "));
    let file = File::options().create(true).append(true).open(log).map_err(fail("open", log))?;
    let clone = file.try_clone().map_err(fail("open", log))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(words);
    let status = command.stdin(Stdio::null()).stdout(clone).stderr(file).status();
    let status = status.map_err(|source| Error::Run { program: shown.clone(), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { program: shown, status, log: log.to_owned() }) }
}

/// As [`run`], and `say` gets each line that the program writes to standard error: for what takes minutes.
fn run_told(program: &Path, words: &[String], log: &Path, say: &dyn Fn(&str)) -> Result<(), Error> {
    let shown = format!("{} {}", program.display(), words.join(" "));
    let failed = |source| Error::Run { program: shown.clone(), source };
    let mut file = File::options().create(true).append(true).open(log).map_err(fail("open", log))?;
    let clone = file.try_clone().map_err(fail("open", log))?;
    let mut command = Command::new(program);
    let mut child = command
        .args(words)
        .stdin(Stdio::null())
        .stdout(clone)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let lines = child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n'));
    for line in lines.map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        say(&line);
        writeln!(file, "{line}").map_err(fail("write", log))?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(Error::Failed { program: shown, status, log: log.to_owned() }) }
}

//! Command line of `cairn-image`.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use cairn_image::build::{self, Options};
use cairn_image::initramfs::firmware;
use cairn_image::kernel::Flavour;
use cairn_image::toolbox::Toolbox;
use clap::{Args, Parser, Subcommand};

/// Builds Cairn's boot images and the toolbox they are built with.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Builds vmlinuz, initramfs.img, cairn.efi, cairn-usb.img, sbom.cdx.json and sizes.json.
    Build(BuildArguments),
    /// The Debian root that holds QEMU, firmware and the other foreign tools.
    #[command(subcommand)]
    Toolbox(ToolboxVerb),
}

#[derive(Debug, Args)]
struct BuildArguments {
    /// Debian's kernel: `generic` for real machines, `cloud` for virtual ones only.
    #[arg(long, value_enum, default_value_t = Flavour::Generic)]
    kernel: Flavour,
    /// The static agent binary, which becomes /init.
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Directory with root.json, ca.pin and image.json (`cairnctl trust export`).
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
    /// Where the outputs go.
    #[arg(long, value_name = "DIR", default_value = "target/image")]
    out: PathBuf,
    /// Kernel command line.
    #[arg(long, default_value = build::CMDLINE)]
    cmdline: String,
    /// Words to add to the command line (repeat).
    #[arg(long, value_name = "WORDS")]
    cmdline_extra: Vec<String>,
    /// The image's version; default: what image.json says, else 0.0.0.
    #[arg(long = "version", value_name = "VERSION")]
    image_version: Option<String>,
    /// Firmware packages of Debian to take files from: `none`, `all`, or names separated by commas.
    #[arg(long, value_name = "LIST", default_value = "none")]
    firmware: String,
    /// Kernel modules beyond the driver table (repeat).
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Store modules decompressed: same size, more memory and time at boot; for agents that cannot load .ko.xz.
    #[arg(long)]
    plain_modules: bool,
    /// Directory of the agent's Cargo.toml and Cargo.lock, for the SBOM.
    #[arg(long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// Leave the Rust crates out of the SBOM: no cargo is needed.
    #[arg(long)]
    no_crates: bool,
}

impl BuildArguments {
    fn options(self) -> Options {
        let firmware = match self.firmware.as_str() {
            "none" | "" => Vec::new(),
            "all" => firmware::PACKAGES.iter().map(|&name| name.to_owned()).collect(),
            list => list.split(',').map(|name| name.trim().to_owned()).collect(),
        };
        let cmdline = std::iter::once(self.cmdline).chain(self.cmdline_extra).collect::<Vec<_>>().join(" ");
        Options {
            flavour: self.kernel,
            agent: self.agent,
            trust: self.trust,
            out: self.out,
            cmdline,
            version: self.image_version,
            firmware,
            modules: self.module,
            plain_modules: self.plain_modules,
            workspace: (!self.no_crates).then_some(self.workspace),
        }
    }
}

#[derive(Debug, Subcommand)]
enum ToolboxVerb {
    /// Builds it if it is not in the cache.
    Ensure,
    /// Prints the root's path, building it if needed.
    Path,
    /// Runs a program in it.
    Run {
        /// Host file or directory to show at its own path, writable (repeat).
        #[arg(long, value_name = "PATH")]
        bind: Vec<PathBuf>,
        /// The same, read-only.
        #[arg(long, value_name = "PATH")]
        bind_ro: Vec<PathBuf>,
        /// Working directory inside.
        #[arg(long, value_name = "DIR", default_value = "/")]
        cwd: PathBuf,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

/// Exit statuses: 0 done, 1 failed (one line says why), 2 wrong usage; `toolbox run` becomes the program.
pub(crate) fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("cairn-image: {error}");
            let mut cause = error.source();
            while let Some(next) = cause {
                text.push_str(&format!(": {next}"));
                cause = next.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let progress = progress();
    match arguments.verb {
        Verb::Build(arguments) => build_image(&arguments.options(), &progress)?,
        Verb::Toolbox(ToolboxVerb::Ensure) => {
            Toolbox::ensure(&progress)?;
        }
        Verb::Toolbox(ToolboxVerb::Path) => println!("{}", Toolbox::ensure(&progress)?.root().display()),
        Verb::Toolbox(ToolboxVerb::Run { bind, bind_ro, cwd, command }) => {
            let toolbox = Toolbox::ensure(&progress)?;
            let mut enter = toolbox.enter().cwd(cwd);
            for path in bind {
                enter = enter.bind(path);
            }
            for path in bind_ro {
                enter = enter.bind_ro(path);
            }
            return Err(enter.command(&command[0]).args(&command[1..]).exec().into());
        }
    }
    Ok(())
}

fn build_image(options: &Options, progress: &dyn Fn(&str)) -> Result<(), Box<dyn Error>> {
    let built = build::build(options, progress)?;
    if !built.absent_drivers.is_empty() {
        progress(&format!("image: not in this kernel: {}", built.absent_drivers.join(" ")));
    }
    if !options.firmware.is_empty() && !built.missing_firmware.is_empty() {
        progress(&format!(
            "image: {} firmware files are in none of the packages",
            built.missing_firmware.len()
        ));
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let s = &built.sizes;
    progress(&format!(
        "image: kernel {:.2} MB + initramfs {:.2} MB = {:.2} MB ({} modules); UKI {:.2} MB; written to {}",
        mb(s.kernel),
        mb(s.initramfs),
        mb(s.kernel_and_initramfs),
        s.module_count,
        mb(s.uki),
        options.out.display()
    ));
    Ok(())
}

/// Progress lines on standard error, with the seconds since the start.
fn progress() -> impl Fn(&str) {
    let start = Instant::now();
    let (dim, plain) = if std::io::stderr().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    move |line| {
        // A closed standard error is no reason to stop building.
        let _ = writeln!(std::io::stderr(), "{dim}[{:6.1}s]{plain} {line}", start.elapsed().as_secs_f32());
    }
}

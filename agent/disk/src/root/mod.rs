//! The root that is booted: layers stacked read-only, `/etc` rendered anew, `/var` on DATA.
//!
//! | path | what |
//! |---|---|
//! | `/` | the layer, or several by overlayfs; read-only |
//! | `/etc` | overlay over the layers' own, upper side on a tmpfs: gone at the next boot |
//! | `/etc/machine-id` | from STATE |
//! | `/etc/<persist>` | bind mount of `DATA/etc/<persist>`, first filled from the layer |
//! | `/var` | bind mount of `DATA/var`, first filled from the layers |
//! | `/tmp` | tmpfs |
//! | `/dev`, `/proc`, `/sys`, `/run` | the initramfs' own, moved by [`switch`] |

mod copy;
mod switch;

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use cairn_bundle::durable;
use nix::mount::MsFlags;

pub use copy::copy_missing;
pub use switch::switch;

use crate::error::{DiskError, Result};
use crate::mounts::{self, attach, bind};

/// Directories that a base layer must have, because mounts go there and nothing can be made in it.
const MOUNT_POINTS: &[&str] = &["dev", "etc", "proc", "run", "sys", "tmp", "var"];
/// Size of the tmpfs behind `/etc`: rendered configuration has some hundred KiB.
const ETC_SIZE: &str = "64m";
/// DATA's directories.
const VAR: &str = "var";
const ETC: &str = "etc";
/// Which layers' `/var` were copied already: a file that a service removed does not come back at the next boot.
const COPIED: &str = "copied";
const STAGING: &str = ".staging";

/// What a root is made of.
#[derive(Debug, Clone)]
pub struct RootPlan {
    /// Where it is put together, such as `/newroot`. Outside `/run`, which is moved into it.
    pub at: PathBuf,
    /// A directory of the tmpfs that is `/run`, for the upper side of `/etc`, such as `/run/cairn/etc`.
    pub scratch: PathBuf,
    /// The layers where they are mounted, base first.
    pub layers: Vec<PathBuf>,
    /// A name for this very stack of layers, letters and digits (a digest of theirs): what of its `/var` was copied is
    /// remembered under it.
    pub stack: String,
    /// STATE, for the machine id.
    pub state: PathBuf,
    /// DATA.
    pub data: PathBuf,
    /// Paths below `/etc` that outlive a boot.
    pub persist_etc: Vec<String>,
    /// The host's name.
    pub hostname: Option<String>,
}

/// A root that was put together.
#[derive(Debug)]
pub struct NewRoot {
    /// Where it is.
    pub path: PathBuf,
}

/// Puts the root together. Configuration may be written below `<path>/etc` and `<path>/run` is [`switch`]'s to fill.
///
/// # Errors
/// [`DiskError::Unexpected`] for a base without the directories it must have or a path that leaves `/etc`;
/// [`DiskError::File`] for mounts (are the modules overlay and erofs loaded?). What was mounted so far stays; another try
/// starts over.
pub fn prepare(plan: &RootPlan) -> Result<NewRoot> {
    let at = &plan.at;
    if plan.stack.is_empty() || !plan.stack.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(DiskError::Unexpected {
            path: plan.data.clone(),
            why: "the stack's name is no file name".to_owned(),
        });
    }
    let persist = plan.persist_etc.iter().map(|path| inner(path, at)).collect::<Result<Vec<_>>>()?;
    dismantle(plan)?;
    stack(plan)?;
    for name in MOUNT_POINTS {
        if !at.join(name).is_dir() {
            return Err(DiskError::Unexpected {
                path: at.join(name),
                why: "the base layer does not have it".to_owned(),
            });
        }
    }
    let _ = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    overlay_etc(plan)?;
    bind_var(plan)?;
    for path in &persist {
        bind_etc(plan, path)?;
    }
    let tmp = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    attach(Path::new("tmpfs"), &at.join("tmp"), "tmpfs", tmp, "mode=1777,size=50%")?;
    let etc = at.join("etc");
    write(&etc.join("machine-id"), &format!("{}\n", machine_id(&plan.state)?))?;
    if let Some(hostname) = &plan.hostname {
        write(&etc.join("hostname"), &format!("{hostname}\n"))?;
    }
    Ok(NewRoot { path: at.clone() })
}

/// Unmounts what [`prepare`] mounted below `at`, as far as it came.
///
/// # Errors
/// [`DiskError::File`] while something uses it.
pub fn dismantle(plan: &RootPlan) -> Result<()> {
    // In the order of the mount table's end, so that what lies on top goes first.
    let table = Path::new("/proc/thread-self/mounts");
    let table = fs::read_to_string(table).map_err(DiskError::io("read", table))?;
    let points: Vec<PathBuf> =
        table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect();
    for point in points.iter().rev().filter(|point| point.starts_with(&plan.at) || **point == plan.scratch) {
        mounts::detach(point)?;
    }
    Ok(())
}

/// A path below `/etc`, made of plain names only.
fn inner(path: &str, at: &Path) -> Result<PathBuf> {
    let inner = PathBuf::from(path);
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() {
        return Ok(inner);
    }
    Err(DiskError::Unexpected { path: at.join("etc"), why: format!("{path:?} is no path below it") })
}

fn option_path(path: &Path) -> Result<&str> {
    // overlayfs reads `:` and `,` as separators; no path of ours has them.
    path.to_str().filter(|text| !text.contains([':', ',', '\\'])).ok_or_else(|| DiskError::Unexpected {
        path: path.to_owned(),
        why: "its name cannot be a mount option".to_owned(),
    })
}

fn stack(plan: &RootPlan) -> Result<()> {
    fs::create_dir_all(&plan.at).map_err(DiskError::io("make the directory", &plan.at))?;
    match plan.layers.as_slice() {
        [] => {
            Err(DiskError::Unexpected { path: plan.at.clone(), why: "there is no layer to boot".to_owned() })
        }
        [base] => bind(base, &plan.at),
        layers => {
            // overlayfs wants the top-most first.
            let lower =
                layers.iter().rev().map(|layer| option_path(layer)).collect::<Result<Vec<_>>>()?.join(":");
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
            attach(Path::new("overlay"), &plan.at, "overlay", flags, &format!("lowerdir={lower}"))
        }
    }
}

fn overlay_etc(plan: &RootPlan) -> Result<()> {
    let (scratch, etc) = (&plan.scratch, plan.at.join("etc"));
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    attach(Path::new("tmpfs"), scratch, "tmpfs", flags, &format!("mode=0755,size={ETC_SIZE}"))?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for dir in [&upper, &work] {
        fs::create_dir(dir).map_err(DiskError::io("make the directory", dir))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(DiskError::io("protect", dir))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        option_path(&etc)?,
        option_path(&upper)?,
        option_path(&work)?
    );
    attach(Path::new("overlay"), &etc, "overlay", flags, &options)
}

fn bind_var(plan: &RootPlan) -> Result<()> {
    let (own, target) = (plan.at.join("var"), plan.data.join(VAR));
    let done = plan.data.join(COPIED).join(&plan.stack);
    if !(done.exists() && target.is_dir()) {
        copy_missing(&own, &target, &plan.data.join(STAGING))?;
        remember(&done)?;
    }
    bind(&target, &own)
}

/// Leaves a mark on DATA that outlives a power cut only after everything before it did.
fn remember(mark: &Path) -> Result<()> {
    if let Some(dir) = mark.parent() {
        fs::create_dir_all(dir).map_err(DiskError::io("make the directory", dir))?;
        durable::sync_parent(dir)?;
    }
    durable::write(mark, b"")?;
    Ok(())
}

fn bind_etc(plan: &RootPlan, path: &Path) -> Result<()> {
    let (own, target) = (plan.at.join(ETC).join(path), plan.data.join(ETC).join(path));
    if fs::symlink_metadata(&own).is_err() {
        // The layer has nothing there: an empty directory, which the upper side of /etc takes.
        fs::create_dir_all(&own).map_err(DiskError::io("make the directory", &own))?;
    }
    // The same rule as for /var, for each path on its own.
    let name: String = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join("+");
    let done = plan.data.join(COPIED).join(format!("{}.etc.{name}", plan.stack));
    if !(done.exists() && target.exists()) {
        if own.is_dir() || !target.exists() {
            copy_missing(&own, &target, &plan.data.join(STAGING))?;
        }
        remember(&done)?;
    }
    bind(&target, &own)
}

/// The machine's id (machine-id(5)), made once and kept on STATE.
fn machine_id(state: &Path) -> Result<String> {
    let path = state.join("machine-id");
    let known = durable::read(&path, 64).ok().flatten().and_then(|bytes| parse_machine_id(&bytes));
    if let Some(id) = known {
        return Ok(id);
    }
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(DiskError::io("read", "/dev/urandom"))?;
    // systemd asks for a version 4 UUID's bits, so that the id can serve as one.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    durable::write(&path, format!("{id}\n").as_bytes())?;
    Ok(id)
}

/// 32 lower-case hexadecimal digits, not all zero.
fn parse_machine_id(bytes: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(bytes).ok()?.trim_end();
    let hex = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (hex && id.bytes().any(|b| b != b'0')).then(|| id.to_owned())
}

/// A file of the new `/etc`. It lives on a tmpfs, so nothing is synced; the base's own may be a link, which is replaced.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).map_err(DiskError::io("replace", path))?;
    }
    fs::write(path, text).map_err(DiskError::io("write", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(DiskError::io("protect", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_ids() {
        let dir = tempfile::tempdir().unwrap();
        let id = machine_id(dir.path()).unwrap();
        assert_eq!(machine_id(dir.path()).unwrap(), id);
        assert_eq!(&id[12..13], "4");
        for bad in
            [b"".as_slice(), b"uninitialized", &[b'0'; 32], &[b'F'; 32], b"0123456789abcdef0123456789abcde"]
        {
            assert_eq!(parse_machine_id(bad), None);
            fs::write(dir.path().join("machine-id"), bad).unwrap();
            assert!(parse_machine_id(machine_id(dir.path()).unwrap().as_bytes()).is_some());
        }
    }

    #[test]
    fn persist_paths_stay_below_etc() {
        for bad in ["", "/kubernetes", "../x", "a/../../b"] {
            assert!(inner(bad, Path::new("/newroot")).is_err(), "{bad:?}");
        }
        assert_eq!(inner("kubernetes/pki", Path::new("/")).unwrap(), Path::new("kubernetes/pki"));
    }
}

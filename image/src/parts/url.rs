//! Files that somebody else publishes, pinned by their digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Tools, digest};
use crate::error::{self, Error};
use crate::layer::stack::recipe::Url;
use crate::toolbox::{self, run};

/// Bytes above which nothing is fetched: a release's largest archives have a tenth.
const MAX_BYTES: u64 = 4 << 30;

/// Seconds without a byte after which a download is given up, and tried again where it stopped.
const STALLED: u32 = 60;

/// The wanted file in the cache, fetched if it is not there.
///
/// # Errors
/// When it cannot be fetched, has another digest, or is no archive with that member.
pub(crate) fn ensure(tools: &Tools<'_>, part: &Url) -> Result<PathBuf, Error> {
    let cache = toolbox::cache_dir()?.join("urls");
    fs::create_dir_all(&cache).map_err(error::file("create", &cache))?;
    let whole = cache.join(&part.sha256);
    if !whole.exists() {
        fetch(tools, part, &cache, &whole)?;
    }
    let Some(member) = &part.member else { return Ok(whole) };
    let kept = cache.join(format!("{}-{}", part.sha256, member.replace('/', "%")));
    if kept.exists() {
        return Ok(kept);
    }
    let tmp = temporary(&cache)?;
    let out = fs::File::create(&tmp).map_err(error::file("create", &tmp))?;
    let mut command = tools.toolbox.enter().bind_ro(&cache).command("tar");
    command.args(["--extract", "--to-stdout", "--file"]).arg(&whole).arg("--").arg(member);
    command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    let run = |source| Error::Toolbox(toolbox::Error::Run { program: "tar".to_owned(), source });
    let done = command.spawn().and_then(std::process::Child::wait_with_output).map_err(run)?;
    let empty = fs::metadata(&tmp).map_err(error::file("find", &tmp))?.len() == 0;
    if !done.status.success() || empty {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(Error::unexpected(&part.url, format!("has no file {member} in it: {said}")));
    }
    fs::rename(&tmp, &kept).map_err(error::file("rename to", &kept))?;
    Ok(kept)
}

fn temporary(cache: &Path) -> Result<tempfile::TempPath, Error> {
    let tmp = tempfile::Builder::new().prefix(".tmp-").tempfile_in(cache);
    Ok(tmp.map_err(error::file("create a file in", cache))?.into_temp_path())
}

fn fetch(tools: &Tools<'_>, part: &Url, cache: &Path, whole: &Path) -> Result<(), Error> {
    (tools.progress)(&format!("url: fetching {}", part.url));
    let tmp = temporary(cache)?;
    if let Some(path) = part.url.strip_prefix("file://") {
        fs::copy(path, &tmp).map_err(error::file("copy", Path::new(path)))?;
    } else {
        let mut command = tools.toolbox.enter().bind(cache).command("curl");
        command.args([
            "--fail",
            "--silent",
            "--show-error",
            "--location",
            "--proto",
            "=https,http",
            "--retry",
            "3",
        ]);
        command.args(["--speed-limit", "1", "--speed-time", &STALLED.to_string()]);
        command
            .args(["--max-filesize", &MAX_BYTES.to_string(), "--output"])
            .arg(&*tmp)
            .arg("--")
            .arg(&part.url);
        run(&mut command, &format!("fetching {}", part.url), &|_| {})?;
    }
    let found = digest(&tmp)?;
    if found != part.sha256 {
        return Err(Error::unexpected(
            &part.url,
            format!(
                "has sha256 {found}, and the recipe says {}; if the release was changed on purpose, say so in the recipe",
                part.sha256
            ),
        ));
    }
    fs::rename(&tmp, whole).map_err(error::file("rename to", whole))
}

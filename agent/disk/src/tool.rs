//! The two foreign programs that make and mend ext4: run without a shell, their words kept for errors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{DiskError, Result};

/// Where the tools lie.
#[derive(Debug, Clone)]
pub struct Tools {
    /// mke2fs(8).
    pub mke2fs: PathBuf,
    /// e2fsck(8).
    pub e2fsck: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self { mke2fs: "/sbin/mke2fs".into(), e2fsck: "/sbin/e2fsck".into() }
    }
}

/// The last line that is not empty, as far as a console line can hold it.
fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    cairn_protocol::limits::clean_text(
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim(),
    )
}

fn run(tool: &Path, arguments: &[&str], device: &Path) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(tool)
        .args(arguments)
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(DiskError::io("run", tool))?;
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Ok((output.status.code(), output.status.to_string(), last_line(said)))
}

impl Tools {
    /// Makes an ext4 file system on `device` with `label`. Inode tables and journal are zeroed later, by the kernel: on
    /// a large disk that is minutes. `reserved` is the percentage kept for root.
    ///
    /// # Errors
    /// [`DiskError::Tool`].
    pub fn make_ext4(&self, device: &Path, label: &str, reserved: u8) -> Result<()> {
        let reserved = reserved.to_string();
        let arguments = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-L",
            label,
            "-m",
            &reserved,
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1",
        ];
        match run(&self.mke2fs, &arguments, device)? {
            (Some(0), _, _) => Ok(()),
            (_, status, said) => {
                Err(DiskError::Tool { tool: "mke2fs".to_owned(), path: device.to_owned(), status, said })
            }
        }
    }

    /// Mends what can be mended without loss: replays the journal, fixes counts. Answers whether anything was changed.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] when a person would have to decide.
    pub fn check_ext4(&self, device: &Path) -> Result<bool> {
        // e2fsck(8): 1 is "errors corrected", 2 adds "reboot", which matters only for a mounted root.
        match run(&self.e2fsck, &["-p"], device)? {
            (Some(status @ 0..=3), _, _) => Ok(status != 0),
            (status, _, said) => {
                Err(DiskError::Damaged { path: device.to_owned(), status: status.unwrap_or(-1), said })
            }
        }
    }
}

//! Reboot and power off (reboot(2)). Only PID 1 and its kin should call these: nothing is unmounted or synced for them.

use nix::sys::reboot::{RebootMode, reboot};

use crate::{Result, SysError};

/// What the machine does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Starts again from firmware.
    Reboot,
    /// Switches off; where it cannot, it halts.
    PowerOff,
}

/// Does it at once. Sync and unmount before.
///
/// # Errors
/// [`SysError`] when the kernel refuses (no `CAP_SYS_BOOT`); else this does not return.
pub fn now(next: Next) -> Result<std::convert::Infallible> {
    let mode = match next {
        Next::Reboot => RebootMode::RB_AUTOBOOT,
        Next::PowerOff => RebootMode::RB_POWER_OFF,
    };
    reboot(mode).map_err(|e| SysError::at("reboot", "the machine")(e.into()))
}

/// Makes Ctrl-Alt-Del a signal to PID 1 (SIGINT) instead of an immediate reset.
///
/// # Errors
/// [`SysError`].
pub fn catch_ctrl_alt_del() -> Result<()> {
    nix::sys::reboot::set_cad_enabled(false).map_err(|e| SysError::at("take over", "Ctrl-Alt-Del")(e.into()))
}

//! iPXE scripts.
//!
//! A script names absolute URLs, so it does not matter which server iPXE was chained from.

/// What iPXE loads for a machine that is to run Cairn from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot<'a> {
    /// URL of the kernel.
    pub kernel: &'a str,
    /// URL of the initramfs.
    pub initrd: &'a str,
    /// Kernel command line, without `initrd=`.
    pub cmdline: &'a str,
}

/// A value with a line break or another control character, which would let it add script lines.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("iPXE script: {0:?} holds a control character")]
pub struct BadValue(pub String);

fn checked(value: &str) -> Result<&str, BadValue> {
    if value.chars().any(char::is_control) { Err(BadValue(value.to_owned())) } else { Ok(value) }
}

/// Loads kernel and initramfs and starts them; on failure waits and starts over, for nobody is there to press a key.
///
/// # Errors
/// When a value holds a control character.
pub fn boot(boot: &Boot<'_>) -> Result<String, BadValue> {
    let (kernel, initrd, cmdline) = (checked(boot.kernel)?, checked(boot.initrd)?, checked(boot.cmdline)?);
    // UEFI kernels find the initramfs by the name on their command line; BIOS kernels ignore the word.
    Ok(format!(
        "#!ipxe\n\
         echo Cairn: loading kernel and initramfs\n\
         kernel --name kernel {kernel} initrd=initrd {cmdline} || goto failed\n\
         initrd --name initrd {initrd} || goto failed\n\
         boot || goto failed\n\
         {FAILED}"
    ))
}

/// For an installed machine that still netboots first: hand back to the firmware, which tries its next device, the disk.
///
/// BIOS: the first disk is started directly, since some option ROMs cannot return. UEFI: leaving iPXE goes on along `BootOrder`.
#[must_use]
pub fn local_disk() -> String {
    "#!ipxe\n\
     echo Cairn: this machine is installed, starting its disk\n\
     iseq ${platform} efi && exit 1 ||\n\
     sanboot --no-describe --drive 0x80 || exit 1\n"
        .to_owned()
}

/// Asks the boot service what this machine is to do; for setups that can only hand out a static script.
///
/// # Errors
/// When the URL holds a control character.
pub fn chain(url: &str) -> Result<String, BadValue> {
    let url = checked(url)?;
    Ok(format!("#!ipxe\nchain --autofree {url} || goto failed\n{FAILED}"))
}

/// Ten seconds keep a site's machines from storming a service that is just starting.
const FAILED: &str = ":failed\necho Cairn: could not load, trying again in 10 seconds\nsleep 10\nreboot\n";

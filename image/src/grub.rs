//! GRUB's BIOS half, for the agent to write onto a disk whose firmware has no UEFI.

use crate::debian::capture;
use crate::debian::read_in_root;
use crate::error::{self, Error};
use crate::toolbox::Toolbox;

/// Where the pieces are in the initramfs.
pub const DIRECTORY: &str = "usr/lib/cairn/grub";

/// What `/cairn/grub.cfg` on the ESP may use.
pub const MODULES: &[&str] = &[
    "biosdisk",
    "part_gpt",
    "fat",
    "memdisk",
    "tar",
    "normal",
    "configfile",
    "linux",
    "loadenv",
    "test",
    "true",
    "echo",
    "regexp",
    "search",
    "search_fs_file",
    "search_fs_uuid",
    "search_label",
    "sleep",
    "reboot",
    "halt",
    "serial",
    "terminal",
    "ls",
    "cat",
    "eval",
    "minicmd",
];

/// Run first, from a memory disk inside `core.img`: finds the ESP on the disk that the BIOS booted, never on another,
/// and goes on with its `/cairn/grub.cfg`. GRUB puts the boot disk before the partition of the prefix and into `$root`;
/// that the prefix's partition need not be the ESP does no harm.
pub const EARLY_CONFIG: &str = r#"serial --unit=0 --speed=115200
terminal_output console serial
terminal_input console serial
regexp --set=1:disk '^([a-z]+[0-9]+)' "$root"
for part in gpt1 gpt2 gpt3 gpt4 gpt5 gpt6 gpt7 gpt8; do
  if [ -f "($disk,$part)/cairn/grub.cfg" ]; then
    set root="$disk,$part"
    export root
    configfile "($disk,$part)/cairn/grub.cfg"
  fi
done
echo "cairn: disk $disk has no /cairn/grub.cfg; trying the next boot device in 10 seconds"
sleep 10
exit
"#;

/// The two pieces. How they are written to a disk: docs/image.md, "BIOS disk loader".
#[derive(Debug, Clone)]
pub struct Pieces {
    /// 512 bytes; the first 440 go into the MBR.
    pub boot: Vec<u8>,
    /// A multiple of 512 bytes; goes into the BIOS boot partition.
    pub core: Vec<u8>,
}

/// Makes the pieces with the toolbox's `grub-mkimage`.
///
/// # Errors
/// When it fails, or its output is not shaped as GRUB 2.12's.
pub fn pieces(toolbox: &Toolbox) -> Result<Pieces, Error> {
    let tmp = tempfile::tempdir().map_err(error::file("create a directory in", &std::env::temp_dir()))?;
    let dir = tmp.path();
    for (name, text) in [("early.cfg", EARLY_CONFIG), ("embedded.cfg", "normal (memdisk)/early.cfg\n")] {
        std::fs::write(dir.join(name), text).map_err(error::file("write", dir))?;
    }
    const SCRIPT: &str = r#"mods=$1
tar --format=ustar --owner=0 --group=0 --mode=644 --mtime=@0 -cf memdisk.tar early.cfg
grub-mkimage -O i386-pc -o core.img -m memdisk.tar -p '(,gpt1)/cairn' -c embedded.cfg $mods"#;
    let mut command = toolbox.enter().bind(dir).cwd(dir).command("sh");
    command.args(["-euc", SCRIPT, "sh"]).arg(MODULES.join(" "));
    capture(&mut command, false)?;
    let path = dir.join("core.img");
    let mut core = std::fs::read(&path).map_err(error::file("read", &path))?;
    core.resize(core.len().next_multiple_of(512), 0);
    let boot = read_in_root(&toolbox.root(), "/usr/lib/grub/i386-pc/boot.img")?;
    check(&boot, &core)?;
    Ok(Pieces { boot, core })
}

/// Offset of `boot_drive_check` in boot.img, GRUB's include/grub/i386/pc/boot.h.
const DRIVE_CHECK: usize = 0x66;

/// What a writer of these pieces relies on.
fn check(boot: &[u8], core: &[u8]) -> Result<(), Error> {
    // The segment in diskboot.img's only blocklist entry: 0x800 + one sector (include/grub/offsets.h).
    let segment = core.get(0x1fe..0x200);
    if boot.len() != 512 || boot[DRIVE_CHECK] != 0xeb || boot[510..] != [0x55, 0xaa] {
        return Err(Error::unexpected("boot.img", "not laid out as GRUB 2's"));
    }
    if segment != Some(&0x820_u16.to_le_bytes()[..]) || core.len() > 512 * 2048 {
        return Err(Error::unexpected("core.img", "not laid out as GRUB 2's, or above 1 MiB"));
    }
    Ok(())
}

//! `cairn-usb.img`: GPT with one ESP, written to a stick by `dd`.

use std::fs::{self, File};
use std::path::Path;

use crate::error::{self, Error};
use crate::toolbox::{Toolbox, run};

const MIB: u64 = 1024 * 1024;
/// The ESP starts at 1 MiB, as every partitioning tool aligns it.
const ESP_START: u64 = MIB;
/// 33 sectors of backup GPT, rounded up.
const TAIL: u64 = MIB;
/// Room beside the UKI for a seed and what an operator may add.
const ROOM: u64 = 16 * MIB;
/// FAT32 has at least 65525 clusters; with 512-byte clusters and two FATs this is well above.
const SMALLEST_ESP: u64 = 64 * MIB;

/// Fixed identities: the bytes must not change from build to build, and the stick is found by type and content.
const DISK_GUID: &str = "ca1e0000-0000-4000-8000-000000000001";
const PART_GUID: &str = "ca1e0000-0000-4000-8000-000000000002";
const VOLUME_ID: &str = "ca1e0001";

/// mtools and mkfs.vfat take file times from here: 2020-01-01, as in the initramfs.
const SOURCE_DATE_EPOCH: &str = "1577836800";

const SCRIPT: &str = r#"img=$1; uki=$2; start=$3; blocks=$4; disk=$5; part=$6; volume=$7; end=$8
export MTOOLS_SKIP_CHECK=1 TZ=UTC
sgdisk --clear --disk-guid="$disk" --new="1:$((start / 512)):$end" --typecode=1:ef00 --change-name=1:cairn-usb \
  --partition-guid="1:$part" "$img"
mkfs.vfat --invariant -F 32 -s 1 -n CAIRN-USB -i "$volume" --offset $((start / 512)) "$img" "$blocks"
mmd -i "$img@@$start" ::/EFI ::/EFI/BOOT
mcopy -m -i "$img@@$start" "$uki" ::/EFI/BOOT/BOOTX64.EFI"#;

/// Writes the image (sparse) at `out`, which is made anew.
///
/// # Errors
/// When a file operation or a program fails.
pub fn write(toolbox: &Toolbox, uki: &[u8], out: &Path) -> Result<(), Error> {
    let tmp = tempfile::tempdir().map_err(error::file("create a directory in", &std::env::temp_dir()))?;
    let (image, source) = (tmp.path().join("usb.img"), tmp.path().join("uki"));
    fs::write(&source, uki).map_err(error::file("write", &source))?;
    let esp = (uki.len() as u64 + ROOM).next_multiple_of(MIB).max(SMALLEST_ESP);
    let file = File::create(&image).map_err(error::file("create", &image))?;
    file.set_len(ESP_START + esp + TAIL).map_err(error::file("size", &image))?;
    drop(file);
    let epoch = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_577_836_800);
    let times = fs::FileTimes::new().set_modified(epoch).set_accessed(epoch);
    File::open(&source).and_then(|f| f.set_times(times)).map_err(error::file("set the time of", &source))?;

    let mut command = toolbox.enter().bind(tmp.path()).command("sh");
    command.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH);
    command.args(["-euc", SCRIPT, "sh"]).args([&image, &source]);
    command.args([ESP_START, esp / 1024].map(|n| n.to_string()));
    command.args([DISK_GUID, PART_GUID, VOLUME_ID]).arg(((ESP_START + esp) / 512 - 1).to_string());
    run(&mut command, "making the USB image", &|_| {})?;
    copy_sparse(&image, out)
}

/// Copies a file leaving out blocks of zeros.
fn copy_sparse(from: &Path, to: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;
    let data = fs::read(from).map_err(error::file("read", from))?;
    let file = File::create(to).map_err(error::file("create", to))?;
    file.set_len(data.len() as u64).map_err(error::file("size", to))?;
    const BLOCK: usize = 64 * 1024;
    for (index, block) in data.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (index * BLOCK) as u64).map_err(error::file("write", to))?;
        }
    }
    Ok(())
}

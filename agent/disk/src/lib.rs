//! Disks of a node: selectors, GPT, file systems, verity layers, boot loaders.
//!
//! Blocking, no threads, no async: call it from `spawn_blocking`. Every path it touches can be given, so all but
//! device-mapper is tested on plain files and loop devices. Errors have `code()` (the stable word for console and
//! events, where it is a refusal) and `advice()`.
//!
//! The calls in the order of the boot (signatures are settled, bodies arrive in this order):
//!
//! ```text
//! discover::disks(&Sources, scratch: &Path) -> Vec<Found>            Found { disk: inventory::Disk, node: PathBuf, boot_medium: bool, ours: Option<Ours> }
//! discover::given(path: &Path) -> Result<Found>                      a file or device named by a flag (hosted)
//! choose::system(&[Found], &plan::SystemDisk, site: &Name, node: &Name) -> Result<&Found>     disk-none, disk-ambiguous, disk-too-small, disk-foreign
//! installed::find(&[Found]) -> Result<Option<&Found>>                   the disk that carries a finished installation
//! system::prepare(&Found, &plan::SystemDisk, &Tools, again: bool, say: &dyn Fn(&str)) -> Result<SystemDisk>   GPT + file systems; nothing is done to what is finished unless `again`
//! system::open(&Found) -> Result<SystemDisk>                         as it is
//! SystemDisk::mount(&self, &Mounts, &Tools) -> Result<()>            STATE and DATA at Mounts { state, data, esp }; e2fsck -p first
//! SystemDisk::mount_esp(&self, &Mounts) -> Result<()>                only for a change of loader or UKI
//! SystemDisk::finish(&self, state: &Path, &InstallRecord) -> Result<()>   install.json: the disk is finished from then on
//! SystemDisk::install_loaders(&self, esp: &Path, &LoaderFiles) -> Result<()>                  systemd-boot, GRUB in MBR and BIOS boot partition
//! record::read(state: &Path) -> Result<Option<InstallRecord>>
//!
//! loader::Loaders::new(esp: &Path, keep: usize)
//!   .install(version: &str, uki: &Path, tries: u8) -> Result<()>     both loaders, tried first at the next boot
//!   .bless(version) -> Result<()>   .give_up(version) -> Result<()>   .list() -> Result<Vec<Installed>>   Installed { version, tries_left: Option<u8>, failed }
//!
//! generation::Store::open(state: &Path) -> Result<Store>
//!   .stage(&Generation, manifests: &[(Sha256Digest, Vec<u8>)], tuf: &Path, tries: u8) -> Result<()>
//!   .list() -> Result<Vec<Stored>>   .status(id)   .set_trying(id) (counts one try down)   .commit(id)   .fail(id, reason)   .collect(current) -> removed ids
//! generation::choose::choose(&[Candidate], running_uki: &str, &[loader::Installed]) -> Choice
//!
//! layer::Layer { name, file, tree, data_bytes, root_hash, salt }
//! layer::check(&Layer, Depth) -> Result<(), LayerError>              LayerError::Corrupt names layer and block; code layer-corrupt
//! layer::bad_ranges(&Layer, range_bytes) -> Result<Vec<u64>>         which ranges of the file to fetch again
//! layer::attach(&Layer, at: &Path) -> Result<Attached>               loop + dm-verity + erofs
//! root::prepare(&RootPlan) -> Result<NewRoot>                        stack, /etc, /var, persist, /tmp, machine-id, /dev /proc /sys /run
//! root::switch(&NewRoot, init: &Path) -> Result<Infallible>          for PID 1: move, chroot, exec
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod choose;
pub mod content;
pub mod discover;
pub mod error;
pub mod fat;
pub mod generation;
pub mod gpt;
pub mod installed;
pub mod layer;
pub mod layout;
pub mod loader;
pub mod mounts;
pub mod parts;
pub mod record;
pub mod root;
pub mod signature;
pub mod system;
pub mod tool;

//! What is in the toolbox. Changing this list changes the cache key, so every machine rebuilds its toolbox once.

/// Raise when the way the root is built changes without the package list changing.
pub const FORMAT: u32 = 1;

/// Debian release of the toolbox: QEMU 10 is fast and sound under TCG, erofs-utils 1.8 has `--chunksize` with
/// reproducible output; bookworm's versions have neither.
pub const SUITE: &str = "trixie";

/// Packages by what they are for. Recommends are off: whatever is used is named here.
pub const PACKAGES: &[&str] = &[
    // Racks.
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "ipxe-qemu",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    // Netboot.
    "dnsmasq-base",
    "ipxe",
    // Boot images: UKI stub and loader, GRUB's BIOS half, signing, partition tables, FAT.
    "binutils",
    "systemd-boot-efi",
    "grub-common",
    "grub-pc-bin",
    "sbsigntool",
    "gdisk",
    "fdisk",
    "mtools",
    "dosfstools",
    "e2fsprogs",
    "kmod",
    "cpio",
    // Layers and chunks.
    "mmdebstrap",
    "erofs-utils",
    "cryptsetup-bin",
    "casync",
    "tar",
    "zstd",
    "xz-utils",
    // Network tools of the rack's namespace.
    "iproute2",
    "iputils-ping",
    "tcpdump",
    "socat",
    "curl",
    "ca-certificates",
    // Process tools.
    "procps",
    "util-linux",
];

/// Paths that dpkg leaves out: nobody reads manuals in the toolbox. Copyright files stay, the SBOM cites them.
pub const EXCLUDED_PATHS: &[&str] = &["/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"];

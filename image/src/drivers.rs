//! Which kernel modules go into the initramfs. Dependencies are found in `modules.dep`; a name that the chosen kernel
//! has built in, or does not have at all (the cloud kernel lacks most hardware), is left out and counted.

/// Modules that serve one purpose.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are for; also the line in `sizes.json`.
    pub name: &'static str,
    /// Module names as in file names; `-` and `_` are the same.
    pub modules: &'static [&'static str],
}

/// The driver set of a server at an edge site.
pub const GROUPS: &[Group] = &[
    Group {
        name: "network",
        modules: &[
            "e1000",
            "e1000e",
            "igb",
            "igc",
            "ixgbe",
            "i40e",
            "ice",
            "bnxt_en",
            "mlx5_core",
            "tg3",
            // r8169 binds its PHY by alias at run time; without realtek the link never comes up. tg3 likewise.
            "r8169",
            "realtek",
            "broadcom",
            "virtio_net",
        ],
    },
    Group { name: "network-layers", modules: &["bonding", "8021q", "bridge", "af_packet", "ipv6"] },
    Group {
        name: "storage",
        modules: &[
            "ahci",
            // QEMU's default machine and old servers have a PIIX disk controller.
            "ata_piix",
            "nvme",
            "megaraid_sas",
            "mpt3sas",
            "smartpqi",
            "hpsa",
            "virtio_blk",
            "virtio_scsi",
            "sd_mod",
            "sr_mod",
            "usb-storage",
            "uas",
        ],
    },
    Group {
        name: "usb-and-input",
        modules: &[
            "xhci-pci",
            // The generic kernel's xhci-pci defers to it for Renesas controllers.
            "xhci-pci-renesas",
            "ehci-pci",
            "ohci-pci",
            "uhci-hcd",
            "usbhid",
            "hid-generic",
            "i8042",
            "atkbd",
        ],
    },
    Group { name: "screen", modules: &["simpledrm", "efifb", "vesafb"] },
    Group {
        name: "tpm-watchdog-ipmi",
        modules: &[
            "tpm_tis",
            "tpm_crb",
            "iTCO_wdt",
            // iTCO_wdt's device appears only when the chipset's LPC or SMBus driver has bound.
            "lpc_ich",
            "i2c-i801",
            "sp5100_tco",
            "i6300esb",
            "hpwdt",
            "wdat_wdt",
            "ipmi_si",
            "ipmi_devintf",
            "ipmi_watchdog",
        ],
    },
    Group {
        name: "file-systems",
        modules: &[
            "dm-mod",
            "dm-verity",
            "loop",
            "erofs",
            "overlay",
            "ext4",
            // ext4 asks for it by algorithm name, which modules.dep does not know.
            "crc32c_generic",
            "crc32c-intel",
            // dm-verity hashes everything that is read; the built-in C version is four times slower. Loaded by the
            // processor's own modalias.
            "sha256-ssse3",
            "vfat",
            "nls_cp437",
            "nls_ascii",
            "nls_iso8859-1",
            "nls_utf8",
            "efivarfs",
            "qemu_fw_cfg",
            "virtio_rng",
        ],
    },
];

/// All names, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.modules.iter().copied())
}

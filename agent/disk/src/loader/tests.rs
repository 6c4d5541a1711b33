use super::pe::tests::pe;
use super::*;

struct Esp {
    dir: tempfile::TempDir,
    loaders: Loaders,
}

impl Esp {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let loaders = Loaders::open(&dir.path().join("esp")).unwrap();
        Self { dir, loaders }
    }

    fn uki(&self, version: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{version}.uki"));
        let osrel = format!("ID=cairn\nVERSION_ID=\"{version}\"\n");
        let bytes = pe(&[
            (".osrel", osrel.as_bytes()),
            (".cmdline", b"console=ttyS0 quiet\0"),
            (".linux", format!("kernel {version}").as_bytes()),
            (".initrd", b"initramfs"),
        ]);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn install(&self, version: &str) {
        self.loaders.install(version, &self.uki(version), 2, &[]).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.loaders.ukis())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn env(&self, key: &str) -> Option<String> {
        self.loaders.env().unwrap().get(key).map(str::to_owned)
    }
}

#[test]
fn a_version_is_tried_then_blessed() {
    let esp = Esp::new();
    esp.install("1.0");
    assert_eq!(esp.names(), ["cairn_1.0+2.efi"]);
    assert_eq!(
        (esp.env("cairn_try").as_deref(), esp.env("cairn_tries").as_deref()),
        (Some("1.0"), Some("2"))
    );
    let parts = esp.loaders.parts("1.0");
    assert_eq!(fs::read(parts.join("vmlinuz")).unwrap(), b"kernel 1.0");
    assert_eq!(fs::read(parts.join("initramfs.img")).unwrap(), b"initramfs");
    assert_eq!(fs::read(parts.join("cmdline")).unwrap(), b"console=ttyS0 quiet");
    assert!(fs::read_to_string(parts.join("entry.cfg")).unwrap().contains("'console=ttyS0' 'quiet'"));
    esp.loaders.bless("1.0").unwrap();
    assert_eq!(esp.names(), ["cairn_1.0.efi"]);
    assert_eq!((esp.env("cairn_good").as_deref(), esp.env("cairn_try")), (Some("1.0"), None));
    // The same again changes nothing.
    esp.install("1.0");
    assert_eq!(esp.loaders.list().unwrap(), [Installed { version: "1.0".to_owned(), tries_left: None }]);
}

#[test]
fn tries_are_what_either_loader_counted() {
    let esp = Esp::new();
    esp.install("1.0");
    esp.loaders.bless("1.0").unwrap();
    esp.install("2.0");
    // systemd-boot's first try.
    let ukis = esp.loaders.ukis();
    fs::rename(ukis.join("cairn_2.0+2.efi"), ukis.join("cairn_2.0+1-1.efi")).unwrap();
    let left = |esp: &Esp| {
        esp.loaders.list().unwrap().into_iter().find(|one| one.version == "2.0").unwrap().tries_left
    };
    assert_eq!(left(&esp), Some(1));
    // GRUB counts on.
    esp.loaders
        .set_env(|env| {
            env.insert("cairn_tries".to_owned(), "0".to_owned());
        })
        .unwrap();
    assert_eq!(left(&esp), Some(0));
    // Installed again, it is tried again.
    esp.install("2.0");
    assert_eq!(
        (left(&esp), esp.names()),
        (Some(2), vec!["cairn_1.0.efi".to_owned(), "cairn_2.0+2.efi".to_owned()])
    );
    esp.loaders.give_up("2.0").unwrap();
    assert_eq!((left(&esp), esp.env("cairn_tries").as_deref()), (Some(0), Some("0")));
    assert_eq!(esp.env("cairn_good").as_deref(), Some("1.0"));
}

#[test]
fn what_a_cut_leaves_is_mended() {
    let esp = Esp::new();
    esp.install("1.0");
    esp.install("2.0");
    let ukis = esp.loaders.ukis();
    fs::copy(ukis.join("cairn_1.0+2.efi"), ukis.join("cairn_1.0.efi")).unwrap();
    fs::copy(ukis.join("cairn_2.0+2.efi"), ukis.join("cairn_2.0+1-1.efi")).unwrap();
    fs::write(ukis.join("cairn_3.0+2.efi.new"), b"half").unwrap();
    Loaders::open(&esp.loaders.esp).unwrap();
    assert_eq!(esp.names(), ["cairn_1.0.efi", "cairn_2.0+1-1.efi"]);
    // A UKI cut short, or with its parts missing, is written again.
    fs::write(ukis.join("cairn_2.0+1-1.efi"), b"half").unwrap();
    esp.install("2.0");
    assert_eq!(fs::read(ukis.join("cairn_2.0+2.efi")).unwrap(), fs::read(esp.uki("2.0")).unwrap());
    fs::remove_file(esp.loaders.parts("2.0").join("entry.cfg")).unwrap();
    esp.install("2.0");
    assert!(esp.loaders.parts("2.0").join("entry.cfg").exists());
    assert_eq!(esp.names(), ["cairn_1.0.efi", "cairn_2.0+2.efi"]);
}

#[test]
fn old_versions_go_spent_ones_first() {
    let esp = Esp::new();
    for version in ["1.0", "2.0", "3.0", "4.0"] {
        esp.install(version);
        esp.loaders.bless(version).unwrap();
    }
    esp.loaders.give_up("3.0").unwrap();
    assert_eq!(esp.loaders.collect(&["4.0", "1.0"], 3).unwrap(), ["3.0"]);
    assert!(!esp.loaders.parts("3.0").exists());
    assert_eq!(esp.loaders.collect(&["4.0", "1.0"], 1).unwrap(), ["2.0"]);
    assert_eq!(esp.names(), ["cairn_1.0.efi", "cairn_4.0.efi"]);
}

#[test]
fn what_cannot_be_a_boot_entry_is_refused() {
    let esp = Esp::new();
    let uki = esp.uki("1.0");
    for (version, tries) in
        [("1.0+1", 2), ("../1.0", 2), ("", 2), ("1.0", 0), ("1.0", MAX_TRIES + 1), ("1.1", 2)]
    {
        let error = esp.loaders.install(version, &uki, tries, &[]).unwrap_err();
        assert!(matches!(error, DiskError::Unexpected { .. }), "{version} {tries}: {error}");
    }
    fs::write(&uki, b"MZ").unwrap();
    assert!(esp.loaders.install("1.0", &uki, 2, &[]).is_err());
    assert!(esp.loaders.bless("9.9").is_err());
    assert!(esp.names().is_empty());
}

#[test]
fn a_full_esp_says_so_and_keeps_what_it_must() {
    let esp = Esp::new();
    esp.install("1.0");
    let error = esp.loaders.make_room(u64::MAX, &["1.0"]).unwrap_err();
    assert!(matches!(error, DiskError::Full { .. }), "{error}");
    assert_eq!(esp.names(), ["cairn_1.0+2.efi"]);
}

#[test]
fn the_esps_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, sd) = (dir.path().join("esp"), dir.path().join("sd.efi"));
    fs::write(&sd, b"loader").unwrap();
    for _ in 0..2 {
        place::install_on_esp(&esp, &sd).unwrap();
        assert_eq!(fs::read(esp.join("EFI/BOOT/BOOTX64.EFI")).unwrap(), b"loader");
        assert_eq!(fs::read(esp.join("cairn/grubenv")).unwrap().len(), grubenv::BYTES);
        assert!(fs::read_to_string(esp.join("loader/loader.conf")).unwrap().contains("timeout 0"));
        assert!(esp.join("cairn/grub.cfg").exists());
    }
    assert!(place::install_on_esp(&esp, &dir.path().join("none")).is_err());
}

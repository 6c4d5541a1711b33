//! A small tree as erofs, through the toolbox: the same bytes each time, nothing lost.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use cairn_image::layer::erofs;
use cairn_image::toolbox::Toolbox;

const EPOCH: u64 = 1_735_689_600;

fn tree(root: &Path, backwards: bool) {
    let mut files: Vec<(String, usize)> = (0..40).map(|n| (format!("usr/f{n}"), n * 3_777)).collect();
    if backwards {
        files.reverse();
    }
    std::fs::create_dir_all(root.join("usr")).unwrap();
    for (name, length) in files {
        std::fs::write(root.join(name), vec![length as u8; length]).unwrap();
    }
    std::fs::set_permissions(root.join("usr/f7"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(root.join("usr/f8"), Some(42), Some(43)).unwrap();
    symlink("usr", root.join("bin")).unwrap();
    std::fs::hard_link(root.join("usr/f9"), root.join("usr/g9")).unwrap();
    let capable = Command::new("setcap").arg("cap_net_raw+ep").arg(root.join("usr/f10")).status();
    assert!(capable.unwrap().success(), "setcap, of libcap2-bin");
}

#[test]
fn the_same_tree_gives_the_same_image_with_owners_modes_and_capabilities() {
    let toolbox = Toolbox::ensure(&|line| eprintln!("{line}")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for (name, backwards) in [("one", false), ("two", true)] {
        let (root, image) = (dir.path().join(name), dir.path().join(format!("{name}.erofs")));
        tree(&root, backwards);
        erofs::write(&toolbox, &root, &image, EPOCH, &erofs::uuid_of("00")).unwrap();
        images.push(std::fs::read(&image).unwrap());
    }
    assert!(images[0] == images[1], "two builds differ");
    assert_eq!(images[0].len() % 4096, 0);

    let (image, out) = (dir.path().join("one.erofs"), dir.path().join("out"));
    let mut fsck = toolbox.enter().bind(dir.path()).command("fsck.erofs");
    let status = fsck.arg(format!("--extract={}", out.display())).arg(&image).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    let meta = |name: &str| std::fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(meta("usr/f7").mode() & 0o7777, 0o4755);
    assert_eq!((meta("usr/f8").uid(), meta("usr/f8").gid()), (42, 43));
    assert_eq!(meta("usr/f3").mtime(), i64::try_from(EPOCH).unwrap());
    assert_eq!(
        std::fs::read(out.join("usr/f39")).unwrap(),
        std::fs::read(dir.path().join("one/usr/f39")).unwrap()
    );
    // fsck.erofs sets owners after attributes, which drops capabilities: ask the image itself.
    for (path, expected) in [("/usr/f10", "Xattr size: 48"), ("/usr/f11", "Xattr size: 0")] {
        let mut dump = toolbox.enter().bind_ro(dir.path()).command("dump.erofs");
        let output = dump.arg(format!("--path={path}")).arg(&image).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "{path}: {text}");
    }
}

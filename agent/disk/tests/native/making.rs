//! Partitioning, file systems, mounts, and what a cut leaves.

use std::fs;
use std::os::unix::fs::FileExt as _;

use cairn_disk::mounts::{self, Mounts};
use cairn_disk::record::{self, InstallRecord};
use cairn_disk::tool::Tools;
use cairn_disk::{choose, error::DiskError, installed, layout, system};
use cairn_protocol::ids::Name;
use cairn_protocol::inventory::DiskContent;
use cairn_protocol::plan::{Disks, SystemDisk};

use super::{Room, SMALL_BYTES, small, tools};

fn record() -> InstallRecord {
    InstallRecord {
        version: 1,
        site: Name::new("s1").unwrap(),
        node: Name::new("n1").unwrap(),
        reinstall: 3,
        plan: Disks { system: small() },
    }
}

#[test]
fn an_empty_disk_becomes_a_finished_one() {
    let Some(room) = Room::enter() else { return };
    let path = room.disk("disk", SMALL_BYTES);
    let found = room.look(&path);
    assert_eq!(found.disk.content, DiskContent::Empty);
    let (site, node) = (record().site, record().node);
    let disks = [found];
    let chosen = choose::system(&disks, &small(), &site, &node).unwrap();
    let disk = system::prepare(chosen, &small(), &tools(), false, &|line| println!("{line}")).unwrap();

    // Unfinished: known as ours, and free to be made again.
    let unfinished = room.look(&path);
    assert_eq!(unfinished.disk.content, DiskContent::Cairn { site: String::new(), node: String::new() });
    assert!(!unfinished.finished && disk.is_unfinished().unwrap());

    let at = Mounts::below(&room.path("run"));
    disk.mount(&at, &tools()).unwrap();
    for dir in [&at.state, &at.data] {
        assert!(mounts::is_mount_point(dir), "{}", dir.display());
        fs::write(dir.join("file"), b"x").unwrap();
    }
    assert!(mounts::free_bytes(&at.data).unwrap() > 800 << 20);
    // Again: what is mounted stays.
    disk.mount(&at, &tools()).unwrap();
    disk.finish(&at.state, &record()).unwrap();
    for dir in [&at.state, &at.data] {
        mounts::detach(dir).unwrap();
    }

    let finished = room.look(&path);
    assert!(finished.finished);
    assert_eq!(finished.disk.content, DiskContent::Cairn { site: "s1".to_owned(), node: "n1".to_owned() });
    assert_eq!(installed::peek(&finished, &room.path("scratch")).unwrap(), record());
    let all = [finished.clone()];
    assert_eq!(installed::find(&all).unwrap().unwrap().node, path);
    // Preparing what is finished changes nothing.
    let again = system::prepare(&finished, &small(), &tools(), false, &|_| ()).unwrap();
    again.mount(&at, &tools()).unwrap();
    assert_eq!(record::read(&at.state).unwrap(), Some(record()));
    assert_eq!(fs::read(at.data.join("file")).unwrap(), b"x");
    for dir in [&at.state, &at.data] {
        mounts::detach(dir).unwrap();
    }
    // A reinstall does.
    let wiped = system::prepare(&finished, &small(), &tools(), true, &|_| ()).unwrap();
    assert!(wiped.is_unfinished().unwrap());
    wiped.mount(&at, &tools()).unwrap();
    assert_eq!(record::read(&at.state).unwrap(), None);
    assert!(!at.data.join("file").exists());
}

#[test]
fn a_cut_at_any_step_is_made_again() {
    let Some(room) = Room::enter() else { return };
    let (site, node) = (record().site, record().node);
    let unfinished = DiskContent::Cairn { site: String::new(), node: String::new() };
    let path = room.disk("disk", SMALL_BYTES);
    // As if the power went when the first ext4 was to be made: the table and the ESP are there.
    let broken = Tools { mke2fs: "/bin/false".into(), ..tools() };
    let error = system::prepare(&room.look(&path), &small(), &broken, false, &|_| ()).unwrap_err();
    assert!(matches!(&error, DiskError::Tool { tool, .. } if tool == "mke2fs"), "{error}");
    assert_eq!(room.look(&path).disk.content, unfinished);
    // The mark alone, on a blank disk.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    file.write_all_at(&vec![0; 1 << 20], SMALL_BYTES - (1 << 20)).unwrap();
    assert_eq!(room.look(&path).disk.content, unfinished);
    let disks = [room.look(&path)];
    let chosen = choose::system(&disks, &small(), &site, &node).unwrap();
    let disk = system::prepare(chosen, &small(), &tools(), false, &|_| ()).unwrap();
    let at = Mounts::below(&room.path("run"));
    disk.mount(&at, &tools()).unwrap();
    // install.json was written, the mark is still there.
    fs::write(at.state.join(record::FILE_NAME), serde_json::to_vec(&record()).unwrap()).unwrap();
    for dir in [&at.state, &at.data] {
        mounts::detach(dir).unwrap();
    }
    assert_eq!(room.look(&path).disk.content, unfinished);

    // On a foreign disk the mark gives nobody leave.
    let foreign = room.disk("foreign", SMALL_BYTES);
    let file = fs::OpenOptions::new().write(true).open(&foreign).unwrap();
    file.write_all_at(b"\x53\xef", 0x438).unwrap();
    file.write_all_at(layout::MARK, layout::MARK_AT).unwrap();
    let disks = [room.look(&foreign)];
    let error = choose::system(&disks, &small(), &site, &node).unwrap_err();
    assert_eq!(error.code(), Some("disk-foreign"));
    let allowed = SystemDisk { wipe: true, ..small() };
    let chosen = choose::system(&disks, &allowed, &site, &node).unwrap();
    system::prepare(chosen, &allowed, &tools(), false, &|_| ()).unwrap();
    assert_eq!(room.look(&foreign).disk.content, unfinished);
}

#[test]
fn a_damaged_installation_is_not_thrown_away() {
    let Some(room) = Room::enter() else { return };
    let path = room.disk("disk", SMALL_BYTES);
    let disk = system::prepare(&room.look(&path), &small(), &tools(), false, &|_| ()).unwrap();
    let at = Mounts::below(&room.path("run"));
    disk.mount(&at, &tools()).unwrap();
    disk.finish(&at.state, &record()).unwrap();
    for dir in [&at.state, &at.data] {
        mounts::detach(dir).unwrap();
    }
    let state = disk.layout().unwrap().span(layout::Part::State);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 65536], state.start).unwrap();
    let found = room.look(&path);
    assert!(matches!(&found.disk.content, DiskContent::Foreign { what } if what.contains("cannot be read")));
    let disks = [found];
    let error = choose::system(&disks, &small(), &record().site, &record().node).unwrap_err();
    assert_eq!(error.code(), Some("disk-foreign"));
}

#[test]
fn a_dirty_journal_is_replayed_and_ruins_are_refused() {
    let Some(room) = Room::enter() else { return };
    let path = room.disk("disk", SMALL_BYTES);
    let disk = system::prepare(&room.look(&path), &small(), &tools(), false, &|_| ()).unwrap();
    let data = disk.layout().unwrap().span(layout::Part::Data);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The block group descriptors and inode tables, the superblock left alone.
    file.write_all_at(&vec![0xa5; 4 << 20], data.start + 8192).unwrap();
    let error = disk.mount(&Mounts::below(&room.path("run")), &tools()).unwrap_err();
    assert!(matches!(error, DiskError::Damaged { status, .. } if status >= 4), "{error}");
}

#[test]
fn foreign_tools_agree_with_the_table_and_the_esp() {
    let Some(room) = Room::enter() else { return };
    let path = room.disk("disk", SMALL_BYTES);
    let disk = system::prepare(&room.look(&path), &small(), &tools(), false, &|_| ()).unwrap();
    let said = room.toolbox(&["sgdisk", "--verify", "--print", path.to_str().unwrap()]);
    assert!(said.contains("No problems found") && said.contains("cairn-state"), "{said}");
    let esp = disk.layout().unwrap().span(layout::Part::Esp);
    let image = room.path("esp");
    let mut bytes = vec![0; esp.length as usize];
    fs::File::open(&path).unwrap().read_exact_at(&mut bytes, esp.start).unwrap();
    fs::write(&image, bytes).unwrap();
    let said = room.toolbox(&["fsck.vfat", "-n", "-v", image.to_str().unwrap()]);
    assert!(said.contains("32 bits") || said.contains("32 reserved sectors"), "{said}");
    let file = room.path("hello.txt");
    fs::write(&file, b"hello").unwrap();
    let (image, file) = (image.to_str().unwrap(), file.to_str().unwrap());
    room.toolbox(&["mcopy", "-i", image, file, "::/hello.txt"]);
    assert!(room.toolbox(&["mdir", "-b", "-i", image, "::"]).contains("hello.txt"));
}

//! One life of an installed node, and what may happen to it: its controller away, its disk damaged.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_bundle::caibx::Index;
use cairn_bundle::chunk::Decoder;
use cairn_bundle::store::Store;
use cairn_lab::node::flip_byte;
use cairn_lab::rack::Rack;
use cairn_lab::scenario;
use cairn_lab::spec::Boot;
use cairn_protocol::console::{Line, Said};
use cairn_protocol::heartbeat::Event;
use cairn_protocol::stage::Stage;
use nix::unistd::{Whence, lseek};
use serde_json::{Value, json};

/// A boot under emulation on a busy machine, an installation included.
const BOOT: Duration = Duration::from_secs(240);
/// How often central is asked.
const ASK: Duration = Duration::from_millis(700);
/// Layers lie on the disk in blocks of ext4, which are those of dm-verity too.
const BLOCK: usize = 4096;
/// Where an erofs superblock begins, and how (fs/erofs/erofs_fs.h).
const EROFS: (usize, [u8; 4]) = (1024, 0xe0f5_e1e2_u32.to_le_bytes());
/// Protective MBR, GPT header and its 128 entries.
const GPT_BYTES: usize = 34 * 512;

/// What central knows about the node.
fn detail(rack: &Rack) -> Value {
    rack.central().unwrap().node("installed", "n1").unwrap_or_default()
}

fn events(detail: &Value) -> Vec<Event> {
    serde_json::from_value(detail["events"].clone()).unwrap_or_default()
}

fn count(detail: &Value, code: &str) -> usize {
    events(detail).iter().filter(|event| event.code == code).count()
}

fn wait_central(rack: &Rack, condition: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + BOOT;
    loop {
        let now = detail(rack);
        if wanted(&now) {
            return now;
        }
        assert!(
            Instant::now() < deadline,
            "not at central: {condition}; see {}",
            rack.dirs().root().display()
        );
        std::thread::sleep(ASK);
    }
}

/// Waits until the node is well, in another boot than `than`, and has said so twice.
fn wait_ready(rack: &Rack, than: Option<&Value>) -> Value {
    let ready =
        |now: &Value| now["state"] == "ready" && than.is_none_or(|than| now["boot_id"] != than["boot_id"]);
    let first = wait_central(rack, "ready", ready);
    let beats = |of: &Value| of["heartbeats"].as_u64().unwrap();
    wait_central(rack, "two more heartbeats", |now| ready(now) && beats(now) >= beats(&first) + 2)
}

fn check<'a>(detail: &'a Value, name: &str) -> &'a Value {
    let checks = detail["status"]["health"].as_array().unwrap();
    &checks.iter().find(|check| check["name"] == name).unwrap()["passed"]
}

/// The base layer, from the controller's copy of the repository.
struct Layer {
    index: Index,
    store: Store,
}

impl Layer {
    fn of(rack: &Rack) -> Self {
        let repository = rack.site.repository().unwrap();
        let store = Store::open(&repository.join("chunks.castr")).unwrap();
        let indexes = std::fs::read_dir(repository.join("indexes")).unwrap();
        let mut layers = indexes.map(|entry| {
            let index = Index::parse(std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
            Self { index, store: store.clone() }
        });
        layers.find(|layer| layer.block(0)[EROFS.0..].starts_with(&EROFS.1)).unwrap()
    }

    fn block(&self, number: u64) -> Vec<u8> {
        let at = number * BLOCK as u64;
        let mut chunk = self.index.chunk_at(at).unwrap();
        let skip = usize::try_from(at - self.index.entry(chunk).offset).unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < skip + BLOCK {
            let entry = self.index.entry(chunk);
            let mut decoder = Decoder::new();
            bytes.extend_from_slice(self.store.read(&entry.id, entry.length, &mut decoder).unwrap().unwrap());
            chunk += 1;
        }
        bytes[skip..skip + BLOCK].to_vec()
    }

    /// A block far from what a boot reads, that is not found a second time on a disk.
    fn unread(&self) -> u64 {
        let blocks = self.index.component_length() / BLOCK as u64;
        (blocks * 2 / 3..blocks)
            .find(|number| {
                let block = self.block(*number);
                let mut distinct = block.clone();
                distinct.sort_unstable();
                distinct.dedup();
                distinct.len() > 100
            })
            .unwrap()
    }
}

/// Where on a raw disk these bytes lie, and nowhere else.
fn find(disk: &Path, block: &[u8]) -> u64 {
    let file = File::open(disk).unwrap();
    let mut found = Vec::new();
    let mut buffer = vec![0; 256 * BLOCK];
    let mut at: i64 = 0;
    // The disk is sparse; ENXIO says that there is no more data.
    while let Ok(data) = lseek(&file, at, Whence::SeekData) {
        let hole = lseek(&file, data, Whence::SeekHole).unwrap();
        let mut place = data.cast_unsigned() / BLOCK as u64 * BLOCK as u64;
        while place < hole.cast_unsigned() {
            let length = file.read_at(&mut buffer, place).unwrap();
            let blocks = buffer[..length].chunks_exact(BLOCK).enumerate();
            found
                .extend(blocks.filter(|(_, bytes)| *bytes == block).map(|(n, _)| place + (n * BLOCK) as u64));
            place += buffer.len() as u64;
        }
        at = hole;
    }
    assert_eq!(found.len(), 1, "the block lies at {found:?} of {}", disk.display());
    found[0]
}

fn read_at(disk: &Path, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Kernel words that let the booted system read that block whenever the second disk changes its size, through dm-verity and past
/// the page cache, and say on the console how that went: a udev rule, put there by tmpfiles.d's credential.
fn reader(block: u64) -> String {
    let read = format!("dd if=/dev/dm-0 of=/dev/null bs={BLOCK} skip={block} count=1 iflag=direct");
    let rule = format!(
        "SUBSYSTEM==\"block\", KERNEL==\"vdb\", ACTION==\"change\", RUN+=\"/bin/sh -c \
         '{read} && echo lab-reader: read >/dev/console || echo lab-reader: unreadable >/dev/console'\"\n"
    );
    let line = format!("f+~ /run/udev/rules.d/99-lab-reader.rules 0644 - - - {}\n", STANDARD.encode(rule));
    format!(" systemd.set_credential_binary=tmpfiles.extra:{}", STANDARD.encode(line))
}

/// Lets the guest read the block.
fn read_block(rack: &mut Rack, wire_bytes: u64) {
    let mut qmp = rack.node("n1").unwrap().qmp().unwrap();
    qmp.execute("block_resize", &json!({ "device": "disk1", "size": wire_bytes })).unwrap();
}

/// The lines since `mark` that refuse something with `code`.
fn refusals(rack: &mut Rack, mark: usize, code: &str) -> Vec<Line> {
    let seen = rack.node("n1").unwrap().console().since(mark);
    let lines = seen.iter().filter_map(|seen| Line::parse(&seen.text));
    lines.filter(|line| matches!(&line.said, Said::Refused { code: said, .. } if said == code)).collect()
}

#[test]
fn an_installed_node_outlives_its_controller_and_damage_to_its_layer() {
    scenario::run(
        "an_installed_node_outlives_its_controller_and_damage_to_its_layer",
        "installed.toml",
        |rack| {
            let layer = Layer::of(rack);
            let unread = layer.unread();
            let node = rack.node("n1").unwrap();
            node.machine().direct.as_mut().unwrap().cmdline.push_str(&reader(unread));
            let disk: PathBuf = node.disk(0).unwrap().to_owned();
            node.power_on().unwrap();
            let installed = wait_ready(rack, None);
            assert_eq!(check(&installed, "verity-root"), true);
            let gpt = read_at(&disk, 0, GPT_BYTES);

            damage_while_running(rack, &disk, &layer.block(unread));
            let before = without_controller(rack);
            damage_while_off(rack, &disk, &layer.block(0), &before);

            // Nothing was lost: the same partitions, the same identity, the same generation, every event once.
            let last = detail(rack);
            assert_eq!(read_at(&disk, 0, GPT_BYTES), gpt);
            for key in ["enrolled", "generation", "serial"] {
                assert_eq!(last[key], installed[key], "{key}");
            }
            let mut told: Vec<_> = events(&last).into_iter().map(|event| (event.boot_id, event.id)).collect();
            let all = told.len();
            told.sort();
            told.dedup();
            assert_eq!(told.len(), all, "an event was stored twice");
        },
    );
}

/// A block that nothing has read yet goes bad while the node runs: whoever reads it gets an error, never wrong bytes; central
/// hears of it, and the block is written anew in place.
fn damage_while_running(rack: &mut Rack, disk: &Path, block: &[u8]) {
    let place = find(disk, block);
    let mark = rack.node("n1").unwrap().mark();
    flip_byte(disk, place + 77).unwrap();
    read_block(rack, 2 << 20);
    let node = rack.node("n1").unwrap();
    node.wait_text(mark, BOOT, "lab-reader: unreadable").unwrap();
    node.wait_refused(mark, BOOT, "layer-corrupt").unwrap();
    wait_central(rack, "damage and repair", |now| {
        ["layer-corrupt", "layer-repaired"].iter().all(|code| count(now, code) == 1)
    });
    assert_eq!(read_at(disk, place, BLOCK), block);
    read_block(rack, 3 << 20);
    rack.node("n1").unwrap().wait_text(mark, BOOT, "lab-reader: read").unwrap();
    assert_eq!(refusals(rack, mark, "layer-corrupt").len(), 1);
    wait_central(rack, "ready", |now| now["state"] == "ready");
}

/// Central is gone: the node boots from its own disk alone, runs and says what it waits for. Central is back: so are heartbeats.
fn without_controller(rack: &mut Rack) -> Value {
    let before = detail(rack);
    rack.site.stop_controller();
    let node = rack.node("n1").unwrap();
    node.power_off();
    // From here on the disk's own boot loader starts it.
    node.machine().boot = Boot::BiosDisk;
    node.machine().direct = None;
    let mark = node.mark();
    node.power_on().unwrap();
    let started = |line: &Line| line.stage == Stage::Service && line.said == Said::Started;
    node.wait_said(mark, BOOT, "the service in the booted root", started).unwrap();
    let waiting = node
        .wait_said(mark, BOOT, "waiting for the controller", |line| matches!(line.said, Said::Waiting { .. }))
        .unwrap();
    assert_eq!(waiting.stage, Stage::Time, "{waiting}");
    rack.site.start_controller().unwrap();
    wait_ready(rack, Some(&before))
}

/// A bit rots while the node is off, in a block that every boot reads, and central is gone as well: one line says so, the event
/// is kept, and once central is back the damaged part alone is fetched and the node is what it was.
fn damage_while_off(rack: &mut Rack, disk: &Path, superblock: &[u8], before: &Value) {
    rack.site.stop_controller();
    let node = rack.node("n1").unwrap();
    node.power_off();
    let place = find(disk, superblock);
    node.corrupt_disk(0, place + EROFS.0 as u64 + 40).unwrap();
    let mark = node.mark();
    node.power_on().unwrap();
    let refused = node.wait_refused(mark, BOOT, "layer-corrupt").unwrap();
    assert_eq!(refused.stage, Stage::Handover, "{refused}");
    node.wait_said(mark, BOOT, "waiting for the controller", |line| {
        line.stage == Stage::Time && matches!(line.said, Said::Waiting { .. })
    })
    .unwrap();
    rack.site.start_controller().unwrap();
    let after = wait_ready(rack, Some(before));
    let told: Vec<_> = events(&after).into_iter().filter(|event| event.code == "layer-corrupt").collect();
    let late = told.last().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(late.stage, Stage::Handover, "{late:?}");
    // The boot that found it could not tell; the event outlived it.
    assert_ne!(Some(late.boot_id.as_str()), after["boot_id"].as_str());
    assert_eq!(refusals(rack, mark, "layer-corrupt").len(), 1);
    assert_eq!(read_at(disk, place, BLOCK), superblock);
}

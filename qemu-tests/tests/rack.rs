//! The lab itself: namespaces that vanish, a switch that carries and cuts, power, consoles, netboot without an image.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cairn_image::kernel::{Flavour, Kernel};
use cairn_image::toolbox::Toolbox;
use cairn_lab::dirs::socket;
use cairn_lab::namespace::{self, run_test_inside};
use cairn_lab::qemu::accel;
use cairn_lab::rack::{Options, Rack};
use cairn_lab::spec;
use cairn_lab::switch::{PortConfig, Switch};

/// For things that take a second on an idle machine.
const SOON: Duration = Duration::from_secs(90);

fn options(out: &Path) -> Options {
    let image = out.join("no-image");
    std::fs::create_dir_all(&image).unwrap();
    Options { out: out.to_owned(), image, prepared: None, accel: None }
}

/// Processes of the whole machine whose command line holds `word`.
fn processes(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        if line.contains(word) && !own {
            found.push(line);
        }
    }
    found
}

/// Waits on a condition; the answer is whether it came true in time.
fn until(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

#[test]
fn a_killed_lab_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let word = dir.path().to_string_lossy().into_owned();
    let rack = dir.path().join("rack.toml");
    let node = "[[node]]\nname = \"NAME\"\nboot = \"bios-disk\"\nmemory = \"128MiB\"\n";
    let nodes = [node.replace("NAME", "a"), node.replace("NAME", "b")].concat();
    let text =
        format!("name = \"killed\"\n[site]\ncontroller = false\n{nodes}[expect]\nconsole = \"never said\"\n");
    std::fs::write(&rack, text).unwrap();
    let mut lab = Command::new(env!("CARGO_BIN_EXE_cairn-lab"))
        .arg("run")
        .arg(&rack)
        .args(["--tcg", "--out"])
        .arg(dir.path())
        .arg("--image")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(lab.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("power is on")), "the lab did not power its nodes on");
    let qemus = || processes(&word).iter().filter(|line| line.contains("qemu-system")).count();
    assert_eq!(qemus(), 2, "{:?}", processes(&word));
    assert!(processes(&word).iter().any(|line| line.contains("dnsmasq")));
    lab.kill().unwrap();
    lab.wait().unwrap();
    assert!(until(|| processes(&word).is_empty()), "still there: {:?}", processes(&word));
}

#[test]
fn frames_reach_the_services_and_a_cut_link_carries_none() {
    run_test_inside("frames_reach_the_services_and_a_cut_link_carries_none", || {
        let switch = Switch::start(1).unwrap();
        switch.add_tap("lab0", PortConfig::default()).unwrap();
        namespace::ip(&["addr", "add", "10.77.0.1/24", "dev", "lab0"]).unwrap();
        namespace::ip(&["link", "set", "lab0", "up"]).unwrap();
        let guest = UnixDatagram::bind(socket("guest")).unwrap();
        let port = switch.add_socket(&socket("switch"), &socket("guest"), PortConfig::default()).unwrap();
        guest.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mac = [0x52, 0x54, 0, 0, 0, 9];
        // RFC 826: who has 10.77.0.1, tell 10.77.0.9.
        let mut ask = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &[10, 77, 0, 9]].concat();
        ask.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 77, 0, 1]);
        let answered = |guest: &UnixDatagram| {
            guest.send_to(&ask, socket("switch")).unwrap();
            let mut frame = [0; 2048];
            let end = Instant::now() + Duration::from_millis(400);
            while Instant::now() < end {
                let Ok(length) = guest.recv(&mut frame) else { return false };
                if length >= 42
                    && frame[..6] == mac
                    && frame[12..14] == [8, 6]
                    && frame[28..32] == [10, 77, 0, 1]
                {
                    return true;
                }
            }
            false
        };
        assert!(until(|| answered(&guest)), "no ARP answer from the tap device");
        switch.cut(port, true);
        assert!(!answered(&guest), "an answer through a cut link");
        assert!(switch.counters(port).lost > 0);
        switch.cut(port, false);
        assert!(until(|| answered(&guest)), "no answer through the mended link");
        switch.configure(port, |config| config.latency = Duration::from_millis(150));
        let start = Instant::now();
        assert!(until(|| answered(&guest)));
        assert!(start.elapsed() >= Duration::from_millis(150), "latency is not kept: {:?}", start.elapsed());
    });
}

#[test]
fn power_console_and_control_socket_work() {
    run_test_inside("power_console_and_control_socket_work", || {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"power\"\n[site]\ncontroller = false\n[[node]]\nname = \"a\"\nboot = \"bios-disk\"\n\
                    memory = \"128MiB\"\nscreen = true\n[[node.disk]]\nsize = \"1MiB\"\n";
        let spec = spec::parse(text, Path::new("power.toml")).unwrap();
        let mut rack = Rack::start(spec, &options(dir.path())).unwrap();
        let work = rack.dirs().work();
        let node = rack.node("a").unwrap();
        let seed = work.join("seed");
        std::fs::write(&seed, "{\"a seed\": 1}").unwrap();
        node.put_seed(&seed).unwrap();
        let stick = std::fs::read(node.machine().stick.clone().unwrap()).unwrap();
        assert!(stick.windows(11).any(|bytes| bytes == b"{\"a seed\": "), "the seed is not on the stick");
        assert!(node.qmp().is_err(), "a control socket of a machine that is off");
        // A boot sector that says what it is on the serial port, then rests.
        let disk = std::fs::File::options().write(true).open(node.disk(0).unwrap()).unwrap();
        disk.write_all_at(&talking_sector(b"SECTOR\n"), 0).unwrap();
        node.power_on().unwrap();
        node.wait_text(0, SOON, "SECTOR").unwrap();
        assert_eq!(node.qmp().unwrap().status().unwrap(), "running");
        let picture = work.join("screen.ppm");
        node.qmp().unwrap().screendump(&picture).unwrap();
        assert!(std::fs::read(&picture).unwrap().starts_with(b"P6"));
        assert!(node.qmp().unwrap().execute("no-such-command", &serde_json::Value::Null).is_err());
        let mark = node.mark();
        node.reset().unwrap();
        node.wait_text(mark, SOON, "SECTOR").unwrap();
        assert!(node.corrupt_disk(0, 511).is_err(), "a disk was changed under a running machine");
        let mark = node.mark();
        node.power_off();
        // Without its signature nobody boots the disk.
        node.corrupt_disk(0, 511).unwrap();
        node.power_on().unwrap();
        let missing = node.wait_text(mark, Duration::from_secs(5), "SECTOR").unwrap_err().to_string();
        assert!(missing.contains("SECTOR") && missing.contains("a.log"), "{missing}");
        assert!(node.cpu_seconds() > 0.0);
        rack.stop();
    });
}

/// A boot sector that writes `text` to the first serial port, then halts.
fn talking_sector(text: &[u8]) -> Vec<u8> {
    let mut sector = Vec::new();
    for byte in text {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        sector.extend_from_slice(&[0xba, 0xf8, 0x03, 0xb0, *byte, 0xee]);
    }
    // hlt; jmp to it
    sector.extend_from_slice(&[0xf4, 0xeb, 0xfd]);
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn the_accelerator_probe_tells_a_guest_that_ran_from_one_that_did_not() {
    let toolbox = Toolbox::ensure(&|line| eprintln!("{line}")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kernel = Kernel::ensure(&toolbox, Flavour::Generic, &|line| eprintln!("{line}")).unwrap().image();
    assert!(accel::boots(&toolbox, &kernel, dir.path(), "tcg", "max"), "no guest boots at all");
    assert!(!accel::boots(&toolbox, &kernel, dir.path(), "no-such-accelerator", "max"));
    let no_kernel = dir.path().join("probe.stderr");
    assert!(!accel::boots(&toolbox, &no_kernel, dir.path(), "tcg", "max"));
}

#[test]
fn a_bios_machine_gets_address_and_script_once_its_link_is_there() {
    run_test_inside("a_bios_machine_gets_address_and_script_once_its_link_is_there", || {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"netboot\"\n[site]\ncontroller = false\n[[node]]\nname = \"a\"\nboot = \"bios-ipxe\"\n\
                    memory = \"256MiB\"\n";
        let spec = spec::parse(text, Path::new("netboot.toml")).unwrap();
        let mut rack = Rack::start(spec, &options(dir.path())).unwrap();
        rack.cut("a", 0, true).unwrap();
        rack.power_on().unwrap();
        let node = rack.node("a").unwrap();
        node.wait_text(0, SOON, "iPXE").unwrap();
        let port = node.port(0).unwrap();
        // Its first DHCP questions are lost at the switch.
        assert!(until(|| rack.site.switch.counters(port).lost > 0));
        rack.cut("a", 0, false).unwrap();
        let node = rack.node("a").unwrap();
        node.wait_text(0, SOON, "10.77.0.1").unwrap();
        node.wait_text(0, SOON, "Cairn: loading kernel").unwrap();
        // There is no kernel in this site: it says so and tries again by itself.
        node.wait_text(0, SOON, "trying again in 10 seconds").unwrap();
        rack.stop();
    });
}

#[test]
fn beside_another_dhcp_server_only_what_to_boot_is_told() {
    run_test_inside("beside_another_dhcp_server_only_what_to_boot_is_told", || {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"proxy\"\n[site]\ncontroller = false\ndhcp = \"proxy\"\n\
                    [[node]]\nname = \"a\"\nboot = \"bios-ipxe\"\nmemory = \"256MiB\"\n\
                    [[node]]\nname = \"b\"\nboot = \"uefi-pxe\"\nmemory = \"256MiB\"\n";
        let spec = spec::parse(text, Path::new("proxy.toml")).unwrap();
        let mut rack = Rack::start(spec, &options(dir.path())).unwrap();
        rack.power_on().unwrap();
        for node in ["a", "b"] {
            rack.node(node).unwrap().wait_text(0, SOON, "Cairn: loading kernel").unwrap();
        }
        let other = std::fs::read_to_string(rack.dirs().log("other-dhcp")).unwrap();
        assert!(other.contains("DHCPACK(lab1)") && !other.contains("bootfile-name  http"), "{other}");
        rack.stop();
    });
}

#[test]
fn a_rack_outside_its_namespaces_is_refused() {
    let spec =
        spec::parse("name = \"r\"\n[[node]]\nname = \"a\"\nboot = \"usb\"\n", Path::new("r.toml")).unwrap();
    let error = Rack::start(spec, &options(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")))).unwrap_err();
    assert!(error.to_string().contains("namespaces"), "{error}");
}

//! Entry points for the fuzzers: rack files, and what guests and QEMU say.

use std::path::Path;
use std::time::Instant;

use crate::spec;
use crate::switch::fabric::{Fabric, PortConfig};
use crate::switch::frame;

/// A rack file.
pub fn rack(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(rack) = spec::parse(text, Path::new("racks/fuzz.toml"))
    {
        for (index, node) in rack.nodes.iter().enumerate() {
            let _ = rack.site.subnet.host(u32::try_from(index).unwrap_or(0));
            for disk in 0..node.disks.len() {
                assert!(!spec::disk_serial(node, disk).contains([',', '=']), "it is a QEMU option");
            }
        }
    }
}

/// A frame from a guest.
pub fn frames(data: &[u8]) {
    let Ok(header) = frame::parse(data) else { return };
    let (mut bare, mut again) = (Vec::new(), Vec::new());
    if header.tag.is_some() {
        frame::untag(data, &mut bare);
        assert_eq!(bare.len() + 4, data.len());
    }
    frame::tag(data, 7, &mut again);
    let mut fabric = Fabric::new(1);
    let ports = [fabric.add(PortConfig::default()), fabric.add(PortConfig::default())];
    let mut out = Vec::new();
    for port in ports {
        fabric.forward(data, port, Instant::now(), &mut out);
    }
}

/// A line of QMP, a request for a file, a report of the controller, a console.
pub fn lines(data: &[u8]) {
    let mut lines = Vec::new();
    crate::tail::Splitter::default().push(data, &mut lines);
    for line in &lines {
        assert!(!line.contains('\u{1b}'));
        let _ = crate::qemu::qmp::parse(line);
        if let Some(request) = crate::site::files::parse(line) {
            assert!(request.path.is_relative());
        }
    }
    if let Ok(value) = serde_json::from_slice(data) {
        let _ = crate::central::read_nodes(value);
    }
}

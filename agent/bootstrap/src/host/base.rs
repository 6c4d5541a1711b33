//! `prepare`, `containerd`, `images`: what every node needs before it can be a member.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_bundle::durable;
use cairn_protocol::ids::Sha256Digest;
use cairn_protocol::plan::version_step;
use tokio::net::UnixStream;

use super::{Host, write};
use crate::edge::command::Run;
use crate::engine::{Seen, Trouble};
use crate::images::{self, Image, Inventory};
use crate::render::{containerd, kubeadm, kubelet};
use crate::settings::Settings;
use crate::steps::Step;

/// Less memory than this and a control plane's processes are killed by each other, MiB (by hand: 470 to 540 MiB for them
/// alone, and an API server grows with its cluster).
const CONTROL_PLANE_MIB: u64 = 1500;
/// As [`CONTROL_PLANE_MIB`], for a worker.
const WORKER_MIB: u64 = 600;
/// Kernel settings that pods and their network need; in a container what the host does not let us set is the host's.
const SYSCTLS: [(&str, &str); 7] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("vm/overcommit_memory", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // A pod or two watch many files each; the kernel's default is 128.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
];
/// Kernel modules that nothing asks for by itself. `br_netfilter` lets a Service's answer from the same bridge find its way
/// back.
const MODULES: [&str; 4] = ["overlay", "br_netfilter", "nf_conntrack", "veth"];
/// Longest resolver file that is read, bytes.
const RESOLV_BYTES: u64 = 64 << 10;

impl Host {
    pub(super) fn probe_prepare(&self) -> Result<Seen, Trouble> {
        Ok(if self.settings.is_some() { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn prepare(&mut self) -> Result<Vec<String>, Trouble> {
        let inventory = self.inventory()?;
        if let Some(before) = &self.record.version {
            version_step(before, &inventory.version).map_err(|refused| {
                Trouble::new(refused.to_string(), "correct kubernetes/kubernetes in the site's plan")
            })?;
        }
        self.judge_memory()?;
        let endpoint = self.place.endpoint;
        let own = self.kernel.own_address_beside(endpoint).await;
        let own = own.map_err(|e| Trouble::passing(e.to_string()))?.ok_or_else(|| {
            Trouble::new(
                format!("no link of this node has an address in the network of the endpoint {endpoint}"),
                "correct kubernetes.endpoint or the node's network in the site's plan",
            )
        })?;
        if !self.container {
            let mut words = vec!["-a"];
            words.extend(MODULES);
            // Some are built in; what is missing shows at its use.
            let _ = Run::new("modprobe", &words, self.profile.command).run().await;
        }
        let mut log = self.set_sysctls();
        let resolv = durable::read(&self.places.at("etc/resolv.conf"), RESOLV_BYTES).ok().flatten();
        let resolv = String::from_utf8_lossy(&resolv.unwrap_or_default()).into_owned();
        let resolv_conf = self.places.at(kubelet::RESOLV_CONF.trim_start_matches('/'));
        write(&resolv_conf, kubelet::resolv_conf(&resolv).as_bytes(), 0o644)?;
        let flex = self.places.at(kubeadm::VOLUME_PLUGINS.trim_start_matches('/'));
        for dir in [self.places.kubernetes().join("manifests"), flex, self.places.run()] {
            fs::create_dir_all(&dir).map_err(|e| Trouble::passing(format!("{}: {e}", dir.display())))?;
        }
        log.push(format!("address {} on {}", own.address, own.link));
        self.settings = Some(Settings {
            place: self.place.clone(),
            address: own.address,
            inventory,
            container: self.container,
            profile: self.profile,
        });
        self.own = Some(own);
        Ok(log)
    }

    fn inventory(&self) -> Result<Inventory, Trouble> {
        let path = self.places.layer().join("kubernetes.json");
        let lacking =
            |why: String| Trouble::new(why, "is the kubernetes bundle in the plan's bundles, and complete?");
        let bytes = durable::read(&path, images::INVENTORY_BYTES as u64 + 1)
            .map_err(|e| lacking(e.to_string()))?
            .ok_or_else(|| lacking(format!("no layer brings {}", path.display())))?;
        images::parse_inventory(&bytes).map_err(|e| lacking(format!("{}: {e}", path.display())))
    }

    fn judge_memory(&self) -> Result<(), Trouble> {
        let text = fs::read_to_string(self.places.at("proc/meminfo")).unwrap_or_default();
        let allowed = self.memory_bytes.map_or(u64::MAX, |bytes| bytes >> 20);
        let Some(total) = memory_mib(&text).map(|machine| machine.min(allowed)) else { return Ok(()) };
        let (role, least) = if self.place.is_control_plane() {
            ("control plane", CONTROL_PLANE_MIB)
        } else {
            ("worker", WORKER_MIB)
        };
        if total < least {
            return Err(Trouble::new(
                format!("{total} MiB of memory are too little for a {role}: it takes {least} MiB"),
                "give the machine more memory, or its role to another node",
            ));
        }
        Ok(())
    }

    /// Sets what can be set; the answer names what could not.
    fn set_sysctls(&self) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, value) in SYSCTLS {
            let path = self.places.at("proc/sys").join(name);
            let have = fs::read_to_string(&path).unwrap_or_default();
            let enough = match (have.trim().parse::<u64>(), value.parse::<u64>()) {
                (Ok(have), Ok(want)) => have == want || (name.starts_with("fs/") && have >= want),
                _ => false,
            };
            if !enough && let Err(error) = fs::write(&path, value) {
                refused.push(format!("sysctl {}={value}: {error}", name.replace('/', ".")));
            }
        }
        refused
    }

    fn containerd_config(&self) -> PathBuf {
        self.places.at("etc/containerd/config.toml")
    }

    pub(super) async fn probe_containerd(&self) -> Result<Seen, Trouble> {
        let wanted = containerd::config(self.settings()?);
        let have = fs::read_to_string(self.containerd_config()).unwrap_or_default();
        let socket = self.places.at("run/containerd/containerd.sock");
        let done = have == wanted && UnixStream::connect(socket).await.is_ok();
        Ok(if done { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn containerd(&self) -> Result<Vec<String>, Trouble> {
        let wanted = containerd::config(self.settings()?);
        let path = self.containerd_config();
        let changed = fs::read_to_string(&path).unwrap_or_default() != wanted;
        if changed {
            write(&path, wanted.as_bytes(), 0o644)?;
        }
        let verb = if changed { "restart" } else { "start" };
        let words = [verb, "containerd.service"];
        Ok(Run::new("systemctl", &words, self.profile.phase).succeed().await?.log)
    }

    /// All images that the layers bring, the cluster's own first.
    fn images(&self) -> Result<Vec<Image>, Trouble> {
        let mut all = self.settings()?.inventory.images.clone();
        for path in json_files(&self.places.layer().join("images.d")) {
            let bytes = durable::read(&path, images::INVENTORY_BYTES as u64 + 1).ok().flatten();
            let more = images::parse_more(&bytes.unwrap_or_default());
            all.extend(more.map_err(|e| Trouble::passing(format!("{}: {e}", path.display())))?);
        }
        Ok(all)
    }

    pub(super) fn images_digest(&self) -> Result<Sha256Digest, Trouble> {
        let words: Vec<String> =
            self.images()?.iter().map(|image| format!("{} {}", image.reference, image.digest)).collect();
        Ok(Sha256Digest::of(words.join("\n").as_bytes()))
    }

    async fn imported(&self) -> Result<BTreeMap<String, String>, Trouble> {
        let words = ["--namespace", "k8s.io", "images", "ls"];
        let run = Run { output: images::LISTING_BYTES, ..Run::new("ctr", &words, self.profile.command) };
        Ok(images::parse_listing(&run.succeed().await?.output))
    }

    pub(super) async fn probe_images(&mut self) -> Result<Seen, Trouble> {
        let recorded = self.record.has(Step::Images, self.images_digest()?);
        if recorded && !self.images_seen {
            let have = self.imported().await?;
            let all = self.images()?;
            self.images_seen = images::missing(&all, self.place.is_control_plane(), &have).is_empty();
        }
        Ok(if recorded && self.images_seen { Seen::Done } else { Seen::Needed })
    }

    pub(super) async fn import(&mut self) -> Result<Vec<String>, Trouble> {
        let all = self.images()?;
        let mut have = self.imported().await?;
        if !self.record.has_any(Step::Images) {
            // An import that was cut off may have left an unpacked image with files of length 0.
            for image in all.iter().filter(|image| have.contains_key(&image.reference)) {
                let words = ["--namespace", "k8s.io", "images", "rm", "--sync", image.reference.as_str()];
                Run::new("ctr", &words, self.profile.command).succeed().await?;
            }
            have.clear();
        }
        let missing = images::missing(&all, self.place.is_control_plane(), &have);
        let mut log = Vec::new();
        for image in missing {
            let archive = self.places.layer().join("images").join(&image.archive);
            let archive = archive.to_string_lossy();
            let words = ["--namespace", "k8s.io", "images", "import", archive.as_ref()];
            Run::new("ctr", &words, self.profile.import).succeed().await?;
            log.push(format!("imported {}", image.reference));
        }
        // Seen with containerd's own eyes: an archive of another content is no import.
        let have = self.imported().await?;
        if let Some(image) = images::missing(&all, self.place.is_control_plane(), &have).first() {
            return Err(Trouble::new(
                format!(
                    "{} was imported from {} and has another digest or name",
                    image.reference, image.archive
                ),
                "the bundle's list of images and its archives disagree: build it again",
            ));
        }
        self.images_seen = true;
        Ok(log)
    }
}

/// `MemTotal` of /proc/meminfo, MiB.
fn memory_mib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// The JSON files of a directory, by name.
pub(super) fn json_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_mib("MemTotal:        2048000 kB\nMemFree: 1 kB\n"), Some(2000));
        assert_eq!(memory_mib(""), None);
    }
}

//! A rack that stands: its site and its nodes. What scenario tests hold in hand.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cairn_image::initramfs;
use cairn_image::toolbox::{self, Toolbox};

use crate::central::Central;
use crate::dirs::{self, Dirs, fail};
use crate::namespace;
use crate::node::{self, CMDLINE, Node, Shared};
use crate::prepare::{self, Prepared, Tools};
use crate::qemu::accel;
use crate::qemu::args::Accel;
use crate::site::{self, Controller, Site};
use crate::spec::{Boot, RackSpec};

/// Why a rack does not stand.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// The boot image.
    #[error(transparent)]
    Image(#[from] cairn_image::error::Error),
    /// The toolbox.
    #[error(transparent)]
    Toolbox(#[from] toolbox::Error),
    /// The namespaces.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The site.
    #[error(transparent)]
    Site(#[from] site::Error),
    /// Preparation.
    #[error(transparent)]
    Prepare(#[from] prepare::Error),
    /// A node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// No such node.
    #[error("rack {rack} has no node {node}")]
    NoNode {
        /// Rack.
        rack: String,
        /// Node.
        node: String,
    },
}

/// Where systemd-nspawn keeps a folder for each running container, which a killed one leaves.
const NSPAWN: &str = "/run/systemd/nspawn";

/// What a rack needs beside its file.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder that gets a folder for each rack.
    pub out: PathBuf,
    /// Folder with boot files.
    pub image: PathBuf,
    /// What was prepared for the controller; none for racks without one.
    pub prepared: Option<Prepared>,
    /// What executes guests; found out by trying when none is given.
    pub accel: Option<Accel>,
}

/// A standing rack. Dropping it cuts every node's power and stops the site.
#[derive(Debug)]
pub struct Rack {
    spec: RackSpec,
    shared: Arc<Shared>,
    nodes: Vec<Node>,
    controller: Option<(Prepared, Tools, Central)>,
    hold: Option<File>,
    /// Services and switch. After the nodes, so that they lose power first.
    pub site: Site,
}

impl Rack {
    /// Puts up the rack: site services run, nodes are in place and off. Must be called inside the lab's namespaces.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(spec: RackSpec, options: &Options) -> Result<Self, Error> {
        if !namespace::inside() {
            return Err(namespace::Error::Outside.into());
        }
        let toolbox = Toolbox::ensure(&|line| eprintln!("{line}"))?;
        let dirs = Dirs::create(&options.out, &spec.name)?;
        let hold = options.prepared.as_ref().map(Prepared::hold).transpose()?;
        let mut image = std::path::absolute(&options.image).map_err(fail("find", &options.image))?;
        let cmdline = format!("{CMDLINE} {}", spec.image.cmdline).trim_end().to_owned();
        if let Some(prepared) = options.prepared.as_ref().filter(|prepared| prepared.image() == image) {
            image = dirs.work().join("image");
            copy(&prepared.image(), &image, &dirs)?;
        }
        let controller = options.prepared.clone().map(|prepared| controller(prepared, &dirs)).transpose()?;
        let setup = controller.as_ref().map(|(prepared, tools, _)| Controller {
            program: tools.controller.clone(),
            dir: dirs.work().join("controller"),
            online_keys: Some(prepared.keys()),
            cmdline: (!spec.image.cmdline.is_empty()).then(|| cmdline.clone()),
        });
        // A broken KVM takes seconds to show; the site comes up meanwhile.
        let (accel, site) = std::thread::scope(|scope| {
            let probe = scope.spawn(|| {
                // Containers need none.
                let none = (!spec.has_machines()).then_some(Accel::Tcg);
                options
                    .accel
                    .or(none)
                    .unwrap_or_else(|| accel::probe(&toolbox, &image.join("vmlinuz"), &dirs.work()))
            });
            let site = Site::start(&spec, &toolbox, &dirs, &image, &cmdline, setup);
            (probe.join().unwrap_or(Accel::Tcg), site)
        });
        let site = site?;
        if spec.nodes.iter().any(|node| node.boot == Boot::Container) {
            namespace::hide(NSPAWN)?;
            unpack(&image.join("initramfs.img"), &dirs.work().join("initramfs"))?;
        }
        let shared = Arc::new(Shared { toolbox, accel, dirs, image, cmdline, extra: Mutex::default() });
        let nodes = (0..spec.nodes.len())
            .map(|index| Node::install(&spec, index, &site.switch, &shared))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { spec, shared, nodes, controller, hold, site })
    }

    /// Its description.
    #[must_use]
    pub fn spec(&self) -> &RackSpec {
        &self.spec
    }

    /// What executes its guests.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.shared.accel
    }

    /// The run's folders.
    #[must_use]
    pub fn dirs(&self) -> &Dirs {
        &self.shared.dirs
    }

    /// All nodes.
    pub fn nodes(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// A node by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&mut self, name: &str) -> Result<&mut Node, Error> {
        let rack = self.spec.name.clone();
        let found = self.nodes.iter_mut().find(|node| node.spec().name == name);
        found.ok_or_else(|| Error::NoNode { rack, node: name.to_owned() })
    }

    /// Powers on every node whose file does not say `power = false`.
    ///
    /// # Errors
    /// When one does not start.
    pub fn power_on(&mut self) -> Result<(), Error> {
        for node in self.nodes.iter_mut().filter(|node| node.spec().power) {
            node.power_on()?;
        }
        Ok(())
    }

    /// Lets nodes powered on from now on use files of another folder.
    pub fn share(&self, folder: &Path) {
        self.shared.extra.lock().unwrap_or_else(PoisonError::into_inner).push(folder.to_owned());
    }

    /// The operator's way to the controller.
    #[must_use]
    pub fn central(&self) -> Option<&Central> {
        self.controller.as_ref().map(|(_, _, central)| central)
    }

    /// Publishes the prepared release, if the rack has one, and applies its plan.
    ///
    /// # Errors
    /// When there is no controller, or it refuses.
    pub fn publish(&mut self) -> Result<(), Error> {
        if self.spec.site.release {
            let (prepared, _, _) = self.hands()?;
            self.operate(&["publish", "--repo", &prepared.repository().to_string_lossy()])?;
        }
        // From here on the run has its own copy of everything.
        self.hold = None;
        match &self.spec.site.plan {
            Some(plan) => self.operate(&["site", "plan", "apply", &plan.to_string_lossy()]),
            None => Ok(()),
        }
    }

    /// Runs `cairnctl` with these words as the lab's operator; what it says goes to `logs/cairnctl.log`.
    ///
    /// # Errors
    /// When there is no controller, or it refuses.
    pub fn operate(&self, words: &[&str]) -> Result<(), Error> {
        let (_, tools, central) = self.hands()?;
        Ok(prepare::run(&tools.cairnctl, &central.words(words), &self.dirs().log("cairnctl"))?)
    }

    fn hands(&self) -> Result<&(Prepared, Tools, Central), Error> {
        let hands = self.controller.as_ref();
        hands.ok_or_else(|| site::Error::NoController(self.spec.name.clone()).into())
    }

    /// Cuts a card's link at the switch, or mends it.
    ///
    /// # Errors
    /// When there is no such node; a card that is not there is ignored.
    pub fn cut(&mut self, node: &str, nic: usize, cut: bool) -> Result<(), Error> {
        if let Some(port) = self.node(node)?.port(nic) {
            self.site.switch.cut(port, cut);
        }
        Ok(())
    }

    /// Flips a byte of a file of the controller's repository.
    ///
    /// # Errors
    /// When there is no controller or no such file.
    pub fn corrupt_repository(&self, file: &Path, offset: u64) -> Result<(), Error> {
        let no_controller = || site::Error::NoController(self.spec.name.clone());
        let repository = self.site.repository().ok_or_else(no_controller)?;
        Ok(node::flip_byte(&repository.join(file), offset)?)
    }

    /// Powers everything off and stops the site in order: the controller first, which says goodbye to nodes that still hear it.
    pub fn stop(&mut self) {
        self.site.stop_controller();
        self.nodes.iter_mut().for_each(Node::power_off);
        self.site.stop();
    }
}

/// A fresh controller for this run: the prepared one's folder, copied.
fn controller(prepared: Prepared, dirs: &Dirs) -> Result<(Prepared, Tools, Central), Error> {
    let tools = Tools::find()?;
    copy(&prepared.controller(), &dirs.work().join("controller"), dirs)?;
    let central =
        Central { program: tools.cairnctl.clone(), credentials: prepared.operator(), url: prepared.url() };
    Ok((prepared, tools, central))
}

/// The boot image's initramfs in a folder, for container nodes. Without its modules: the kernel is the host's.
fn unpack(initramfs: &Path, root: &Path) -> Result<(), Error> {
    std::fs::create_dir(root).map_err(fail("make", root))?;
    Ok(initramfs::unpack::unpack(initramfs, root, &|path| path.starts_with("usr/lib/modules/"))?)
}

/// Copies a folder, modes and all.
fn copy(from: &Path, to: &Path, dirs: &Dirs) -> Result<(), Error> {
    let words = ["-a", &from.to_string_lossy(), &to.to_string_lossy()].map(str::to_owned);
    Ok(prepare::run(Path::new("cp"), &words, &dirs.log("prepare"))?)
}

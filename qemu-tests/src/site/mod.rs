//! The site around the nodes: one link, with dnsmasq and the controller at its first address.
//!
//! - [`dhcp`]: dnsmasq, ours and, where the rack has one, the site's own.
//! - [`files`]: a small HTTP server for boot files where no controller runs, and for seeds.

mod dhcp;
pub mod files;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cairn_image::toolbox::Toolbox;
use cairn_netboot::ipxe;

use crate::dirs::{self, Dirs, fail};
use crate::namespace;
use crate::service::{self, Service};
use crate::spec::{DhcpMode, RackSpec};
use crate::switch::{self, PortConfig, Switch, Vlan, wire};
use files::FileServer;

/// Name of the tap device.
const TAP: &str = "lab0";
/// Port of the controller's HTTPS.
pub const CONTROLLER_PORT: u16 = 8443;
/// Port of the plain-HTTP boot service.
pub const BOOT_PORT: u16 = 8080;
/// Port of the lab's own file server, for seeds.
pub const FILES_PORT: u16 = 8081;
/// The controller's name, answered by the site's DNS and in its certificate.
pub const CONTROLLER_NAME: &str = "controller.cairn.lab";
/// A service that is not up after this hangs.
const START: Duration = Duration::from_secs(60);

/// Why a site did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error(transparent)]
    Dirs(#[from] dirs::Error),
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The switch.
    #[error(transparent)]
    Switch(#[from] wire::Error),
    /// A service.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// Netboot configuration.
    #[error(transparent)]
    Netboot(#[from] cairn_netboot::Error),
    /// An iPXE script.
    #[error(transparent)]
    Script(#[from] ipxe::BadValue),
    /// There is no controller to start.
    #[error("rack {0} has no controller: its file says site.controller = false")]
    NoController(String),
}

/// How the controller is run.
#[derive(Debug, Clone)]
pub struct Controller {
    /// Its program.
    pub program: PathBuf,
    /// Its data folder, made by `cairn-controller init`.
    pub dir: PathBuf,
    /// Snapshot and timestamp keys of the repository.
    pub online_keys: Option<PathBuf>,
    /// Kernel command line that its boot service hands out; the image's own when none.
    pub cmdline: Option<String>,
}

/// A running site.
#[derive(Debug)]
pub struct Site {
    name: String,
    address: Ipv4Addr,
    image: PathBuf,
    dirs: Dirs,
    /// The switch that everything hangs on.
    pub switch: Switch,
    /// The services' port of it.
    pub tap: switch::Port,
    dnsmasq: Option<Service>,
    other_dhcp: Option<Service>,
    setup: Option<Controller>,
    controller: Option<Service>,
    files: FileServer,
}

impl Site {
    /// Brings up link and services. `image` is the folder with boot files, `cmdline` what the kernel is given where the lab
    /// writes it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        rack: &RackSpec,
        toolbox: &Toolbox,
        dirs: &Dirs,
        image: &Path,
        cmdline: &str,
        setup: Option<Controller>,
    ) -> Result<Self, Error> {
        let subnet = rack.site.subnet;
        let address = subnet.host(1);
        let switch = Switch::start(0x0ca1)?;
        // The services see every VLAN untagged only on the default one; others are for nodes among themselves.
        let services =
            PortConfig { vlan: Vlan::Access(switch::fabric::DEFAULT_VLAN), ..PortConfig::default() };
        let tap = switch.add_tap(TAP, services)?;
        namespace::ip(&["addr", "add", &format!("{address}/{}", subnet.prefix), "dev", TAP])?;
        namespace::ip(&["link", "set", TAP, "up"])?;
        let www = dirs.work().join("www");
        std::fs::create_dir_all(&www).map_err(fail("make", &www))?;
        let port = if setup.is_some() { FILES_PORT } else { BOOT_PORT };
        if setup.is_none() {
            stand_in(&www, image, address, cmdline)?;
        }
        let files = FileServer::start(address, port, &www).map_err(fail("serve", &www))?;
        let mut site = Self {
            name: rack.name.clone(),
            address,
            image: image.to_owned(),
            dirs: dirs.clone(),
            switch,
            tap,
            dnsmasq: None,
            other_dhcp: None,
            setup,
            controller: None,
            files,
        };
        if rack.site.dhcp == DhcpMode::Proxy {
            site.other_dhcp = Some(site.start_other_dhcp(rack, toolbox)?);
        }
        site.dnsmasq = Some(site.start_dnsmasq(rack, toolbox)?);
        if site.setup.is_some() {
            site.start_controller()?;
        }
        Ok(site)
    }

    /// The services' address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Base URL of the controller.
    #[must_use]
    pub fn controller_url(&self) -> String {
        format!("https://{CONTROLLER_NAME}:{CONTROLLER_PORT}")
    }

    /// The folder that the file server shows.
    #[must_use]
    pub fn www(&self) -> &Path {
        self.files.root()
    }

    /// Starts the controller and waits until it listens.
    ///
    /// # Errors
    /// When the rack has none, or it does not come up.
    pub fn start_controller(&mut self) -> Result<(), Error> {
        let setup = self.setup.as_ref().ok_or_else(|| Error::NoController(self.name.clone()))?;
        let mut command = Command::new(&setup.program);
        command.arg("serve").arg("--dir").arg(&setup.dir);
        command.arg("--listen").arg(format!("{}:{CONTROLLER_PORT}", self.address));
        command.arg("--boot-listen").arg(format!("{}:{BOOT_PORT}", self.address));
        command.arg("--boot-dir").arg(&self.image);
        if let Some(keys) = &setup.online_keys {
            command.arg("--online-keys").arg(keys);
        }
        if let Some(cmdline) = &setup.cmdline {
            command.arg("--boot-cmdline").arg(cmdline);
        }
        self.controller = Some(Service::start(
            "controller",
            command,
            &self.dirs.log("controller"),
            "ready https://",
            START,
        )?);
        Ok(())
    }

    /// Stops the controller in order.
    pub fn stop_controller(&mut self) {
        if let Some(mut service) = self.controller.take() {
            service.stop();
        }
    }

    /// Kills the controller, as a power cut at central would.
    pub fn kill_controller(&mut self) {
        if let Some(mut service) = self.controller.take() {
            service.kill();
        }
    }

    /// The running controller.
    #[must_use]
    pub fn controller(&self) -> Option<&Service> {
        self.controller.as_ref()
    }

    /// How the controller ended, if it did so by itself.
    pub fn controller_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.controller.as_mut().and_then(Service::ended)
    }

    /// The controller's repository folder, for damaging files on purpose.
    #[must_use]
    pub fn repository(&self) -> Option<PathBuf> {
        self.setup.as_ref().map(|setup| setup.dir.join("repo"))
    }

    /// Stops everything in order.
    pub fn stop(&mut self) {
        self.stop_controller();
        for mut service in [self.dnsmasq.take(), self.other_dhcp.take()].into_iter().flatten() {
            service.stop();
        }
    }
}

impl Drop for Site {
    /// Services first: dnsmasq would complain about a device that is gone.
    fn drop(&mut self) {
        self.stop();
    }
}

/// Without a controller, the file server shows the boot files and one script for all.
fn stand_in(www: &Path, image: &Path, address: Ipv4Addr, cmdline: &str) -> Result<(), Error> {
    let boot = www.join("boot");
    std::os::unix::fs::symlink(image, &boot).map_err(fail("link", &boot))?;
    let url = |file: &str| format!("http://{address}:{BOOT_PORT}/boot/{file}");
    let script = ipxe::boot(&ipxe::Boot { kernel: &url("vmlinuz"), initrd: &url("initramfs.img"), cmdline })?;
    let path = www.join("boot.ipxe");
    std::fs::write(&path, script).map_err(fail("write", &path))?;
    Ok(())
}

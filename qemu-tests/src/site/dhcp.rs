//! dnsmasq: ours, and a plain one of the site's own where the rack has one.

use std::net::Ipv4Addr;
use std::path::Path;

use cairn_image::toolbox::Toolbox;
use cairn_netboot::config::{BIOS_IPXE, UEFI_IPXE, UKI};
use cairn_netboot::{BootUrls, Dhcp, Netboot, dnsmasq};

use super::{BOOT_PORT, CONTROLLER_NAME, Error, START, Site, TAP};
use crate::dirs::{Dirs, fail};
use crate::namespace;
use crate::service::Service;
use crate::spec::{self, DhcpMode, RackSpec};
use crate::switch::PortConfig;

/// Name of the other DHCP server's tap device.
const OTHER_TAP: &str = "lab1";

impl Site {
    /// Ours: what to boot, and addresses and names unless another server gives them out.
    pub(super) fn start_dnsmasq(&self, rack: &RackSpec, toolbox: &Toolbox) -> Result<Service, Error> {
        let tftp = self.dirs.work().join("tftp");
        std::fs::create_dir_all(&tftp).map_err(fail("make", &tftp))?;
        for file in [BIOS_IPXE, UEFI_IPXE] {
            let from = toolbox.root().join("usr/lib/ipxe").join(file);
            std::fs::copy(&from, tftp.join(file)).map_err(fail("copy", &from))?;
        }
        let uki = self.image.join(UKI);
        if uki.exists() {
            std::fs::copy(&uki, tftp.join(UKI)).map_err(fail("copy", &uki))?;
        }
        let conf = dnsmasq::conf(&netboot(rack, self.address, &tftp, &self.dirs))?;
        self.run_dnsmasq(toolbox, "dnsmasq", &conf)
    }

    /// The site's own DHCP and DNS server, at the second address on a port of its own: it knows nothing of booting.
    pub(super) fn start_other_dhcp(&self, rack: &RackSpec, toolbox: &Toolbox) -> Result<Service, Error> {
        let subnet = rack.site.subnet;
        let (address, mask) = (subnet.host(2), Ipv4Addr::from_bits(u32::MAX << (32 - subnet.prefix)));
        // Two interfaces of one kernel on one link: each answers ARP for its own address only.
        for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
            let path = Path::new("/proc/sys/net/ipv4/conf/all").join(key);
            std::fs::write(&path, value).map_err(fail("set", &path))?;
        }
        self.switch.add_tap(OTHER_TAP, PortConfig::default())?;
        namespace::ip(&["addr", "add", &format!("{address}/{}", subnet.prefix), "dev", OTHER_TAP])?;
        namespace::ip(&["link", "set", OTHER_TAP, "up"])?;
        let conf = format!(
            "interface={OTHER_TAP}\nexcept-interface=lo\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\nlog-dhcp\n\
             dhcp-leasefile={}\ndhcp-authoritative\nno-ping\ndhcp-range={},{},{mask},3600\ndhcp-option=option:router\n\
             dhcp-option=option:dns-server,{address}\nhost-record={CONTROLLER_NAME},{}\n",
            self.dirs.work().join("other-dhcp.leases").display(),
            subnet.host(100),
            subnet.host(199),
            self.address,
        );
        self.run_dnsmasq(toolbox, "other-dhcp", &conf)
    }

    fn run_dnsmasq(&self, toolbox: &Toolbox, name: &str, conf: &str) -> Result<Service, Error> {
        let path = self.dirs.work().join(format!("{name}.conf"));
        std::fs::write(&path, conf).map_err(fail("write", &path))?;
        let mut command = toolbox.enter().bind(self.dirs.work()).die_with_parent().command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--log-facility=-"])
            .arg(format!("--conf-file={}", path.display()));
        Ok(Service::start(name, command, &self.dirs.log(name), "started, version", START)?)
    }
}

fn netboot(rack: &RackSpec, address: Ipv4Addr, tftp: &Path, dirs: &Dirs) -> Netboot {
    let dhcp = match rack.site.dhcp {
        DhcpMode::Full => Dhcp::Full {
            first: rack.site.subnet.host(100),
            last: rack.site.subnet.host(199),
            router: None,
            lease_seconds: 3600,
            // Nobody else is in the range.
            ping_first: false,
        },
        DhcpMode::Proxy => Dhcp::Proxy,
    };
    Netboot {
        interface: TAP.to_owned(),
        server: address,
        prefix: rack.site.subnet.prefix,
        dhcp,
        names: vec![(CONTROLLER_NAME.to_owned(), address)],
        hosts: Vec::new(),
        uefi_pxe: match rack.site.uefi_pxe {
            spec::UefiPxe::Ipxe => cairn_netboot::UefiPxe::Ipxe,
            spec::UefiPxe::Uki => cairn_netboot::UefiPxe::Uki,
        },
        urls: BootUrls::of_boot_service(&format!("http://{address}:{BOOT_PORT}")),
        tftp_root: tftp.to_owned(),
        lease_file: dirs.work().join("dnsmasq.leases"),
        pid_file: None,
        // It is root of nothing but this namespace, and the toolbox's user table is not the host's.
        user: "root".to_owned(),
    }
}

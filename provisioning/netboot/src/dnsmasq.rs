//! The text of `dnsmasq.conf`.
//!
//! Which client gets what is told by DHCP option 93, the client architecture (RFC 4578 section 2.1 and the IANA registry
//! "Processor Architecture Types"), and by whether iPXE itself is asking (option 175, or user class `iPXE`):
//!
//! | client | answer |
//! |---|---|
//! | iPXE | the boot service's script |
//! | 0 (x86 BIOS) | `undionly.kpxe` by TFTP |
//! | 7, 9 (x86-64 UEFI PXE) | `snponly.efi` or the UKI by TFTP |
//! | 16 (x86-64 UEFI HTTP) with vendor class `HTTPClient` | the UKI's URL, and `HTTPClient` echoed in option 60 |

use std::path::Path;

use crate::config::{BIOS_IPXE, Dhcp, Error, Netboot, UEFI_IPXE, UKI, UefiPxe};

/// Writes `dnsmasq.conf`.
///
/// # Errors
/// When a value cannot be written, see [`Netboot::check`].
pub fn conf(netboot: &Netboot) -> Result<String, Error> {
    netboot.check()?;
    let mut out = String::with_capacity(2048);
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line("# Written by cairn-netboot. Changes here are lost.".to_owned());
    service(netboot, &mut line);
    clients(&mut line);
    match &netboot.dhcp {
        Dhcp::Full { .. } => full(netboot, &mut line),
        Dhcp::Proxy => proxy(netboot, &mut line),
    }
    Ok(out)
}

fn service(netboot: &Netboot, line: &mut impl FnMut(String)) {
    // Only this interface, and nothing of the host's own resolver set-up.
    line(format!("interface={}", netboot.interface));
    line("except-interface=lo".to_owned());
    line("bind-interfaces".to_owned());
    line("no-resolv".to_owned());
    line("no-hosts".to_owned());
    line("no-poll".to_owned());
    line(format!("user={}", netboot.user));
    line(format!("group={}", netboot.user));
    if let Some(path) = &netboot.pid_file {
        line(format!("pid-file={}", path.display()));
    }
    line("log-dhcp".to_owned());
    line(format!("dhcp-leasefile={}", netboot.lease_file.display()));
    line("enable-tftp".to_owned());
    line(format!("tftp-root={}", netboot.tftp_root.display()));
}

fn clients(line: &mut impl FnMut(String)) {
    line("dhcp-match=set:ipxe,175".to_owned());
    line("dhcp-userclass=set:ipxe,iPXE".to_owned());
    line("dhcp-match=set:bios,option:client-arch,0".to_owned());
    line("dhcp-match=set:efi,option:client-arch,7".to_owned());
    line("dhcp-match=set:efi,option:client-arch,9".to_owned());
    line("dhcp-match=set:efihttp,option:client-arch,16".to_owned());
    line("dhcp-vendorclass=set:httpclient,HTTPClient".to_owned());
    line("tag-if=set:httpboot,tag:efihttp,tag:httpclient".to_owned());
}

fn full(netboot: &Netboot, line: &mut impl FnMut(String)) {
    let Dhcp::Full { first, last, router, lease_seconds, ping_first } = &netboot.dhcp else { return };
    line("dhcp-authoritative".to_owned());
    line(format!("dhcp-range={first},{last},{},{lease_seconds}", netboot.mask()));
    if !ping_first {
        line("no-ping".to_owned());
    }
    match router {
        Some(router) => line(format!("dhcp-option=option:router,{router}")),
        // Without a value dnsmasq sends no router at all; its default would be itself.
        None => line("dhcp-option=option:router".to_owned()),
    }
    line(format!("dhcp-option=option:dns-server,{}", netboot.server));
    for host in &netboot.hosts {
        line(format!("dhcp-host={},{},{}", host.mac, host.address, host.name));
    }
    for (name, address) in &netboot.names {
        line(format!("host-record={name},{address}"));
    }
    // iPXE need not wait for a proxy-DHCP server beside this one (option 175, suboption 176).
    line("dhcp-option=tag:ipxe,encap:175,176,1b".to_owned());
    line(format!("dhcp-boot=tag:ipxe,{}", netboot.urls.ipxe_script));
    line(format!("dhcp-boot=tag:!ipxe,tag:bios,{BIOS_IPXE}"));
    line(format!("dhcp-boot=tag:!ipxe,tag:efi,{}", uefi_file(netboot)));
    line(format!("dhcp-boot=tag:!ipxe,tag:httpboot,{}", netboot.urls.uki));
    line("dhcp-option-force=tag:!ipxe,tag:httpboot,60,HTTPClient".to_owned());
}

fn proxy(netboot: &Netboot, line: &mut impl FnMut(String)) {
    // Addresses and names come from the other server.
    line("port=0".to_owned());
    line(format!("dhcp-range={},proxy,{}", netboot.network(), netboot.mask()));
    let mut service = |tag: &str, arch: &str, file: &str| {
        line(format!("pxe-service=tag:{tag},{arch},\"Cairn\",{file}"));
    };
    service("!ipxe", "X86PC", BIOS_IPXE);
    // dnsmasq's names of architectures 7 and 9.
    for arch in ["BC_EFI", "X86-64_EFI"] {
        service("!ipxe", arch, uefi_file(netboot));
    }
    for arch in ["X86PC", "BC_EFI", "X86-64_EFI"] {
        service("ipxe", arch, &netboot.urls.ipxe_script);
    }
    line(format!("dhcp-boot=tag:ipxe,{}", netboot.urls.ipxe_script));
}

fn uefi_file(netboot: &Netboot) -> &'static str {
    match netboot.uefi_pxe {
        UefiPxe::Ipxe => UEFI_IPXE,
        UefiPxe::Uki => UKI,
    }
}

/// The command line that checks a configuration file without running it.
#[must_use]
pub fn check_args(conf: &Path) -> Vec<String> {
    vec!["--test".to_owned(), format!("--conf-file={}", conf.display())]
}

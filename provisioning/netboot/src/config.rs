//! What a site's netboot needs to know.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// TFTP name of the iPXE that BIOS machines load; it drives the card through the option ROM's UNDI, so it fits every card.
pub const BIOS_IPXE: &str = "undionly.kpxe";
/// TFTP name of the iPXE that UEFI machines load; it drives the card through the firmware's own SNP driver.
pub const UEFI_IPXE: &str = "snponly.efi";
/// TFTP name of the unified kernel image.
pub const UKI: &str = "cairn.efi";

/// Longest text accepted in any one field. dnsmasq reads lines of up to 1025 bytes (`MAXDNAME`).
const MAX_FIELD: usize = 512;

/// A field whose value cannot be written into the configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The value would end the line or the option early, or is empty or too long.
    #[error("netboot: {field} {value:?} cannot be written: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The address range makes no sense.
    #[error("netboot: DHCP range {first} to {last} is not inside the subnet of {server}/{prefix}")]
    Range {
        /// First address to lease.
        first: Ipv4Addr,
        /// Last address to lease.
        last: Ipv4Addr,
        /// The server's own address.
        server: Ipv4Addr,
        /// Prefix length.
        prefix: u8,
    },
}

/// Who gives out addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dhcp {
    /// dnsmasq does: no other DHCP server is on this link.
    Full {
        /// First address to lease.
        first: Ipv4Addr,
        /// Last address to lease.
        last: Ipv4Addr,
        /// Default gateway to announce; none where the site has no way out.
        router: Option<Ipv4Addr>,
        /// Lease time in seconds, at least 120 (dnsmasq's own minimum).
        lease_seconds: u32,
        /// Whether an address is pinged, for up to three seconds, before it is leased for the first time: a guard against
        /// machines with a static address in the range.
        ping_first: bool,
    },
    /// Another server does; dnsmasq only adds what to boot (proxy-DHCP, PXE specification 2.1).
    Proxy,
}

/// What a UEFI machine that boots over PXE loads by TFTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UefiPxe {
    /// iPXE, which then asks the boot service over HTTP: fast, and an installed machine can be sent to its disk.
    Ipxe,
    /// The signed UKI itself: the way for Secure Boot, where an unsigned iPXE is refused.
    Uki,
}

/// Where boot files are fetched over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootUrls {
    /// What iPXE runs next. May hold iPXE variables such as `${serial}`.
    pub ipxe_script: String,
    /// The UKI, for UEFI HTTP Boot.
    pub uki: String,
}

impl BootUrls {
    /// Those of the controller's boot service at `base`, such as `http://10.77.0.1:8080`. iPXE fills in who it is.
    #[must_use]
    pub fn of_boot_service(base: &str) -> Self {
        let base = base.trim_end_matches('/');
        Self {
            ipxe_script: format!(
                "{base}/boot.ipxe?serial=${{serial:uristring}}&uuid=${{uuid}}&mac=${{mac:hexhyp}}"
            ),
            uki: format!("{base}/boot/{UKI}"),
        }
    }
}

/// A fixed name and address, by MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// MAC address in the usual colon form.
    pub mac: String,
    /// Address to lease to it.
    pub address: Ipv4Addr,
    /// Host name to give it.
    pub name: String,
}

/// Everything that a site's dnsmasq is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netboot {
    /// Interface to serve on, and no other.
    pub interface: String,
    /// This server's own address there: TFTP server and, with full DHCP, name server.
    pub server: Ipv4Addr,
    /// Prefix length of the subnet, 8 to 30.
    pub prefix: u8,
    /// Full DHCP or proxy.
    pub dhcp: Dhcp,
    /// Names answered by DNS (the controller's), with their addresses. Only with full DHCP.
    pub names: Vec<(String, Ipv4Addr)>,
    /// Fixed leases. Only with full DHCP.
    pub hosts: Vec<Host>,
    /// What UEFI PXE loads.
    pub uefi_pxe: UefiPxe,
    /// HTTP addresses.
    pub urls: BootUrls,
    /// Folder with [`BIOS_IPXE`], [`UEFI_IPXE`] and, for [`UefiPxe::Uki`], [`UKI`].
    pub tftp_root: PathBuf,
    /// Where leases are remembered.
    pub lease_file: PathBuf,
    /// Where dnsmasq writes its process id; none when it stays in the foreground.
    pub pid_file: Option<PathBuf>,
    /// The user to run as after opening its sockets.
    pub user: String,
}

impl Netboot {
    /// Checks every value before any of it is written.
    ///
    /// # Errors
    /// Names the first field that cannot be written.
    pub fn check(&self) -> Result<(), Error> {
        word("interface", &self.interface)?;
        word("user", &self.user)?;
        text("iPXE script URL", &self.urls.ipxe_script)?;
        text("UKI URL", &self.urls.uki)?;
        text("TFTP root", &self.tftp_root.to_string_lossy())?;
        text("lease file", &self.lease_file.to_string_lossy())?;
        if let Some(path) = &self.pid_file {
            text("pid file", &path.to_string_lossy())?;
        }
        for (name, _) in &self.names {
            word("DNS name", name)?;
        }
        for host in &self.hosts {
            word("host name", &host.name)?;
            mac(&host.mac)?;
        }
        self.check_range()
    }

    fn check_range(&self) -> Result<(), Error> {
        if !(8..=30).contains(&self.prefix) {
            return Err(refuse("prefix", &self.prefix.to_string(), "must be 8 to 30"));
        }
        let Dhcp::Full { first, last, lease_seconds, .. } = self.dhcp else { return Ok(()) };
        if lease_seconds < 120 {
            return Err(refuse("lease time", &lease_seconds.to_string(), "must be 120 seconds or more"));
        }
        let inside =
            |address: Ipv4Addr| (address.to_bits() ^ self.server.to_bits()) & self.mask().to_bits() == 0;
        if !inside(first) || !inside(last) || first > last {
            return Err(Error::Range { first, last, server: self.server, prefix: self.prefix });
        }
        Ok(())
    }

    /// The subnet mask.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }

    /// The subnet's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.server.to_bits() & self.mask().to_bits())
    }
}

fn refuse(field: &'static str, value: &str, reason: &'static str) -> Error {
    Error::Field { field, value: value.to_owned(), reason }
}

/// A value that stands alone between commas: no blank, comma, quote or control character.
fn word(field: &'static str, value: &str) -> Result<(), Error> {
    text(field, value)?;
    if value.contains([' ', '/']) { Err(refuse(field, value, "must be one word")) } else { Ok(()) }
}

/// A value that may hold spaces and slashes but cannot end its option.
fn text(field: &'static str, value: &str) -> Result<(), Error> {
    if value.is_empty() {
        return Err(refuse(field, value, "is empty"));
    }
    if value.len() > MAX_FIELD {
        return Err(refuse(field, value, "is longer than 512 bytes"));
    }
    // dnsmasq: `,` parts arguments, `"` and `\` quote, ` #` starts a comment, a newline ends the option.
    if value.contains([',', '"', '\\', '#']) || value.chars().any(char::is_control) {
        return Err(refuse(field, value, "holds a character with a meaning in dnsmasq.conf"));
    }
    Ok(())
}

fn mac(value: &str) -> Result<(), Error> {
    let octets: Vec<&str> = value.split(':').collect();
    let good =
        octets.len() == 6 && octets.iter().all(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
    if good { Ok(()) } else { Err(refuse("MAC address", value, "is not six hexadecimal octets")) }
}

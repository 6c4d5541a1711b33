//! The generated text, compared with files that a person has read, and judged by dnsmasq itself.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use cairn_image::toolbox::Toolbox;
use cairn_netboot::{BootUrls, Dhcp, Error, Host, Netboot, UefiPxe, dnsmasq, ipxe};
use proptest::prelude::*;

fn full() -> Netboot {
    Netboot {
        interface: "lab0".to_owned(),
        server: Ipv4Addr::new(10, 77, 0, 1),
        prefix: 24,
        dhcp: Dhcp::Full {
            first: Ipv4Addr::new(10, 77, 0, 100),
            last: Ipv4Addr::new(10, 77, 0, 199),
            router: None,
            lease_seconds: 3600,
            ping_first: true,
        },
        names: vec![("controller.cairn.test".to_owned(), Ipv4Addr::new(10, 77, 0, 1))],
        hosts: vec![Host {
            mac: "52:54:00:ca:00:01".to_owned(),
            address: Ipv4Addr::new(10, 77, 0, 11),
            name: "node-a".to_owned(),
        }],
        uefi_pxe: UefiPxe::Ipxe,
        urls: BootUrls::of_boot_service("http://10.77.0.1:8080/"),
        tftp_root: PathBuf::from("/srv/tftp"),
        lease_file: PathBuf::from("/var/lib/misc/cairn.leases"),
        pid_file: None,
        user: "dnsmasq".to_owned(),
    }
}

fn proxy() -> Netboot {
    Netboot { dhcp: Dhcp::Proxy, uefi_pxe: UefiPxe::Uki, names: vec![], hosts: vec![], ..full() }
}

/// Compares with `tests/golden/<name>`; `CAIRN_BLESS=1` writes it instead.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, want, "{} differs; CAIRN_BLESS=1 accepts the new text", path.display());
}

#[test]
fn configurations_are_as_read() {
    golden("full.conf", &dnsmasq::conf(&full()).unwrap());
    golden("proxy.conf", &dnsmasq::conf(&proxy()).unwrap());
}

#[test]
fn scripts_are_as_read() {
    let boot = ipxe::Boot {
        kernel: "http://10.77.0.1:8080/boot/vmlinuz",
        initrd: "http://10.77.0.1:8080/boot/initramfs.img",
        cmdline: "console=tty0 console=ttyS0",
    };
    golden("boot.ipxe", &ipxe::boot(&boot).unwrap());
    golden("local-disk.ipxe", &ipxe::local_disk());
    golden("chain.ipxe", &ipxe::chain("http://10.77.0.1:8080/boot/ipxe").unwrap());
}

#[test]
fn values_that_would_change_the_configuration_are_refused() {
    let cases: Vec<(&str, Netboot)> = vec![
        ("interface", Netboot { interface: "lab0\nlog-queries".to_owned(), ..full() }),
        ("interface", Netboot { interface: String::new(), ..full() }),
        ("user", Netboot { user: "a b".to_owned(), ..full() }),
        ("DNS name", Netboot { names: vec![("a,b".to_owned(), Ipv4Addr::LOCALHOST)], ..full() }),
        (
            "MAC address",
            Netboot {
                hosts: vec![Host { mac: "52:54:00:ca:00".to_owned(), ..full().hosts[0].clone() }],
                ..full()
            },
        ),
        (
            "MAC address",
            Netboot {
                hosts: vec![Host { mac: "52:54:00:ca:00:+1".to_owned(), ..full().hosts[0].clone() }],
                ..full()
            },
        ),
        ("prefix", Netboot { prefix: 31, ..full() }),
        ("TFTP root", Netboot { tftp_root: PathBuf::from("/srv/#tftp"), ..full() }),
    ];
    for (field, netboot) in cases {
        match dnsmasq::conf(&netboot) {
            Err(Error::Field { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let outside = Dhcp::Full {
        first: Ipv4Addr::new(10, 77, 0, 100),
        last: Ipv4Addr::new(10, 77, 1, 10),
        router: None,
        lease_seconds: 3600,
        ping_first: true,
    };
    assert!(matches!(dnsmasq::conf(&Netboot { dhcp: outside, ..full() }), Err(Error::Range { .. })));
    assert!(ipxe::chain("http://a/\nshell").is_err());
}

/// Runs the toolbox's dnsmasq's own check.
fn dnsmasq_accepts(conf: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dnsmasq.conf");
    std::fs::write(&path, conf).unwrap();
    let toolbox = Toolbox::ensure(&|line| eprintln!("{line}")).unwrap();
    let mut command = toolbox.enter().bind_ro(dir.path()).command("dnsmasq");
    let out = command.args(dnsmasq::check_args(&path)).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() && said.contains("syntax check OK") { Ok(()) } else { Err(said) }
}

#[test]
fn dnsmasq_accepts_what_is_written() {
    let Dhcp::Full { first, last, router, lease_seconds, .. } = full().dhcp else { panic!("not full") };
    let unpinged = Dhcp::Full { first, last, router, lease_seconds, ping_first: false };
    let unpinged = Netboot { dhcp: unpinged, ..full() };
    assert!(dnsmasq::conf(&unpinged).unwrap().contains("\nno-ping\n"));
    for netboot in [full(), proxy(), unpinged, Netboot { uefi_pxe: UefiPxe::Uki, ..full() }] {
        let conf = dnsmasq::conf(&netboot).unwrap();
        dnsmasq_accepts(&conf).unwrap_or_else(|said| panic!("{said}\n{conf}"));
    }
}

#[test]
fn dnsmasq_refuses_what_is_broken() {
    assert!(dnsmasq_accepts("dhcp-range=10.77.0.1,nonsense\n").is_err());
}

proptest! {
    /// No value can add a line: the number of lines depends only on how many names and hosts there are.
    #[test]
    fn no_value_adds_a_line(interface in ".{0,20}", url in ".{0,40}", name in ".{0,20}") {
        let mut netboot = full();
        let lines = dnsmasq::conf(&netboot).unwrap().lines().count();
        netboot.interface = interface;
        netboot.urls.ipxe_script = url;
        netboot.names[0].0 = name;
        if let Ok(conf) = dnsmasq::conf(&netboot) {
            prop_assert_eq!(conf.lines().count(), lines);
        }
    }
}

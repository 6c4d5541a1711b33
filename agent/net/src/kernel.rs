//! rtnetlink and sysctl: reads [`LinkFacts`], runs [`Op`]s, tells of changes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use cairn_protocol::netplan::Cidr;
use futures_util::stream::{Stream, TryStreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoBond, InfoBridge, InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBond, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVlan,
    MulticastGroup, RouteMessageBuilder,
};

use crate::facts::{AddressFact, Ipv6Facts, LinkFacts, PROTOCOL_DHCP, PROTOCOL_STATIC, Route};
use crate::made::{BondSetting, BridgeSetting, MODE_LACP, Made};
use crate::op::Op;

/// Where the kernel could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A dump failed.
    #[error("cannot read {what} by netlink")]
    Read {
        /// Links, addresses or routes.
        what: &'static str,
        /// The cause.
        #[source]
        source: rtnetlink::Error,
    },
    /// A step failed.
    #[error("{op}: {why}")]
    Step {
        /// The step, as [`Op`] shows it.
        op: String,
        /// The kernel's reason.
        why: String,
    },
}

/// Change notices of the kernel; their content is not used, only that they came.
pub type Notices = Box<dyn Stream<Item = ()> + Send + Unpin>;

/// A netlink connection and the place of sysctl.
#[derive(Clone)]
pub struct Kernel {
    handle: Handle,
    proc_sys: PathBuf,
    sysfs: PathBuf,
}

impl Kernel {
    /// Opens a connection in the caller's network namespace; its work runs as a task of the current tokio runtime.
    /// `proc_sys` is `/proc/sys`, `sysfs` is `/sys`.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub fn open(proc_sys: &Path, sysfs: &Path) -> Result<(Self, Notices), KernelError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(KernelError::Open)?;
        tokio::spawn(connection);
        let notices = futures_util::StreamExt::map(messages, |(message, _): (NetlinkMessage<_>, _)| {
            let _: NetlinkMessage<RouteNetlinkMessage> = message;
        });
        Ok((Self { handle, proc_sys: proc_sys.to_owned(), sysfs: sysfs.to_owned() }, Box::new(notices)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Reads all links with their addresses and routes, by index.
    ///
    /// # Errors
    /// [`KernelError::Read`].
    pub async fn facts(&self) -> Result<Vec<LinkFacts>, KernelError> {
        let read = |what| move |source| KernelError::Read { what, source };
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.map_err(read("links"))?;
        let mut facts: BTreeMap<u32, _> = BTreeMap::new();
        for message in &links {
            let mut link = link_facts(message);
            link.ipv6 = self.ipv6_facts(&link.name);
            link.driver = crate::links::driver(&self.sysfs, &link.name);
            facts.insert(link.index, link);
        }
        let names: BTreeMap<u32, String> =
            facts.iter().map(|(index, link): (_, &LinkFacts)| (*index, link.name.clone())).collect();
        for message in &links {
            if let Some(link) = facts.get_mut(&message.header.index) {
                relate(link, message, &names);
            }
        }
        let addresses: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(read("addresses"))?;
        for message in &addresses {
            if let Some(link) = facts.get_mut(&message.header.index) {
                link.addresses.extend(address_fact(message));
            }
        }
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let routes: Vec<_> =
                self.handle.route().get(query).execute().try_collect().await.map_err(read("routes"))?;
            for (index, route) in routes.iter().filter_map(route_fact) {
                if let Some(link) = facts.get_mut(&index) {
                    link.routes.push(route);
                }
            }
        }
        Ok(facts.into_values().collect())
    }

    fn sysctl(&self, link: &str, key: &str) -> PathBuf {
        self.proc_sys.join("net/ipv6/conf").join(link).join(key)
    }

    fn ipv6_facts(&self, link: &str) -> Ipv6Facts {
        let read = |key| std::fs::read_to_string(self.sysctl(link, key)).ok()?.trim().parse().ok();
        Ipv6Facts { accept_ra: read("accept_ra"), autoconf: read("autoconf") }
    }

    /// The index of a link that was there, or that a step has made since. A link that was made again has another
    /// index, so the kernel is asked first for those kinds.
    async fn index(&self, name: &str, links: &[LinkFacts]) -> Option<u32> {
        if let Some(link) = links.iter().find(|link| link.name == name && link.made.is_none()) {
            return Some(link.index);
        }
        let mut found = Box::pin(self.handle.link().get().match_name(name).execute());
        found.try_next().await.ok().flatten().map(|message| message.header.index)
    }

    /// Runs one step. `links` are the facts that the step was planned from.
    ///
    /// # Errors
    /// [`KernelError::Step`], naming the step.
    pub async fn run(&self, op: &Op, links: &[LinkFacts]) -> Result<(), KernelError> {
        let failed = |why: String| KernelError::Step { op: op.to_string(), why };
        let index = match op {
            Op::Make { .. } => 0,
            _ => self
                .index(op.link(), links)
                .await
                .ok_or_else(|| failed("the link is not there".to_owned()))?,
        };
        let set = |builder: LinkMessageBuilder<LinkUnspec>| {
            let message = builder.build();
            async move { self.handle.link().set(message).execute().await }
        };
        let done = match op {
            Op::Make { link, made } => {
                let below = match made {
                    Made::Vlan { link, .. } => Some(link),
                    Made::Bond(setting) => setting.primary.as_ref(),
                    Made::Bridge(_) => None,
                };
                let below = match below {
                    Some(name) => {
                        self.index(name, links).await.ok_or_else(|| failed(format!("{name} is not there")))?
                    }
                    None => 0,
                };
                self.handle.link().add(made_message(link, made, below)).execute().await
            }
            Op::Delete { .. } => gone(self.handle.link().del(index).execute().await),
            Op::Down { .. } => set(LinkUnspec::new_with_index(index).down()).await,
            Op::Join { master: None, .. } => set(LinkUnspec::new_with_index(index).nocontroller()).await,
            Op::Join { master: Some(master), .. } => {
                let master = self
                    .index(master, links)
                    .await
                    .ok_or_else(|| failed(format!("{master} is not there")))?;
                set(LinkUnspec::new_with_index(index).controller(master)).await
            }
            Op::Ipv6 { link, key, value } => {
                let path = self.sysctl(link, key);
                return std::fs::write(&path, value.to_string())
                    .map_err(|error| failed(format!("{}: {error}", path.display())));
            }
            Op::Mtu { mtu, .. } => set(LinkUnspec::new_with_index(index).mtu(*mtu)).await,
            Op::Up { .. } => set(LinkUnspec::new_with_index(index).up()).await,
            Op::SetAddress { cidr, seconds, .. } => {
                let mut request = self.handle.address().add(index, cidr.address(), cidr.prefix()).replace();
                // Preferred and valid; 0xffff_ffff is for ever (linux/if_addr.h).
                let mut life = CacheInfo::default();
                (life.ifa_preferred, life.ifa_valid) =
                    (seconds.unwrap_or(u32::MAX), seconds.unwrap_or(u32::MAX));
                request.message_mut().attributes.push(AddressAttribute::CacheInfo(life));
                request.execute().await
            }
            Op::DelAddress { cidr, .. } => {
                gone(self.handle.address().del(address_message(index, *cidr)).execute().await)
            }
            Op::AddRoute { route, .. } => {
                self.handle.route().add(route_message(index, route)).replace().execute().await
            }
            Op::DelRoute { route, .. } => {
                gone(self.handle.route().del(route_message(index, route)).execute().await)
            }
        };
        done.map_err(|error| failed(reason(&error)))
    }
}

/// The kernel's reason in words.
pub(crate) fn reason(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(-message.raw_code()).to_string()
        }
        other => other.to_string(),
    }
}

/// Removing what is gone already is done: the kernel drops routes with their addresses by itself.
pub(crate) fn gone(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    // ENOENT, ESRCH, EADDRNOTAVAIL (asm-generic/errno.h).
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if [-2, -3, -99].contains(&error.raw_code()) => Ok(()),
        other => other,
    }
}

fn link_facts(message: &LinkMessage) -> LinkFacts {
    let six = |bytes: &[u8]| <[u8; 6]>::try_from(bytes).ok();
    let mut facts = LinkFacts {
        index: message.header.index,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..LinkFacts::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Address(mac) => facts.mac = six(mac).unwrap_or_default(),
            LinkAttribute::PermAddress(mac) => facts.permanent_mac = six(mac),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        facts.kind = Some(kind.to_string());
                    }
                }
            }
            _ => {}
        }
    }
    facts
}

/// Fills in what needs the names of other links, and what kind of link it is.
fn relate(facts: &mut LinkFacts, message: &LinkMessage, names: &BTreeMap<u32, String>) {
    let name = |index: &u32| names.get(index).cloned();
    let (mut below, mut data) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Controller(index) => facts.master = name(index),
            LinkAttribute::Link(index) => below = name(index),
            LinkAttribute::LinkInfo(infos) => {
                data = infos
                    .iter()
                    .find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None });
            }
            _ => {}
        }
    }
    facts.made = match data {
        Some(InfoData::Vlan(infos)) => {
            let id = infos.iter().find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None });
            id.map(|id| Made::Vlan { id, link: below.unwrap_or_default() })
        }
        Some(InfoData::Bridge(infos)) => {
            let mut set = BridgeSetting::default();
            for info in infos {
                match info {
                    InfoBridge::StpState(state) => set.stp = *state != BridgeStpState::Disabled,
                    InfoBridge::ForwardDelay(delay) => set.forward_delay = Some(*delay),
                    _ => {}
                }
            }
            Some(Made::Bridge(set))
        }
        Some(InfoData::Bond(infos)) => {
            let mut set = BondSetting::default();
            for info in infos {
                match info {
                    InfoBond::Mode(mode) => set.mode = u8::from(*mode),
                    InfoBond::MiiMon(value) => set.miimon = *value,
                    InfoBond::AdLacpRate(rate) => set.lacp_rate = Some(u8::from(*rate)),
                    InfoBond::AdSelect(select) => set.ad_select = Some(u8::from(*select)),
                    InfoBond::MinLinks(value) => set.min_links = *value,
                    InfoBond::XmitHashPolicy(hash) => set.hash = u8::from(*hash),
                    InfoBond::UpDelay(value) => set.up_delay = *value,
                    InfoBond::DownDelay(value) => set.down_delay = *value,
                    InfoBond::Primary(index) => set.primary = name(index),
                    _ => {}
                }
            }
            // The kernel tells them for every mode; they mean something for one.
            if set.mode != MODE_LACP {
                (set.lacp_rate, set.ad_select) = (None, None);
            }
            Some(Made::Bond(set))
        }
        _ => None,
    };
}

/// The message that makes a link; `below` is the index of a VLAN's link or a bond's primary.
fn made_message(name: &str, made: &Made, below: u32) -> LinkMessage {
    match made {
        Made::Vlan { id, .. } => LinkVlan::new(name, below, *id).build(),
        Made::Bridge(set) => {
            let state = if set.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
            let builder = LinkBridge::new(name).stp_state(state);
            match set.forward_delay {
                Some(delay) => builder.forward_delay(delay).build(),
                None => builder.build(),
            }
        }
        Made::Bond(set) => {
            let mut builder = LinkBond::new(name)
                .mode(set.mode.into())
                .miimon(set.miimon)
                .min_links(set.min_links)
                .xmit_hash_policy(set.hash.into());
            // The kernel refuses delays that miimon does not divide, and LACP words without LACP.
            if set.up_delay > 0 {
                builder = builder.updelay(set.up_delay);
            }
            if set.down_delay > 0 {
                builder = builder.downdelay(set.down_delay);
            }
            if let (Some(rate), Some(select)) = (set.lacp_rate, set.ad_select) {
                builder = builder.ad_lacp_rate(rate.into()).ad_select(select.into());
            }
            if set.primary.is_some() {
                builder = builder.primary(below);
            }
            builder.build()
        }
    }
}

fn address_fact(message: &AddressMessage) -> Option<AddressFact> {
    let (mut address, mut local, mut seconds, mut flags) = (None, None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            // On a point-to-point link the address is the peer's and this one is ours.
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::CacheInfo(life) => seconds = Some(life.ifa_valid).filter(|s| *s != u32::MAX),
            AddressAttribute::Flags(set) => flags = *set,
            _ => {}
        }
    }
    let cidr = Cidr::new(local.or(address)?, message.header.prefix_len)?;
    Some(AddressFact {
        cidr,
        seconds,
        global: message.header.scope == AddressScope::Universe,
        automatic: !cidr.is_ipv4() && !flags.contains(AddressFlags::Permanent),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic),
    })
}

fn route_fact(message: &RouteMessage) -> Option<(u32, Route)> {
    let protocol = u8::from(message.header.protocol);
    if ![PROTOCOL_STATIC, PROTOCOL_DHCP].contains(&protocol) {
        return None;
    }
    let v4 = message.header.address_family == AddressFamily::Inet;
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut to, mut via, mut index, mut metric, mut table) =
        (None, None, None, 0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let to = Cidr::new(to.unwrap_or(any), message.header.destination_prefix_length)?;
    let on_link = message.header.flags.contains(RouteFlags::Onlink);
    Some((index?, Route { to, via, metric, table, on_link, protocol }))
}

pub(crate) fn address_message(index: u32, cidr: Cidr) -> AddressMessage {
    match cidr.address() {
        IpAddr::V4(ip) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, cidr.prefix()).build()
        }
        IpAddr::V6(ip) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(ip, cidr.prefix()).build()
        }
    }
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    fn finish<T>(builder: RouteMessageBuilder<T>, index: u32, route: &Route) -> RouteMessage {
        let mut builder = builder
            .output_interface(index)
            .table_id(route.table)
            .protocol(RouteProtocol::from(route.protocol))
            .scope(if route.via.is_none() && route.to.is_ipv4() {
                RouteScope::Link
            } else {
                RouteScope::Universe
            });
        if route.metric != 0 {
            builder = builder.priority(route.metric);
        }
        if route.on_link {
            builder = builder.onlink();
        }
        builder.build()
    }
    match route.to.address() {
        IpAddr::V4(to) => {
            let mut builder =
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, route.to.prefix());
            if let Some(IpAddr::V4(via)) = route.via {
                builder = builder.gateway(via);
            }
            finish(builder, index, route)
        }
        IpAddr::V6(to) => {
            let mut builder =
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, route.to.prefix());
            if let Some(IpAddr::V6(via)) = route.via {
                builder = builder.gateway(via);
            }
            finish(builder, index, route)
        }
    }
}

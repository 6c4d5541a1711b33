//! rtnetlink and sysctl: reads [`LinkFacts`], runs [`Op`]s, tells of changes.

mod read;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use futures_util::stream::{Stream, TryStreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, CacheInfo};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup, RouteMessageBuilder};

use self::read::{address_fact, link_facts, relate, route_fact};
pub(crate) use self::write::address_message;
use self::write::{made_message, route_message};
use crate::facts::{Ipv6Facts, LinkFacts};
use crate::made::Made;
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

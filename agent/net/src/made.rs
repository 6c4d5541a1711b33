//! Links that the plan makes: bonds, bridges, VLANs, with all defaults filled in so that they can be compared with
//! what the kernel has.

use std::fmt;

use cairn_protocol::netplan::{AdSelect, BondMode, BondParameters, BridgeParameters, LacpRate, TransmitHash};

/// A link that the plan makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A bond.
    Bond(BondSetting),
    /// A bridge.
    Bridge(BridgeSetting),
    /// A VLAN.
    Vlan {
        /// Its id.
        id: u16,
        /// The link below, by kernel name.
        link: String,
    },
}

/// A bond's parameters, enumerations as the kernel numbers them (linux/if_bonding.h).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BondSetting {
    /// `BOND_MODE_*`.
    pub mode: u8,
    /// Milliseconds.
    pub miimon: u32,
    /// 0 slow, 1 fast; `None` unless LACP.
    pub lacp_rate: Option<u8>,
    /// `BOND_AD_*`; `None` unless LACP.
    pub ad_select: Option<u8>,
    /// Members that must carry.
    pub min_links: u32,
    /// `BOND_XMIT_POLICY_*`.
    pub hash: u8,
    /// Milliseconds.
    pub up_delay: u32,
    /// Milliseconds.
    pub down_delay: u32,
    /// The preferred member, by kernel name.
    pub primary: Option<String>,
}

/// A bridge's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeSetting {
    /// Spanning tree.
    pub stp: bool,
    /// Hundredths of seconds, as the kernel counts; `None` leaves it.
    pub forward_delay: Option<u32>,
}

/// `BOND_MODE_8023AD`.
pub const MODE_LACP: u8 = 4;

impl BondSetting {
    /// The setting for `parameters`; `primary` is the kernel name of the preferred member.
    pub fn new(parameters: &BondParameters, primary: Option<String>) -> Self {
        let mode = match parameters.mode {
            BondMode::BalanceRr => 0,
            BondMode::ActiveBackup => 1,
            BondMode::BalanceXor => 2,
            BondMode::Broadcast => 3,
            BondMode::Lacp => MODE_LACP,
            BondMode::BalanceTlb => 5,
            BondMode::BalanceAlb => 6,
        };
        let lacp = mode == MODE_LACP;
        let rate = u8::from(parameters.lacp_rate == Some(LacpRate::Fast));
        let select = match parameters.ad_select {
            None | Some(AdSelect::Stable) => 0,
            Some(AdSelect::Bandwidth) => 1,
            Some(AdSelect::Count) => 2,
        };
        let hash = match parameters.transmit_hash_policy {
            None | Some(TransmitHash::Layer2) => 0,
            Some(TransmitHash::Layer34) => 1,
            Some(TransmitHash::Layer23) => 2,
            Some(TransmitHash::Encap23) => 3,
            Some(TransmitHash::Encap34) => 4,
        };
        Self {
            mode,
            miimon: parameters.mii_monitor(),
            lacp_rate: lacp.then_some(rate),
            ad_select: lacp.then_some(select),
            min_links: parameters.min_links.unwrap_or(1),
            hash,
            up_delay: parameters.up_delay.unwrap_or(0),
            down_delay: parameters.down_delay.unwrap_or(0),
            primary,
        }
    }
}

impl BridgeSetting {
    /// The setting for `parameters`.
    pub fn new(parameters: &BridgeParameters) -> Self {
        Self { stp: parameters.stp, forward_delay: parameters.forward_delay.map(|seconds| seconds * 100) }
    }
}

impl Made {
    /// Whether a link that the kernel has will do for this one. What the plan leaves open is not compared.
    pub fn is_met_by(&self, have: &Self) -> bool {
        match (self, have) {
            (Self::Bridge(want), Self::Bridge(have)) => {
                want.stp == have.stp
                    && want.forward_delay.is_none_or(|delay| have.forward_delay == Some(delay))
            }
            (want, have) => want == have,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bond(set) => {
                let mode = [
                    "balance-rr",
                    "active-backup",
                    "balance-xor",
                    "broadcast",
                    "802.3ad",
                    "balance-tlb",
                    "balance-alb",
                ];
                let mode = mode.get(usize::from(set.mode)).unwrap_or(&"?");
                write!(
                    f,
                    "bond mode {mode} miimon {} min-links {} hash {}",
                    set.miimon, set.min_links, set.hash
                )?;
                write!(f, " up-delay {} down-delay {}", set.up_delay, set.down_delay)?;
                if let (Some(rate), Some(select)) = (set.lacp_rate, set.ad_select) {
                    write!(f, " lacp-rate {rate} ad-select {select}")?;
                }
                set.primary.iter().try_for_each(|primary| write!(f, " primary {primary}"))
            }
            Self::Bridge(set) => {
                write!(f, "bridge stp {}", u8::from(set.stp))?;
                set.forward_delay.iter().try_for_each(|delay| write!(f, " forward-delay {delay}"))
            }
            Self::Vlan { id, link } => write!(f, "vlan {id} on {link}"),
        }
    }
}

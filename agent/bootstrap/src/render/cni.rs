//! The pod network: the reference CNI plugins on a bridge, and one rule of nftables for traffic that leaves the cluster.

use std::net::Ipv4Addr;

use cairn_protocol::netplan::Cidr;
use serde_json::json;

/// The bridge of a node's pods.
pub const BRIDGE: &str = "cni0";
/// Our table of nftables.
const TABLE: &str = "cairn-pods";

/// `/etc/cni/net.d/10-cairn.conflist`. `pods` is the node's own part of the pod network.
///
/// The bridge plugin's own masquerading is off: it would hide a pod's address from pods of other nodes too.
/// [`masquerade`] does it for what leaves the cluster alone.
pub fn conflist(pods: Cidr) -> String {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "cairn",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                // A node that joins another cluster gets another part of the pod network.
                "forceAddress": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",
                    "ranges": [[{ "subnet": pods.to_string() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{list:#}\n")
}

/// The program of nft(8) that replaces our table: what pods of this node send to addresses outside of the cluster leaves
/// with the node's address.
pub fn masquerade(pods: Cidr, pod_network: Cidr, node: Ipv4Addr) -> String {
    format!(
        "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n\
         \tcomment \"what leaves the cluster leaves with the address of node {node}\"\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr {pods} ip daddr != {pod_network} oifname != \"{BRIDGE}\" masquerade\n\
         \t}}\n}}\n"
    )
}

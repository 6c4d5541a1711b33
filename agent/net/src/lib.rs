//! Network of a node: netplan planner, rtnetlink, DHCP, resolver.

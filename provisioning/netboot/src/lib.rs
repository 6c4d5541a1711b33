//! Generates dnsmasq and iPXE configuration for netbooting nodes.

//! Configuration files as pure functions of [`crate::settings::Settings`]; golden files show each.

pub mod cni;
pub mod containerd;
pub mod kubeadm;
pub mod kubelet;

#[cfg(test)]
mod tests;

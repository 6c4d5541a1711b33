//! What UEFI firmware starts: the unified kernel image, and a USB stick that carries it.

pub mod uki;
pub mod usb;

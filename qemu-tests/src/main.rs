//! Racks of nodes in QEMU: switch, power, faults, assertions.

fn main() {}

//! How the agent is linked.

fn main() {
    // A static program that may be loaded anywhere carries a relocation for each pointer in its data, 24 bytes each; packed
    // they take 190 KB less. glibc applies them from 2.36 on (Debian 12).
    println!("cargo::rustc-link-arg-bin=cairn-agent=-Wl,-z,pack-relative-relocs");
    println!("cargo::rerun-if-changed=build.rs");
}

//! An `/init` that prints one line and powers off: what the kernel alone costs, for the boot benchmark to compare with.
//! Build it static, as the agent is.

/// What the benchmark waits for.
const LINE: &str = "cairn-print-init: up";

fn main() {
    println!("{LINE}");
    // Run by hand, as root, it must not switch off the developer's machine.
    if std::process::id() != 1 {
        return;
    }
    // Returns only on failure.
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    eprintln!("cairn-print-init: cannot power off: {error}");
}

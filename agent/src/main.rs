//! Cairn's Edge Agent: PID 1 in the initramfs, afterwards a service of the booted root.

fn main() -> std::process::ExitCode {
    cairn_agent::cli::main()
}

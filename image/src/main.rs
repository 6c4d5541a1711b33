//! `cairn-image`: the command line of the image builder.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}

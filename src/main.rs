//! The `nystream` command.

fn main() -> std::process::ExitCode {
    nystream::commands::main(std::env::args_os().collect()).into()
}

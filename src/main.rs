//! The `nystream` command.

fn main() -> std::process::ExitCode {
    nystream::exit::outlive_file_size_limits();
    nystream::allocator::share_one_heap();
    nystream::commands::main(std::env::args_os().collect()).into()
}

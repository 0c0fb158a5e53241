//! Parses the command line, runs, and exits with its code.

use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// Gives memory back after a peak, and packs many small things of the same size; see
/// ARCHITECTURE.md, "Dependencies".
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    herald::cli::main()
}

//! Parses the command line, runs, and exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    herald::cli::main()
}

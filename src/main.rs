//! The program: parse the command line, run the command, turn its error into an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use sipweir::cli::Cli;

/// The system's keeps what a peak of calls took for ever.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stderr, reason = "the one place that reports why the program ends")]
fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sipweir: {error}");
            ExitCode::from(&error)
        }
    }
}

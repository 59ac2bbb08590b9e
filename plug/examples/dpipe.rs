//! `dpipe`, as a program of its own, for tests.

use std::process::ExitCode;

use plug::pipe::{PipeError, Plan};
use program::messages::{speaker, start_log};

fn main() -> ExitCode {
    start_log();
    let outcome = Plan::parse(std::env::args_os().skip(1)).and_then(Plan::run);
    ExitCode::from(outcome.unwrap_or_else(|error: PipeError| {
        eprintln!("{}: {error}", speaker());
        error.exit_status()
    }))
}

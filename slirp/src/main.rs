//! `slirp`, and `slirp4netns`: reads the command line, and turns the outcome into an exit status.
//!
//! 0: a signal, the end of the link or the descriptor for it ended it. 1: something failed. 2: the command line makes no
//! sense (1 under the name `slirp4netns`). Each failure is one line on standard error.

use std::io::Write;
use std::process::ExitCode;

use program::messages::{invocation_name, speaker, start_log};
use slirp::cli::{self, Invocation};
use slirp::{setup, status};

fn main() -> ExitCode {
    start_log();
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let outcome = match cli::parse(&invocation_name(), words) {
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            return ExitCode::from(error.status());
        }
        Ok(Invocation::Print(text)) => std::io::stdout().write_all(text.as_bytes()).map_err(Into::into),
        Ok(Invocation::Status(request)) => status::show(&request).map_err(Into::into),
        Ok(Invocation::Run(plan)) => setup::run(*plan),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            ExitCode::FAILURE
        }
    }
}

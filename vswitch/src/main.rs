//! `vswitch`, and `vde_switch`: reads the command line, sets the switch up, and turns the outcome into an exit status.
//!
//! 0: a signal or the console ended it. 1: something failed. 2: the command line makes no sense. Each failure is one line
//! on standard error.

use std::io::Write;
use std::process::ExitCode;

use program::messages::{invocation_name, speaker, start_log};
use program::process::{self, PidFile};
use program::signals::Signals;
use vswitch::options::{self, Config, Invocation};
use vswitch::{set_up, watch};

fn main() -> ExitCode {
    start_log();
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let outcome = match options::parse(&invocation_name(), words) {
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            return ExitCode::from(2);
        }
        Ok(Invocation::Print(text)) => std::io::stdout().write_all(text.as_bytes()).map_err(Into::into),
        Ok(Invocation::Switch(config)) => run_switch(&config),
        Ok(Invocation::Watch(request)) => watch::ask(&request).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            ExitCode::FAILURE
        }
    }
}

fn run_switch(config: &Config) -> anyhow::Result<()> {
    // Each client has two.
    process::raise_descriptor_limit();
    process::sharpen_sleep();
    let background = if config.daemon { Some(process::daemonize()?) } else { None };
    let signals = Signals::block()?;
    let _pid_file = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let server = set_up(config, signals)?;
    if let Some(background) = background {
        background.detach()?;
    }
    Ok(server.run()?)
}

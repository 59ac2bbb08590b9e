//! `vmm`: reads the command line, puts the machine and its network together, and turns the outcome into an exit status.
//!
//! 0: the guest powered off, or was told to end. 1: something failed. 2: the command line makes no sense. Each failure is
//! one line on standard error.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use program::messages::{set_speaker, speaker, start_log};
use program::process::{self, PidFile};
use vmm::cli::{self, Invocation, Run};
use vmm::machine::{ExitReason, Machine};
use vmm::network::Network;
use vmm::{pci, virtio};

fn main() -> ExitCode {
    start_log();
    match cli::parse(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())) {
        Err(error) => {
            eprintln!("vmm: {error}");
            ExitCode::from(2)
        }
        Ok(Invocation::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Invocation::Run(run)) => match run_machine(*run) {
            Ok(reason) => {
                log::info!("machine: ended: {reason:?}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {error}", speaker());
                ExitCode::FAILURE
            }
        },
    }
}

fn run_machine(run: Run) -> anyhow::Result<ExitReason> {
    if let Some(name) = &run.machine.name {
        set_speaker(format!("vmm {name}"));
    }
    let background = if run.daemonize { Some(process::daemonize()?) } else { None };
    for warning in &run.network.warnings {
        eprintln!("{}: warning: {warning}", speaker());
    }
    let _pid_file = run.pidfile.as_deref().map(PidFile::create).transpose()?;
    let mut machine = Machine::new(&run.machine)?;
    let network = Network::open(run.network)?;
    let root = Arc::new(pci::Root::new(machine.hypervisor()));
    let cards = network.attach(&root, machine.memory())?;
    virtio::Rng::attach(&root, machine.memory().clone(), None)?;
    machine.attach_pci(&root)?;
    machine.on_stop(move || cards.stop());
    if let Some(background) = background {
        background.detach()?;
    }
    Ok(machine.run()?)
}

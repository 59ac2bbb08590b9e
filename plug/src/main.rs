//! `plug`, `vde_plug` and `dpipe`: reads the command line, joins the links, and turns the end into an exit status.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use nix::syslog::{Facility, LogFlags, Severity, openlog, syslog};
use nix::unistd::{Uid, User};
use plug::cli::{self, Invocation, JoinConfig};
use plug::pipe::{self, Plan};
use plug::{Ending, FaultKind, Join, Used};
use program::confine::confine;
use program::messages::{invocation_name, speaker, start_log};
use program::process::{self, PidFile};
use program::signals::Signals;

fn main() -> ExitCode {
    start_log();
    let mut words = std::env::args_os().skip(1).peekable();
    if invocation_name() == pipe::PROGRAM.name {
        return join_commands(words);
    }
    // Under VDE's name no word means something else than it did.
    if invocation_name() != cli::VDE_PLUG.name && words.next_if(|word| word == "pipe").is_some() {
        return join_commands(words);
    }
    let words = words.map(|word| word.to_string_lossy().into_owned());
    match cli::parse(&invocation_name(), words) {
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            ExitCode::from(error.status())
        }
        Ok(Invocation::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Invocation::Ask(path, line)) => match plug::control::ask(&path, &line) {
            Ok(answer) => {
                println!("{}", answer.trim_end());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {}: {}", speaker(), path.display(), link::reason(&error));
                ExitCode::FAILURE
            }
        },
        Ok(Invocation::Join(config)) => match join(*config) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                eprintln!("{}: {error}", speaker());
                ExitCode::FAILURE
            }
        },
    }
}

/// Is dpipe.
fn join_commands(words: impl Iterator<Item = OsString>) -> ExitCode {
    match Plan::parse(words).and_then(Plan::run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("{}: {error}", speaker());
            ExitCode::from(error.exit_status())
        }
    }
}

/// Joins two links until the end; returns the exit status.
fn join(config: JoinConfig) -> anyhow::Result<u8> {
    process::raise_descriptor_limit();
    let background = if config.daemon { Some(process::daemonize()?) } else { None };
    let signals = Signals::block()?;
    let _pid_file = config.pidfile.as_deref().map(PidFile::create).transpose()?;
    let [first, second] = config.links.map(plug::Spec::open);
    let links = match (first, second) {
        (Ok(first), Ok(second)) => [first, second],
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("{}: {error}", speaker());
            return Ok(error.kind().status());
        }
    };
    let mut join = Join::new(links, signals)?;
    if let Some(path) = &config.control {
        join.answer_at(path)?;
    }
    let log = config.syslog.then(SystemLog::start);
    if let Some(confinement) = &config.confinement {
        confine(confinement)?.log();
    }
    if let Some(background) = background {
        background.detach()?;
    }
    if let Some(log) = log.as_ref().filter(|_| config.iplog) {
        join.tell_addresses(log.teller());
    }
    let ending = join.run()?;
    for (name, counters) in join.counters() {
        let drops: Vec<_> = counters.drops.iter().map(|(reason, frames)| format!("{frames} {reason}")).collect();
        let (sent, received) = (counters.tx_frames, counters.rx_frames);
        log::info!("{name}: {sent} frames sent, {received} received; dropped: [{}]", drops.join(", "));
    }
    let Ending::Link(name, error) = ending else { return Ok(0) };
    let kind = FaultKind::of(&error);
    let words = if error.to_string().contains("://") { error.to_string() } else { format!("{name}: {error}") };
    if kind == FaultKind::Ended {
        log::info!("{words}");
    } else {
        eprintln!("{}: {words}", speaker());
    }
    Ok(kind.status())
}

/// A start and a stop in the system's log, in vde_plug's words.
struct SystemLog {
    user: String,
    /// From where ssh was used (ssh(1), SSH_CLIENT).
    client: String,
}

impl SystemLog {
    fn start() -> Self {
        // Without a system log nothing is said.
        let _ = openlog(None::<&std::ffi::CStr>, LogFlags::LOG_PID, Facility::LOG_USER);
        let user = User::from_uid(Uid::current()).ok().flatten();
        let user = user.map_or_else(|| Uid::current().to_string(), |user| user.name);
        let client = std::env::var("SSH_CLIENT").unwrap_or_default();
        let client = client.split(' ').next().filter(|word| !word.is_empty()).unwrap_or("UNKNOWN_IP_ADDRESS");
        let log = Self { user, client: client.escape_debug().to_string() };
        let _ = syslog(Severity::LOG_INFO, &format!("START: user {} IP {}", log.user, log.client));
        log
    }

    /// What is told of the addresses that are used.
    fn teller(&self) -> impl FnMut(Used) + 'static {
        let who = format!("user {} Real-IP {}", self.user, self.client);
        move |Used { address, vlan }| {
            let kind = if address.is_ipv4() { "VDE-IP4" } else { "VDE-IP6" };
            let _ = syslog(Severity::LOG_INFO, &format!("{who} has got {kind} {address} on vlan {vlan}"));
        }
    }
}

impl Drop for SystemLog {
    fn drop(&mut self) {
        let _ = syslog(Severity::LOG_INFO, &format!("STOP: user {} IP {}", self.user, self.client));
    }
}

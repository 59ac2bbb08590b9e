//! `vswitch`: a switch between the links named on the command line.
//!
//! Exit status 0 when a signal ends it, 1 when a port cannot be opened, 2 for a command line that makes no sense; each
//! failure is one line on standard error.

use std::io::{self, Write};
use std::process::ExitCode;

use link::Locator;
use plug::Hub;

const HELP: &str = "\
usage: vswitch [OPTION]...

Switches Ethernet frames between its ports until a signal (INT, TERM, HUP) ends it.

  -t, --tap NAME        a port on this TAP, which is made if it does not exist
      --port LOCATOR    a port on any link: tap://NAME, user://, pcap://FILE, null://
  -x, --hub             forward everything to everybody, learn nothing
      --version         print the version
  -h, --help            print this
";

/// A command line, understood.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    ports: Vec<Locator>,
    hub: bool,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("ETHERLOOM_LOG", "warn"))
        .format(|out, record| writeln!(out, "vswitch: {}", record.args()))
        .init();
    let arguments = match parse(std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())) {
        Ok(Ok(arguments)) => arguments,
        Ok(Err(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("vswitch: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vswitch: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to run, or what to print.
fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Result<Arguments, String>> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| anyhow::anyhow!("{word} needs an argument"));
        match word.as_str() {
            "-h" | "--help" => return Ok(Err(HELP.to_owned())),
            "--version" => return Ok(Err(format!("vswitch (Etherloom) {}\n", env!("CARGO_PKG_VERSION")))),
            "-x" | "--hub" => arguments.hub = true,
            "-t" | "--tap" => arguments.ports.push(format!("tap://{}?up=on", value()?).parse()?),
            "--port" => arguments.ports.push(value()?.parse()?),
            _ => anyhow::bail!("unknown option '{word}' (vswitch --help lists them)"),
        }
    }
    for port in &arguments.ports {
        plug::check(port)?;
    }
    anyhow::ensure!(!arguments.ports.is_empty(), "no port: -t TAP or --port LOCATOR is needed");
    Ok(Ok(arguments))
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Before the hub's thread is there, so that it inherits the mask.
    let signals = block_signals()?;
    let links = arguments.ports.iter().map(plug::open).collect::<Result<Vec<_>, _>>()?;
    let _hub = Hub::start(links)?;
    wait_for_signal(&signals)?;
    Ok(())
}

/// Blocks the signals that end a process, for [`wait_for_signal`].
fn block_signals() -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised just now.
    let mut set = unsafe { set.assume_init() };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the set is initialised and the signals exist.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: the set is initialised; the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn wait_for_signal(signals: &libc::sigset_t) -> io::Result<i32> {
    let mut signal = 0;
    // SAFETY: the set is initialised and `signal` has room for the answer.
    match unsafe { libc::sigwait(signals, &mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        parse(line.split_whitespace().map(str::to_owned)).unwrap_err().to_string()
    }

    #[test]
    fn ports_come_from_both_options() {
        let words = ["-t", "lab0", "--port", "null://", "--hub"].map(str::to_owned);
        let arguments = parse(words.into_iter()).unwrap().unwrap();
        assert_eq!(arguments.ports.iter().map(Locator::to_string).collect::<Vec<_>>(), ["tap://lab0?up=on", "null://"]);
        assert!(arguments.hub);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(error(""), "no port: -t TAP or --port LOCATOR is needed");
        assert_eq!(error("-t"), "-t needs an argument");
        assert_eq!(error("--prt x"), "unknown option '--prt' (vswitch --help lists them)");
        assert_eq!(
            error("--port tap0"),
            "'tap0' is not a locator: expected scheme://address, as in tap://tap0 or user://"
        );
        assert_eq!(error("--port hat://"), "unknown kind of link 'hat'");
    }
}

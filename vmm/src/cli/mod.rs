//! The command line: QEMU's words in, a validated [`Invocation`] out. Nothing is opened here.
//!
//! `table` lists the options, `network` gives the meaning of the `-net` family.

mod network;
mod table;

use std::path::PathBuf;

pub use network::{Attachment, NetworkPlan, NicPlan};
pub use table::{PROGRAM, help};

use program::options::{Item, OptionError, printable};

use crate::config::Config;
use network::NetworkOptions;

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Print text and exit 0 (`-help`, `-version`, `model=help`).
    Print(String),
    /// Run a machine.
    Run(Box<Run>),
}

/// A machine, its network, and how the process behaves.
#[derive(Debug)]
pub struct Run {
    /// The machine.
    pub machine: Config,
    /// Its network cards and what they are attached to.
    pub network: NetworkPlan,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
    /// Go to the background once everything is set up.
    pub daemonize: bool,
}

/// A command line that makes no sense: exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// No such option, or one without its argument.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Text where an option was expected.
    #[error(
        "unexpected argument '{}': disk images are not supported, a kernel is named by -kernel FILE",
        printable(.0)
    )]
    UnexpectedArgument(String),
    /// An option that may be given once.
    #[error("-{0} is given twice")]
    Twice(&'static str),
    /// A value that an option does not take.
    #[error("-{option} {value}: {why}")]
    BadValue {
        /// The option's name.
        option: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A part of a network option that its kind does not take.
    #[error("-{option} {source}")]
    Locator {
        /// The option's name.
        option: &'static str,
        /// What is wrong.
        source: link::LocatorError,
    },
    /// Options that exclude or need one another.
    #[error("{0}")]
    Conflict(&'static str),
    /// Names of the network options that do not fit together.
    #[error("{0}")]
    Network(String),
}

/// The default guest memory in MiB, as QEMU's.
const DEFAULT_MEMORY_MIB: u64 = 128;
const MIB: u64 = 1 << 20;
/// What the memory map of a 40-bit guest leaves for RAM.
const MAX_MEMORY: u64 = 512 << 30;
const MAX_CPUS: u8 = 254;

/// Reads a command line, without the program's name.
///
/// # Errors
/// [`UsageError`], one line that names the option.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    let mut raw = Raw::default();
    for item in PROGRAM.parse(arguments) {
        match item? {
            Item::Operand(word) => return Err(UsageError::UnexpectedArgument(word)),
            Item::Option(option, value) => match option.name() {
                "help" => return Ok(Invocation::Print(help())),
                "version" => return Ok(Invocation::Print(program::help::version(&PROGRAM))),
                name => raw.take(name, value.unwrap_or_default())?,
            },
        }
    }
    raw.finish()
}

/// The options as given, each parsed but not yet held against the others.
#[derive(Default)]
struct Raw {
    memory: Option<u64>,
    cpus: Option<u8>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    name: Option<String>,
    serial: Option<bool>,
    pidfile: Option<PathBuf>,
    nographic: bool,
    no_reboot: bool,
    daemonize: bool,
    network: NetworkOptions,
}

impl Raw {
    fn take(&mut self, option: &'static str, value: String) -> Result<(), UsageError> {
        match option {
            "m" => once(&mut self.memory, option, parse_memory(&value)?),
            "smp" => once(&mut self.cpus, option, parse_cpus(&value)?),
            "kernel" => once(&mut self.kernel, option, value.into()),
            "initrd" => once(&mut self.initrd, option, value.into()),
            "append" => once(&mut self.append, option, value),
            "name" => once(&mut self.name, option, parse_name(&value)?),
            "serial" => once(&mut self.serial, option, parse_serial(&value)?),
            "pidfile" => once(&mut self.pidfile, option, value.into()),
            "nographic" => switch(&mut self.nographic),
            "no-reboot" => switch(&mut self.no_reboot),
            "daemonize" => switch(&mut self.daemonize),
            "enable-kvm" => Ok(()),
            "cpu" => one_of(option, &value, &["host", "max"]),
            "accel" => one_of(option, &value, &["kvm"]),
            "display" | "vga" | "monitor" => one_of(option, &value, &["none"]),
            "M" | "machine" => parse_machine(option, &value),
            _ => self.network.take(option, &value),
        }
    }

    fn finish(self) -> Result<Invocation, UsageError> {
        if let Some(text) = self.network.model_help() {
            return Ok(Invocation::Print(text));
        }
        if self.daemonize && self.nographic {
            return Err(UsageError::Conflict("-nographic and -daemonize exclude each other"));
        }
        if self.daemonize && self.serial == Some(true) {
            return Err(UsageError::Conflict("-serial stdio and -daemonize exclude each other"));
        }
        let kernel = self.kernel.ok_or(UsageError::Conflict("no kernel: -kernel FILE is needed"))?;
        let machine = Config {
            memory: self.memory.unwrap_or(DEFAULT_MEMORY_MIB * MIB),
            cpus: self.cpus.unwrap_or(1),
            kernel,
            initrd: self.initrd,
            command_line: self.append.unwrap_or_default(),
            no_reboot: self.no_reboot,
            name: self.name,
            serial_stdio: self.serial.unwrap_or(!self.daemonize),
        };
        Ok(Invocation::Run(Box::new(Run {
            machine,
            network: self.network.plan()?,
            pidfile: self.pidfile,
            daemonize: self.daemonize,
        })))
    }
}

fn once<T>(place: &mut Option<T>, option: &'static str, value: T) -> Result<(), UsageError> {
    match place.replace(value) {
        Some(_) => Err(UsageError::Twice(option)),
        None => Ok(()),
    }
}

fn switch(place: &mut bool) -> Result<(), UsageError> {
    *place = true;
    Ok(())
}

fn bad(option: &'static str, value: &str, why: impl Into<String>) -> UsageError {
    UsageError::BadValue { option, value: value.to_owned(), why: why.into() }
}

fn one_of(option: &'static str, value: &str, allowed: &[&str]) -> Result<(), UsageError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(bad(option, value, format!("expected {}", allowed.join(" or "))))
}

fn parse_machine(option: &'static str, value: &str) -> Result<(), UsageError> {
    for part in value.split(',') {
        match part.split_once('=') {
            Some(("accel", "kvm")) => {}
            None | Some(("type", _)) => {
                let kind = part.strip_prefix("type=").unwrap_or(part);
                one_of(option, kind, &["pc", "q35", "microvm"])?;
            }
            Some((key, _)) => return Err(bad(option, value, format!("unknown property '{key}'"))),
        }
    }
    Ok(())
}

fn parse_memory(value: &str) -> Result<u64, UsageError> {
    let error = |why: &str| bad("m", value, why);
    let text = value.strip_prefix("size=").unwrap_or(value);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "" | "m" | "mb" => MIB,
        "k" | "kb" => 1 << 10,
        "g" | "gb" => 1 << 30,
        _ => return Err(error("expected a number of MiB, or a number with M or G")),
    };
    let count: u64 = digits.parse().map_err(|_| error("expected a number of MiB, or a number with M or G"))?;
    let bytes =
        count.checked_mul(unit).filter(|&bytes| bytes <= MAX_MEMORY).ok_or_else(|| error("more than 512 GiB"))?;
    if bytes < MIB {
        return Err(error("a guest needs at least 1 MiB of memory"));
    }
    Ok(bytes.next_multiple_of(4096))
}

fn parse_cpus(value: &str) -> Result<u8, UsageError> {
    let digits = value.strip_prefix("cpus=").unwrap_or(value);
    match digits.parse::<u64>() {
        Ok(count) => u8::try_from(count)
            .ok()
            .filter(|count| (1..=MAX_CPUS).contains(count))
            .ok_or_else(|| bad("smp", value, format!("a machine has 1 to {MAX_CPUS} virtual CPUs"))),
        Err(_) => Err(bad("smp", value, "expected a number of virtual CPUs")),
    }
}

fn parse_name(value: &str) -> Result<String, UsageError> {
    let name = value.strip_prefix("guest=").unwrap_or(value);
    if name.is_empty() || name.contains([',', '=']) {
        return Err(bad("name", value, "expected a name, without '=' or ','"));
    }
    Ok(name.to_owned())
}

fn parse_serial(value: &str) -> Result<bool, UsageError> {
    match value {
        "stdio" | "mon:stdio" => Ok(true),
        "none" | "null" => Ok(false),
        _ => Err(bad("serial", value, "expected stdio or none")),
    }
}

#[cfg(test)]
mod tests {
    use program::options::Style;

    use super::*;

    fn run(line: &str) -> Run {
        match parse(line.split_whitespace().map(str::to_owned)).unwrap() {
            Invocation::Run(run) => *run,
            Invocation::Print(text) => panic!("printed {text}"),
        }
    }

    fn error(line: &str) -> String {
        parse(line.split_whitespace().map(str::to_owned)).unwrap_err().to_string()
    }

    #[test]
    fn every_option_of_the_table_is_taken() {
        for option in PROGRAM.options() {
            let value = option.argument.value().map(|_| "1".to_owned());
            let outcome = parse([Some(option.dashed(Style::Qemu)), value].into_iter().flatten());
            assert!(!matches!(outcome, Err(UsageError::Option(_))), "{outcome:?}");
        }
    }

    #[test]
    fn defaults_are_qemus() {
        let run = run("-kernel k");
        assert_eq!(run.machine.memory, 128 << 20);
        assert_eq!(run.machine.cpus, 1);
        assert!(run.machine.serial_stdio);
        assert_eq!(run.network.nics.len(), 1);
    }

    #[test]
    fn sizes_take_suffixes_and_two_dashes_are_as_good_as_one() {
        assert_eq!(run("--kernel k -m 2G").machine.memory, 2 << 30);
        assert_eq!(run("-kernel k -m size=300M").machine.memory, 300 << 20);
        assert_eq!(run("-kernel k --smp cpus=4").machine.cpus, 4);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(error("-kernel k -m 0"), "-m 0: a guest needs at least 1 MiB of memory");
        assert_eq!(error("-kernel k -smp 0"), "-smp 0: a machine has 1 to 254 virtual CPUs");
        assert_eq!(error("-kernel k -nograpic"), "unknown option '-nograpic': did you mean -nographic?");
        assert_eq!(error("-kernel k -m 1 -m 2"), "-m is given twice");
        assert_eq!(error("-kernel"), "-kernel needs an argument: FILE");
        assert_eq!(error("-nographic"), "no kernel: -kernel FILE is needed");
        assert!(error("disk.img").starts_with("unexpected argument 'disk.img'"));
        assert_eq!(error("-kernel k -daemonize -nographic"), "-nographic and -daemonize exclude each other");
        assert_eq!(
            error("-kernel k -m 99999999999999999999"),
            "-m 99999999999999999999: expected a number of MiB, or a number with M or G"
        );
        assert_eq!(error("-kernel k -m 99999999"), "-m 99999999: more than 512 GiB");
    }
}

//! The command line: vde_switch's words and ours in, a validated [`Invocation`] out. Nothing is opened here.
//!
//! The options are vde_switch's (vde_switch(1), and its `--help`, which has more), read by getopt_long_only(3) as
//! there: one dash or two, unique abbreviations, the last of several wins. Ours yield to them where an abbreviation fits
//! both.
//! Run as `vde_switch` there are no commands, so that no word means something else than it did.
//!
//! Neighbours: `program::options` has the model, `main` and `watch` do what comes out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use link::{Locator, LocatorError, MacAddr};
use program::help;
use program::links::LINKS;
use program::options::{
    Command, Entries, Item, Operand, OptionError, OptionSpec, Program, Section, Style, Topic, Value, printable,
};

use crate::bridge::fdb::DEFAULT_AGEING;
use crate::console::command::{COMMANDS, Shape};
use crate::{PortId, VlanId};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print text and exit 0.
    Print(String),
    /// Be a switch.
    Switch(Box<Config>),
    /// Ask a switch that runs.
    Watch(WatchRequest),
}

/// A switch to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many ports there are, 1 to 65535.
    pub numports: u32,
    /// Whether every frame goes to every port.
    pub hub: bool,
    /// Whether spanning tree is on from the start.
    pub fstp: bool,
    /// The bridge priority (IEEE 802.1D-2004 §9.2.5).
    pub priority: u16,
    /// The switch's own address; otherwise it chooses one.
    pub mac: Option<MacAddr>,
    /// What to show as the size of the hash table, a power of two.
    pub hash_size: Option<usize>,
    /// The directory that clients join by.
    pub dir: PathBuf,
    /// The permissions of its control socket.
    pub mode: u32,
    /// The permissions of the directory. If they were not given, those of the control socket, with search where there
    /// is reading or writing, and set-group-ID.
    pub dir_mode: u32,
    /// The group that its sockets belong to, by name or number.
    pub group: Option<String>,
    /// Whether to go to the background.
    pub daemon: bool,
    /// Where to write the process id.
    pub pidfile: Option<PathBuf>,
    /// The console's commands to begin with; otherwise the first of the usual files that exists.
    pub rcfile: Option<PathBuf>,
    /// The management socket.
    pub mgmt: Option<PathBuf>,
    /// Its permissions.
    pub mgmt_mode: u32,
    /// The group it belongs to, by name or number.
    pub mgmt_group: Option<String>,
    /// Whether standard input is left alone: no console there, and its end does not end the switch.
    pub nostdin: bool,
    /// What to plug in, in the order given; every one has been held against its kind.
    pub ports: Vec<Locator>,
    /// Where to serve figures for Prometheus.
    pub metrics: Option<MetricsAddress>,
    /// How long a station is remembered without being heard.
    pub ageing: Duration,
    /// Whether multicast goes only where it is listened to.
    pub snooping: bool,
    /// Whether `vswitch show` and the other commands can ask this switch.
    pub api: bool,
}

/// Where figures are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A unix stream socket.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// A question to a switch that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// The directory of the switch.
    pub dir: PathBuf,
    /// What is asked.
    pub question: Question,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The ports and their rates.
    Show {
        /// As JSON.
        json: bool,
        /// Again and again, this long apart.
        every: Option<Duration>,
    },
    /// The stations.
    Mac {
        /// As JSON.
        json: bool,
    },
    /// Which way a frame would go, and why.
    Explain {
        /// Where it comes in; otherwise where its source was last heard.
        port: Option<PortId>,
        /// Its VLAN.
        vlan: VlanId,
        /// From whom.
        source: MacAddr,
        /// To whom.
        destination: MacAddr,
    },
    /// What happens, as it happens.
    Events {
        /// As JSON, a line each.
        json: bool,
    },
    /// The frames of a port, as pcapng.
    Dump {
        /// The port.
        port: PortId,
        /// Into this file; otherwise to standard output.
        file: Option<PathBuf>,
    },
}

/// A command line that makes no sense: exit status 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A word that fits no option, or an option that fits no word.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A value that an option does not take.
    #[error("{option} {}: {why}", printable(.value))]
    BadValue {
        /// The option, or what is given by position.
        option: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A link that does not exist, or not so.
    #[error("{option}: {}", printable(&.source.to_string()))]
    Locator {
        /// The option.
        option: &'static str,
        /// What is wrong.
        source: LocatorError,
    },
    /// A word where no word belongs.
    #[error("unexpected argument '{}'{hint}", printable(.word))]
    Unexpected {
        /// As given.
        word: String,
        /// What may have been meant, behind a colon.
        hint: String,
    },
    /// A command without something that it needs.
    #[error("{command} needs {operand}")]
    Missing {
        /// The command.
        command: &'static str,
        /// What it needs.
        operand: &'static str,
    },
    /// Options that exclude one another.
    #[error("{0}")]
    Conflict(&'static str),
}

/// The name under which the switch is only what vde_switch was.
const DROP_IN: &str = "vde_switch";

/// Reads a command line, without the program's name, for the program run under that name.
///
/// # Errors
/// [`UsageError`], one line that names the option.
pub fn parse(name_run_under: &str, words: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    let program = if name_run_under == DROP_IN { &VDE_SWITCH } else { &PROGRAM };
    let mut words = words.into_iter().peekable();
    match words.peek().and_then(|word| program.command(word)) {
        Some(command) => {
            words.next();
            parse_command(program, command, words)
        }
        None => parse_switch(program, words),
    }
}

/// The console's commands and what they do, for the man page.
fn console_commands() -> Vec<(String, &'static str)> {
    let commands = COMMANDS.iter().filter(|entry| entry.shape != Shape::Menu);
    commands.map(|entry| (format!("{} {}", entry.path, entry.syntax).trim_end().to_owned(), entry.help)).collect()
}

/// The directory of a switch that was not told another, as vde_switch's.
#[must_use]
pub fn default_dir() -> PathBuf {
    // SAFETY: takes nothing and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    PathBuf::from(if is_root { "/var/run/vde.ctl" } else { "/tmp/vde.ctl" })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            numports: 32,
            hub: false,
            fstp: false,
            priority: 0x8000,
            mac: None,
            hash_size: None,
            dir: default_dir(),
            mode: 0o600,
            dir_mode: 0o2700,
            group: None,
            daemon: false,
            pidfile: None,
            rcfile: None,
            mgmt: None,
            mgmt_mode: 0o600,
            mgmt_group: None,
            nostdin: false,
            ports: Vec::new(),
            metrics: None,
            ageing: DEFAULT_AGEING,
            snooping: false,
            api: true,
        }
    }
}

const HELP: OptionSpec = OptionSpec::new(&["help"], "Print this and exit.").short('h');
const DIR: OptionSpec = OptionSpec::new(
    &["sock", "vdesock", "unix"],
    "The directory of the switch to ask. The default is the same as the switch's.",
)
.short('s')
.takes("DIR", Value::Directory);
const JSON: OptionSpec = OptionSpec::new(&["json"], "Answer in JSON.").short('j');

/// The program and its options, as `vswitch`.
pub static PROGRAM: Program = Program {
    name: "vswitch",
    summary: "virtual Ethernet switch",
    style: Style::Gnu,
    usage: &["[OPTION]..."],
    description: &[
        "Switches Ethernet frames between virtual machines, TAPs, network namespaces and other links. Whatever \
         joins a VDE switch joins this one, by the directory that -s names: vde_plug, QEMU's -netdev vde, User-mode \
         Linux, vmm. Offloaded checksums and segments of up to 64 KiB pass between links that take them.",
        "Without a command it is a switch. Its console is on standard input and output, with vde_switch's commands \
         (help lists them), and on the socket that --mgmt names, for unixterm. The end of standard input ends the \
         switch, unless --daemon or --nostdin is given; so do the signals TERM, INT, HUP and QUIT.",
        "A command asks a switch that runs.",
        "Options may have one dash or two, and their names may be abbreviated. Of an option given several times the \
         last counts, but --tap and --port add up. Run under the name vde_switch it has the same options and no \
         commands.",
    ],
    topics: &[
        Topic {
            title: "Switching",
            options: &[
                OptionSpec::new(&["numports"], "How many ports there are, 1 to 65535 (default 32).")
                    .short('n')
                    .takes("N", Value::Text),
                OptionSpec::new(&["hub"], "Be a hub: every frame goes to every port.").short('x'),
                OptionSpec::new(
                    &["fstp"],
                    "Turn on the rapid spanning tree protocol (IEEE 802.1D-2004), which speaks STP to older bridges.",
                )
                .short('F'),
                OptionSpec::new(&["rstp"], "The same, by the name of the standard.").yields(),
                OptionSpec::new(
                    &["priority"],
                    "The bridge priority in the spanning tree, 0 to 65535 (default 32768). The lowest is the root.",
                )
                .takes("N", Value::Text),
                OptionSpec::new(&["macaddr"], "The switch's own address (default: a random one).")
                    .takes("MAC", Value::Text),
                OptionSpec::new(
                    &["hashsize"],
                    "The size of the hash table, rounded up to a power of two. It is shown on the console; the table \
                     grows as it needs.",
                )
                .takes("N", Value::Text),
                OptionSpec::new(
                    &["ageing"],
                    "How long a station is remembered without being heard, 1 to 1000000 seconds (default 300).",
                )
                .takes("SECONDS", Value::Text)
                .yields(),
                OptionSpec::new(
                    &["snooping"],
                    "IGMP and MLD snooping: multicast goes only to ports where somebody listens, and to routers.",
                )
                .yields(),
            ],
        },
        Topic {
            title: "Ports",
            options: &[
                OptionSpec::new(
                    &["tap"],
                    "A port on this TAP interface, which is made if it does not exist, and brought up if that is \
                     permitted. Repeatable.",
                )
                .short('t')
                .takes("TAP", Value::Interface)
                .repeatable(),
                OptionSpec::new(
                    &["persist"],
                    "Keep the TAPs of --tap when the switch ends. Without either option each stays as it is: one that \
                     the switch made goes.",
                )
                .yields(),
                OptionSpec::new(&["no-persist"], "Let the TAPs of --tap go when the switch ends.").yields(),
                OptionSpec::new(&["port"], "A port on this link, as in user:// for the user-mode NAT. Repeatable.")
                    .takes("LINK", Value::Locator)
                    .repeatable()
                    .yields(),
            ],
        },
        Topic {
            title: "Clients",
            options: &[
                OptionSpec::new(
                    &["sock", "vdesock", "unix"],
                    "The directory that clients join by (default /var/run/vde.ctl for root, else /tmp/vde.ctl).",
                )
                .short('s')
                .takes("DIR", Value::Directory),
                OptionSpec::new(&["mode"], "The permissions of the sockets there, in octal (default 0600).")
                    .short('m')
                    .takes("MODE", Value::Text),
                OptionSpec::new(
                    &["dirmode"],
                    "The permissions of the directory, in octal (default: those of --mode, with search where there is \
                     reading or writing, and set-group-ID: 02700).",
                )
                .takes("MODE", Value::Text),
                OptionSpec::new(&["group"], "The group that the directory and its sockets belong to.")
                    .short('g')
                    .takes("GROUP", Value::Group),
            ],
        },
        Topic {
            title: "Console",
            options: &[
                OptionSpec::new(
                    &["rcfile"],
                    "Run this file's console commands first (default ~/.vde2/vde_switch.rc, else \
                     /etc/vde2/vde_switch.rc).",
                )
                .short('f')
                .takes("FILE", Value::File),
                OptionSpec::new(&["mgmt"], "A socket for consoles.").short('M').takes("SOCK", Value::File),
                OptionSpec::new(&["mgmtmode"], "Its permissions, in octal (default 0600).").takes("MODE", Value::Text),
                OptionSpec::new(&["mgmtgroup"], "The group it belongs to.").takes("GROUP", Value::Group),
                OptionSpec::new(&["nostdin"], "No console on standard input, and its end does not end the switch."),
                OptionSpec::new(
                    &["debugclients"],
                    "Accepted for the sake of existing scripts: any number of consoles may follow what happens.",
                )
                .short('D')
                .takes("N", Value::Text),
            ],
        },
        Topic {
            title: "Watching",
            options: &[
                OptionSpec::new(
                    &["metrics"],
                    "Serve figures for Prometheus on a unix socket (unix:PATH) or a loopback address \
                     (127.0.0.1:PORT).",
                )
                .takes("ADDRESS", Value::Choice(&["unix:", "127.0.0.1:", "[::1]:"]))
                .yields(),
                OptionSpec::new(&["no-api"], "Let no command ask this switch.").yields(),
            ],
        },
        Topic {
            title: "Process",
            options: &[
                OptionSpec::new(&["daemon"], "Go to the background once every port is open.").short('d'),
                OptionSpec::new(&["pidfile"], "Write the process id to this file, and remove it at the end.")
                    .short('p')
                    .takes("FILE", Value::File),
                HELP,
                OptionSpec::new(&["version"], "Print the version and exit.").short('v'),
            ],
        },
    ],
    commands: &[
        Command {
            name: "show",
            summary: "the ports: what is plugged in, state, rates, drops by reason",
            description: &[
                "Shows each port: its name, kind and peer, its state and VLANs, its rates, and what it has \
                            dropped and why.",
            ],
            options: &[
                DIR,
                JSON,
                OptionSpec::new(
                    &["watch"],
                    "Show it again and again, this long apart (default 1 second), until interrupted.",
                )
                .short('w')
                .may_take("SECONDS", Value::Text),
                HELP,
            ],
            operands: &[],
        },
        Command {
            name: "mac",
            summary: "the stations: where each was last heard",
            description: &["Lists the stations: address, VLAN, port, and how long ago each was heard."],
            options: &[DIR, JSON, HELP],
            operands: &[],
        },
        Command {
            name: "explain",
            summary: "which way a frame would go, and why",
            description: &["Says which way a frame from one address to another would go, and why. No frame is sent."],
            options: &[
                DIR,
                OptionSpec::new(&["port"], "The port it comes in by (default: where SRC was last heard).")
                    .short('p')
                    .takes("N", Value::Text),
                OptionSpec::new(&["vlan"], "The VLAN of its tag, 0 to 4094 (default 0, untagged).")
                    .short('V')
                    .takes("VLAN", Value::Text),
                HELP,
            ],
            operands: &[Operand { name: "SRC", value: Value::Text }, Operand { name: "DST", value: Value::Text }],
        },
        Command {
            name: "events",
            summary: "what happens, as it happens",
            description: &[
                "Prints a line for each change of state, as it happens: a client that joins, a station that \
                            moves, a port that spanning tree blocks.",
            ],
            options: &[DIR, JSON, HELP],
            operands: &[],
        },
        Command {
            name: "dump",
            summary: "the frames of a port, as pcapng",
            description: &["Writes what passes a port to standard output, as pcapng, until interrupted."],
            options: &[
                DIR,
                OptionSpec::new(&["write"], "Write to this file instead.").short('w').takes("FILE", Value::File),
                HELP,
            ],
            operands: &[Operand { name: "PORT", value: Value::Text }],
        },
    ],

    operands: &[],
    schemes: LINKS,
    sections: &[
        Section { title: "CONSOLE COMMANDS", entries: Entries::Made(console_commands) },
        Section { title: "SETTINGS OF IMPAIR LINKS", entries: Entries::Made(plug::impair::documentation) },
    ],
    exit_statuses: &[
        ("0", "The switch was told to end, or the question was answered."),
        ("1", "Something failed; one line on standard error says what."),
        ("2", "The command line makes no sense; one line on standard error says why."),
    ],
    files: &[
        (
            "/var/run/vde.ctl, /tmp/vde.ctl",
            "The directory of a switch that was not told another: root's, and everyone else's.",
        ),
        ("DIR/ctl", "The control socket that clients connect to."),
        (
            "DIR/api",
            "The socket that the commands and other programs ask, in lines of JSON. It has the permissions of DIR/ctl.",
        ),
        (
            "~/.vde2/vde_switch.rc, /etc/vde2/vde_switch.rc",
            "Console commands to begin with, if --rcfile names no other file; the first that exists.",
        ),
    ],
    environment: &[(
        "ETHERLOOM_LOG",
        "How much is said on standard error: error, warn (the default), info, debug or trace.",
    )],
    examples: &[
        (
            "A switch for virtual machines and the host, with a way out through the user-mode NAT:",
            "vswitch -s /tmp/lab -t tap0 --port user://",
        ),
        (
            "The same for everyone in the group kvm, in the background, with a console that unixterm opens:",
            "vswitch -d -s /run/lab -m 660 -g kvm -t tap0 -M /run/lab.mgmt -p /run/lab.pid",
        ),
        ("QEMU joins it:", "qemu-system-x86_64 -netdev vde,id=n0,sock=/tmp/lab -device virtio-net-pci,netdev=n0"),
        ("What the ports carry, every two seconds:", "vswitch show -s /tmp/lab --watch=2"),
        ("A port in Wireshark:", "vswitch dump -s /tmp/lab 3 | wireshark -k -i -"),
    ],
    see_also: &["vmm(1)", "vde_plug(1)", "unixterm(1)"],
};

/// The program as `vde_switch`: nothing but options.
static VDE_SWITCH: Program = Program {
    name: DROP_IN,
    description: &[
        "Switches Ethernet frames between the clients that join by the directory that -s names, TAPs and other links. \
         The console is on standard input; help lists its commands. This is vswitch; vswitch --help says more.",
    ],
    commands: &[],
    ..PROGRAM
};

fn parse_switch(program: &Program, words: impl Iterator<Item = String>) -> Result<Invocation, UsageError> {
    let mut raw = Raw::default();
    for item in program.parse(words) {
        match item? {
            Item::Operand(word) => return Err(unexpected(program, word)),
            Item::Option(option, value) => match (option.name(), value.unwrap_or_default()) {
                ("help", _) => return Ok(Invocation::Print(help::program(program))),
                ("version", _) => return Ok(Invocation::Print(help::version(program))),
                (name, value) => raw.take(name, value)?,
            },
        }
    }
    Ok(Invocation::Switch(Box::new(raw.finish()?)))
}

fn unexpected(program: &Program, word: String) -> UsageError {
    let hint = match (program.command(&word), program.nearest_command(&word)) {
        (Some(_), _) => ": a command is the first word".to_owned(),
        (None, Some(command)) => format!(": did you mean {command}?"),
        (None, None) => String::new(),
    };
    UsageError::Unexpected { word, hint }
}

/// A switch's options as given, each parsed but not yet held against the others.
#[derive(Default)]
struct Raw {
    config: Config,
    dir_mode: Option<u32>,
    /// `--persist` or `--no-persist`.
    persist: Option<bool>,
    ports: Vec<Port>,
}

/// A port as it was asked for.
enum Port {
    Tap(String),
    Link(Locator),
}

impl Raw {
    fn take(&mut self, option: &'static str, value: String) -> Result<(), UsageError> {
        let config = &mut self.config;
        match option {
            "numports" => config.numports = number("--numports", &value, 1, 65535)?,
            "hub" => config.hub = true,
            "fstp" | "rstp" => config.fstp = true,
            "priority" => config.priority = number("--priority", &value, 0, u16::MAX)?,
            "macaddr" => config.mac = Some(station("--macaddr", &value)?),
            "hashsize" => config.hash_size = Some(hash_size(&value)?),
            "ageing" => config.ageing = Duration::from_secs(number("--ageing", &value, 1, 1_000_000)?),
            "snooping" => config.snooping = true,
            "tap" => self.ports.push(Port::Tap(interface(value)?)),
            "persist" => return self.persist(true),
            "no-persist" => return self.persist(false),
            "port" => self.ports.push(Port::Link(locator("--port", &value)?)),
            "sock" => config.dir = path("--sock", value)?,
            "mode" => config.mode = permissions("--mode", &value, 0o777)?,
            "dirmode" => self.dir_mode = Some(permissions("--dirmode", &value, 0o7777)?),
            "group" => config.group = Some(group("--group", value)?),
            "rcfile" => config.rcfile = Some(path("--rcfile", value)?),
            "mgmt" => config.mgmt = Some(path("--mgmt", value)?),
            "mgmtmode" => config.mgmt_mode = permissions("--mgmtmode", &value, 0o777)?,
            "mgmtgroup" => config.mgmt_group = Some(group("--mgmtgroup", value)?),
            "nostdin" => config.nostdin = true,
            "debugclients" => {
                number("--debugclients", &value, 0, u32::MAX)?;
            }
            "metrics" => config.metrics = Some(metrics(value)?),
            "no-api" => config.api = false,
            "daemon" => config.daemon = true,
            "pidfile" => config.pidfile = Some(path("--pidfile", value)?),
            _ => unreachable!("--{option} is in the table but nobody takes it"),
        }
        Ok(())
    }

    fn persist(&mut self, persist: bool) -> Result<(), UsageError> {
        match self.persist.replace(persist) {
            Some(before) if before != persist => {
                Err(UsageError::Conflict("--persist and --no-persist exclude each other"))
            }
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<Config, UsageError> {
        let mut config = self.config;
        config.dir_mode = self.dir_mode.unwrap_or_else(|| directory_mode(config.mode));
        for port in self.ports {
            config.ports.push(match port {
                Port::Link(locator) => locator,
                Port::Tap(name) => tap(&name, self.persist)?,
            });
        }
        Ok(config)
    }
}

/// What vde_switch makes of the mode of its sockets for the directory that they are in.
fn directory_mode(mode: u32) -> u32 {
    0o2000 | (mode & 0o666) | (mode & 0o444) >> 2 | (mode & 0o222) >> 1
}

fn tap(name: &str, persist: Option<bool>) -> Result<Locator, UsageError> {
    let persist = match persist {
        Some(true) => "&persist=on",
        Some(false) => "&persist=off",
        None => "",
    };
    locator("--tap", &format!("tap://{name}?up=try{persist}"))
}

fn parse_command(
    program: &'static Program,
    command: &'static Command,
    words: impl Iterator<Item = String>,
) -> Result<Invocation, UsageError> {
    let mut options = CommandOptions::default();
    let mut operands = Vec::new();
    for item in program.parse_command(command, words) {
        match item? {
            Item::Operand(word) if operands.len() < command.operands.len() => operands.push(word),
            Item::Operand(word) => return Err(UsageError::Unexpected { word, hint: String::new() }),
            Item::Option(option, value) if option.name() == "help" => {
                debug_assert!(value.is_none());
                return Ok(Invocation::Print(help::command(program, command)));
            }
            Item::Option(option, value) => options.take(option.name(), value)?,
        }
    }
    if let Some(missing) = command.operands.get(operands.len()) {
        return Err(UsageError::Missing { command: command.name, operand: missing.name });
    }
    let dir = options.dir.take().unwrap_or_else(default_dir);
    Ok(Invocation::Watch(WatchRequest { dir, question: options.finish(command, &operands)? }))
}

/// The options of the commands; each command's table has those it takes.
#[derive(Default)]
struct CommandOptions {
    dir: Option<PathBuf>,
    json: bool,
    every: Option<Duration>,
    port: Option<PortId>,
    vlan: VlanId,
    file: Option<PathBuf>,
}

impl CommandOptions {
    fn take(&mut self, option: &'static str, value: Option<String>) -> Result<(), UsageError> {
        match (option, value.unwrap_or_default()) {
            ("sock", value) => self.dir = Some(path("--sock", value)?),
            ("json", _) => self.json = true,
            ("watch", value) => self.every = Some(interval(&value)?),
            ("port", value) => self.port = Some(parsed("--port", &value)?),
            ("vlan", value) => self.vlan = parsed("--vlan", &value)?,
            ("write", value) => self.file = Some(path("--write", value)?),
            _ => unreachable!("--{option} is in the table but nobody takes it"),
        }
        Ok(())
    }

    fn finish(self, command: &Command, operands: &[String]) -> Result<Question, UsageError> {
        let Self { json, every, port, vlan, file, .. } = self;
        Ok(match (command.name, operands) {
            ("show", []) => Question::Show { json, every },
            ("mac", []) => Question::Mac { json },
            ("explain", [source, destination]) => Question::Explain {
                port,
                vlan,
                source: station("SRC", source)?,
                destination: parsed("DST", destination)?,
            },
            ("events", []) => Question::Events { json },
            ("dump", [port]) => Question::Dump { port: parsed("PORT", port)?, file },
            (name, _) => unreachable!("{name} is in the table but nobody answers it"),
        })
    }
}

fn bad(option: &'static str, value: &str, why: impl Into<String>) -> UsageError {
    UsageError::BadValue { option, value: value.to_owned(), why: why.into() }
}

fn number<T: TryFrom<u64> + Into<u64> + Copy>(
    option: &'static str,
    value: &str,
    least: T,
    most: T,
) -> Result<T, UsageError> {
    let range = least.into()..=most.into();
    let number = value.parse().ok().filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| bad(option, value, format!("expected a number, {} to {}", range.start(), range.end())))
}

/// A size as vde_switch rounds it.
fn hash_size(value: &str) -> Result<usize, UsageError> {
    let size: u32 = number("--hashsize", value, 1, 1 << 30)?;
    Ok(size.next_power_of_two() as usize)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(option: &'static str, value: &str) -> Result<T, UsageError> {
    value.parse().map_err(|error: T::Err| bad(option, value, error.to_string()))
}

/// An address that one station can have.
fn station(option: &'static str, value: &str) -> Result<MacAddr, UsageError> {
    let address: MacAddr = parsed(option, value)?;
    if address.is_multicast() {
        return Err(bad(option, value, "a station's address cannot be a group address"));
    }
    Ok(address)
}

fn permissions(option: &'static str, value: &str, most: u32) -> Result<u32, UsageError> {
    let digits = Some(value).filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    let mode = digits.and_then(|text| u32::from_str_radix(text, 8).ok()).filter(|mode| *mode <= most);
    mode.ok_or_else(|| bad(option, value, format!("expected permissions in octal, 0 to {most:o}")))
}

fn path(option: &'static str, value: String) -> Result<PathBuf, UsageError> {
    if value.is_empty() {
        return Err(bad(option, "''", "expected a path"));
    }
    Ok(value.into())
}

fn group(option: &'static str, value: String) -> Result<String, UsageError> {
    if value.is_empty() {
        return Err(bad(option, "''", "expected the name of a group"));
    }
    Ok(value)
}

/// The name of an interface (Linux dev_valid_name), without what would end a locator's address.
fn interface(name: String) -> Result<String, UsageError> {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '?');
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name == "." || name == ".." || name.contains(is_odd) {
        return Err(bad("--tap", &name, "expected the name of an interface, 1 to 15 bytes"));
    }
    Ok(name)
}

fn locator(option: &'static str, text: &str) -> Result<Locator, UsageError> {
    let locator = text.parse().and_then(|locator| plug::check(&locator).map(|()| locator));
    locator.map_err(|source| UsageError::Locator { option, source })
}

fn metrics(value: String) -> Result<MetricsAddress, UsageError> {
    if let Some(path) = value.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(MetricsAddress::Unix(path.into()));
    }
    match value.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(MetricsAddress::Tcp(address)),
        Ok(_) => Err(bad("--metrics", &value, "only a loopback address: the figures are for this host")),
        Err(_) => Err(bad("--metrics", &value, "expected unix:PATH or 127.0.0.1:PORT")),
    }
}

/// How long apart, a second unless told.
fn interval(value: &str) -> Result<Duration, UsageError> {
    if value.is_empty() {
        return Ok(Duration::from_secs(1));
    }
    let seconds = value.parse().ok().filter(|seconds| (0.1..=86400.0).contains(seconds));
    let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    interval.ok_or_else(|| bad("--watch", value, "expected seconds, 0.1 to 86400"))
}

#[cfg(test)]
#[path = "options_test.rs"]
mod tests;

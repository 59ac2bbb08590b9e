//! The command lines of `plug` and `vde_plug`: words in, an [`Invocation`] out. Nothing is opened here.
//!
//! Neighbours: `program::options` has the model, `main` does what comes out, `spec` knows what a locator means.

use std::path::PathBuf;

use link::{Locator, LocatorError};
use program::confine::Confinement;
use program::help;
use program::links::LINKS;
use program::options::{
    Command, Entries, Item, Operand, OptionError, OptionSpec, Program, Section, Style, Topic, Value, printable,
};

use crate::reconnect::Pauses;
use crate::replaced;
use crate::{NeedsMore, Spec, StdioRole, needs};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print text and exit 0.
    Print(String),
    /// Join two links.
    Join(Box<JoinConfig>),
    /// Say a line at the control socket of a cable or an impaired link.
    Ask(PathBuf, String),
}

/// Two links to be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinConfig {
    /// The links.
    pub links: [Spec; 2],
    /// Whether to go to the background.
    pub daemon: bool,
    /// Where to write the process's number.
    pub pidfile: Option<PathBuf>,
    /// Where to answer what the links have carried.
    pub control: Option<PathBuf>,
    /// Whether to say to the system's log when it starts and stops.
    pub syslog: bool,
    /// Whether to say there which IP addresses are used behind the second link.
    pub iplog: bool,
    /// What is kept once the links are open, if everything else is to be given up.
    pub confinement: Option<Confinement>,
}

/// A command line that makes no sense: exit status 64, or 77 for what a login shell denies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A word that fits no option, or an option that fits no word.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A link that does not exist, or not so.
    #[error("{}", printable(&.0.to_string()))]
    Locator(#[from] LocatorError),
    /// A link that needs more than can be left to it.
    #[error("--confine: {}", printable(&.0.to_string()))]
    NeedsMore(#[from] NeedsMore),
    /// A word where no word belongs.
    #[error("unexpected argument '{}': at most two links are joined", printable(.0))]
    Unexpected(String),
    /// The same behind a command.
    #[error("unexpected argument '{}'", printable(.0))]
    TooMany(String),
    /// Something that cannot be asked for.
    #[error("{0}")]
    Refused(&'static str),
    /// A login shell is asked for something else than a cable.
    #[error("as a login shell this is for cables only: {0}")]
    LoginShell(&'static str),
}

impl UsageError {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        if matches!(self, Self::LoginShell(_)) { 77 } else { 64 }
    }
}

/// Reads a command line, without the program's name, for the program run under that name.
///
/// # Errors
/// [`UsageError`], one line that names the option.
pub fn parse(name_run_under: &str, words: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    if name_run_under.starts_with('-') {
        return Err(UsageError::LoginShell("nobody can log in"));
    }
    let words: Vec<String> = words.into_iter().collect();
    if name_run_under == VDE_PLUG.name && words.first().is_none_or(|word| word != "-c") {
        return parse_as(&VDE_PLUG, words);
    }
    match words.as_slice() {
        [flag, command] if flag == "-c" => parse_as(&PLUG, login_command(command)?),
        [word, path, line @ ..] if word == "impair" && !line.is_empty() => {
            Ok(Invocation::Ask(path.into(), line.join(" ")))
        }
        [word, ..] if word == "impair" => Err(UsageError::Refused("impair needs a path and what to say, as in show")),
        [word, words @ ..] if word == SHOW.name => parse_show(words),
        [flag, ..] if flag == "-c" => Err(UsageError::LoginShell("it takes -c and one word")),
        _ => parse_as(&PLUG, words),
    }
}

/// What follows `show`.
fn parse_show(words: &[String]) -> Result<Invocation, UsageError> {
    let (mut path, mut line) = (None, SHOW.name);
    for item in PLUG.parse_command(&SHOW, words.iter().cloned()) {
        match item? {
            Item::Operand(word) if path.is_none() => path = Some(PathBuf::from(word)),
            Item::Operand(word) => return Err(UsageError::TooMany(word)),
            Item::Option(option, _) if option.name() == JSON.name() => line = "show --json",
            Item::Option(..) => return Ok(Invocation::Print(help::command(&PLUG, &SHOW))),
        }
    }
    let path = path.ok_or(UsageError::Refused("show needs the path that --control names"))?;
    Ok(Invocation::Ask(path, line.to_owned()))
}

/// The words of what a client of the login shell wants; only the usual switch is joined for it.
fn login_command(command: &str) -> Result<Vec<String>, UsageError> {
    match command.split_whitespace().collect::<Vec<_>>()[..] {
        ["vde_plug" | "plug"] => Ok(Vec::new()),
        ["plug", "--cable"] => Ok(vec!["--cable".to_owned()]),
        ["plug", "--cable", data] if data.starts_with("--data=") => Ok(vec!["--cable".to_owned(), data.to_owned()]),
        _ => {
            Err(UsageError::LoginShell("it runs vde_plug, or plug --cable, without a switch's name, as for ssh://HOST"))
        }
    }
}

/// What options say of both links or of one.
#[derive(Default)]
struct Settings {
    reconnect: bool,
    ssh: Option<String>,
    /// Keys of a switch's locator, for the first link and the second.
    vde: [Vec<(&'static str, String)>; 2],
}

fn parse_as(program: &Program, words: Vec<String>) -> Result<Invocation, UsageError> {
    // What stands behind an equals sign is a command line of its own.
    let equals = if std::ptr::eq(program, &VDE_PLUG) { words.iter().position(|word| word == "=") } else { None };
    let (words, command) = match equals {
        Some(at) => (words[..at].to_vec(), Some(words[at + 1..].to_vec())),
        None => (words, None),
    };
    let mut operands = Vec::new();
    let mut settings = Settings::default();
    let (mut stdio, mut peer, mut control) = (StdioRole::Plain, None, None);
    let (mut daemon, mut pidfile, mut syslog, mut iplog, mut confine) = (false, None, false, false, false);
    for item in program.parse(words) {
        let (option, value) = match item? {
            Item::Operand(word) => {
                operands.push(word);
                continue;
            }
            Item::Option(option, value) => (option.name(), value.unwrap_or_default()),
        };
        match option {
            "help" => return Ok(Invocation::Print(help::program(program))),
            "version" => return Ok(Invocation::Print(help::version(program))),
            "reconnect" => settings.reconnect = true,
            "ssh" => settings.ssh = Some(value),
            "cable" => stdio = StdioRole::Cable(None),
            "data" => peer = Some(value),
            "daemon" => daemon = true,
            "confine" => confine = true,
            "pidfile" => pidfile = Some(PathBuf::from(value)),
            "control" => control = Some(PathBuf::from(value)),
            "log" => syslog = true,
            "iplog" => (syslog, iplog) = (true, true),
            "sock" => operands.insert(0, value),
            "group" => settings.vde[0].push(("group", value)),
            "group2" => settings.vde[1].push(("group", value)),
            "mod" => settings.vde[0].push(("mode", value)),
            "mod2" => settings.vde[1].push(("mode", value)),
            "port" => settings.vde[0].push(("port", value)),
            "port2" => settings.vde[1].push(("port", value)),
            "descr" => settings.vde.iter_mut().for_each(|keys| keys.push(("description", value.clone()))),
            name => unreachable!("--{name} is in the table but nobody reads it"),
        }
    }
    if let Some(text) = peer {
        let key = text.strip_prefix("quic,").and_then(|key| key.parse().ok());
        let refused = UsageError::Refused("--data: expected quic,FINGERPRINT, with --cable");
        stdio = match (stdio, key) {
            (StdioRole::Cable(_), Some(key)) => StdioRole::Cable(Some(key)),
            _ => return Err(refused),
        };
    }
    let mut operands = operands.into_iter();
    let first = settings.link(0, &operands.next().unwrap_or_default())?;
    let second = match (operands.next(), command) {
        (Some(word), None) => settings.link(1, &word)?,
        (None, None) => Spec::Stdio(stdio),
        (None, Some(argv)) if !argv.is_empty() => Spec::Cmd { name: format!("cmd://{}", argv.join(" ")), argv },
        (None, Some(_)) => return Err(UsageError::Refused("expected a command behind '='")),
        (Some(word), Some(_)) => return Err(UsageError::Unexpected(word)),
    };
    if let Some(word) = operands.next() {
        return Err(UsageError::Unexpected(word));
    }
    let has_stdio = matches!(second, Spec::Stdio(_)) || matches!(first, Spec::Stdio(_));
    if daemon && has_stdio {
        return Err(UsageError::Refused("--daemon: standard input and output carry the frames; name a second link"));
    }
    let links = [first, second];
    let confinement = if confine { Some(needs(&links, [&pidfile, &control])?) } else { None };
    let config = JoinConfig { links, daemon, pidfile, control, syslog, iplog, confinement };
    Ok(Invocation::Join(Box::new(config)))
}

/// What a cable needs once its links are open, and its own files.
fn needs(links: &[Spec; 2], files: [&Option<PathBuf>; 2]) -> Result<Confinement, NeedsMore> {
    let links = links[0].needs()?.and(links[1].needs()?);
    Ok(files.into_iter().flatten().fold(links, |kept, file| kept.and(needs::file_that_goes(file))))
}

impl Settings {
    /// A link by its locator, or by the directory of a switch.
    fn link(&self, index: usize, word: &str) -> Result<Spec, UsageError> {
        let text = if word.contains("://") { word.to_owned() } else { format!("vde://{word}") };
        let mut locator: Locator = text.parse()?;
        let keys = match locator.scheme.as_str() {
            "vde" => self.vde[index].clone(),
            "ssh" => self.ssh.iter().map(|command| ("ssh", command.clone())).collect(),
            _ => Vec::new(),
        };
        keys.into_iter().for_each(|(key, value)| locator.options.push(key, value));
        let spec = Spec::parse(&locator)?;
        Ok(match spec {
            Spec::Stdio(_) | Spec::Reconnect { .. } => spec,
            inner if self.reconnect => {
                Spec::Reconnect { name: text, inner: Box::new(inner), pauses: Pauses::default() }
            }
            inner => inner,
        })
    }
}

const HELP: OptionSpec = OptionSpec::new(&["help"], "Print this and exit.").short('h');
const VERSION: OptionSpec = OptionSpec::new(&["version"], "Print the version and exit.");
const DAEMON: OptionSpec = OptionSpec::new(&["daemon"], "Go to the background once both links are open.").short('d');
const JSON: OptionSpec = OptionSpec::new(&["json"], "One line of JSON, for programs.");
const SHOW: Command = Command {
    name: "show",
    summary: "what the links of a cable have carried and dropped",
    description: &[
        "Asks a cable that runs with --control=PATH, and prints for each link whether it has carrier, by which way its \
         frames go where there are several (ssh, or quic and the peer's address), how many came from it (RX) and went \
         into it (TX), and how many were dropped and why. Of an impair:// link whose control=PATH it is, it shows the \
         settings and what has happened.",
    ],
    options: &[JSON, HELP],
    operands: &[Operand { name: "PATH", value: Value::File }],
};
const PIDFILE: OptionSpec =
    OptionSpec::new(&["pidfile"], "Write the process's number to this file.").short('p').takes("FILE", Value::File);

/// Exit statuses of both programs (sysexits(3)).
const EXIT_STATUSES: &[(&str, &str)] = &[
    ("0", "A link has ended as it should, or a signal ended the program."),
    ("1", "Something else failed."),
    ("64", "The command line makes no sense."),
    ("69", "There is no such switch, or it lets nobody in now."),
    ("75", "The way to another host is broken. Another try may help."),
    ("76", "The far side speaks something else."),
    (
        "77",
        "The far side does not admit us, or permission is lacking; or, from a login shell, that it is for cables only.",
    ),
];

/// The program and its options, as `plug`.
pub static PLUG: Program = Program {
    name: "plug",
    summary: "cable between virtual Ethernets",
    style: Style::Gnu,
    usage: &[
        "[OPTION]... [LINK]",
        "[OPTION]... LINK LINK",
        "pipe COMMAND [ARG]... = COMMAND [ARG]...",
        "impair PATH WORD...",
    ],
    description: &[
        "Joins two links, on one host or across hosts, and carries Ethernet frames between them. A link is named by \
         a locator; a word without :// is the directory of a VDE switch.",
        "With one link, or none for the usual switch, the other is standard input and output, in the stream format of \
         vde_plug: dpipe plug /run/a = ssh host plug /run/b.",
        "plug vde:///run/a ssh://host/run/b does the same with one command, by the user's own ssh and its \
         configuration. Frames pass with their offloads, segments of up to 64 KiB uncut. If there is no plug on the far \
         side, vde_plug is run. Under plug pipe, or our dpipe, two plugs that are joined directly find out that they \
         are, and do the same.",
        "plug pipe is dpipe(1), and so is a link of that name to this program. plug impair changes an impair:// link \
         while it runs, by the socket that its control=PATH names: plug impair /run/bad set loss=5%; help lists what \
         can be said.",
        "Frames that the other side does not take at once are dropped and counted; a queue on the way to another host \
         drops its oldest.",
        "As a login shell it joins the usual switch for vde_plug and plug --cable, and does nothing else.",
    ],
    topics: &[Topic {
        title: "Options",
        options: &[
            OptionSpec::new(
                &["reconnect"],
                "Open a link again when it has ended, after a pause that grows from a quarter of a second to three. \
                 There is no carrier meanwhile.",
            )
            .short('r'),
            OptionSpec::new(
                &["ssh"],
                "The command line for ssh:// links, as in --ssh 'ssh -i key'. The default is that of PLUG_SSH, or ssh.",
            )
            .takes("COMMAND", Value::Text),
            OptionSpec::new(
                &["confine"],
                "Once both links are open, give up all that they do not need any more: the file system, capabilities, \
                 root's user, and every system call that is not on a list. Not with cmd://, ssh://, quic:// and \
                 --reconnect, which open something later.",
            ),
            OptionSpec::new(&["cable"], "Be the far side of an ssh:// link, which runs this itself."),
            OptionSpec::new(&["data"], "With --cable: offer QUIC to the near side, which has this key.")
                .takes("quic,FINGERPRINT", Value::Text),
            DAEMON,
            PIDFILE,
            OptionSpec::new(&["control"], "Answer plug show at this socket, for our user and root.")
                .short('M')
                .takes("PATH", Value::File),
            HELP,
            VERSION,
        ],
    }],
    commands: &[SHOW],
    operands: &[Operand { name: "LINK", value: Value::Locator }, Operand { name: "LINK", value: Value::Locator }],
    schemes: LINKS,
    sections: &[
        Section { title: "SETTINGS OF IMPAIR LINKS", entries: Entries::Made(crate::impair::documentation) },
        Section { title: "FOR USERS OF WIREFILTER", entries: Entries::Fixed(replaced::WIREFILTER) },
        Section { title: "FOR USERS OF VDE_CRYPTCAB", entries: Entries::Fixed(replaced::CRYPTCAB) },
        Section { title: "FOR USERS OF VDE_AUTOLINK", entries: Entries::Fixed(replaced::AUTOLINK) },
    ],
    exit_statuses: EXIT_STATUSES,
    files: &[],
    environment: &[
        ("PLUG_SSH", "The command line for ssh:// links, for the shell."),
        ("ETHERLOOM_LOG", "How much is logged to standard error: error, warn (the default), info, debug or trace."),
    ],
    examples: &[
        ("Join the switches of two hosts, and keep them joined:", "plug --reconnect vde:///run/a ssh://host/run/b"),
        ("The same with pipes:", "dpipe plug /run/a = ssh host plug /run/b"),
        ("Put a TAP on a switch:", "plug tap://tap0?up=on /run/a"),
        ("See what a cable carries:", "plug --control /run/cable /run/a ssh://host/run/b; plug show /run/cable"),
        ("The user-mode NAT for a TAP, confined:", "plug --confine tap://tap0?up=on user://"),
    ],
    see_also: &["vswitch(1)", "dpipe(1)", "ssh(1)"],
};

/// The program and its options, as `vde_plug`.
pub static VDE_PLUG: Program = Program {
    name: "vde_plug",
    summary: "plug of a virtual distributed Ethernet",
    usage: &["[OPTION]... [LINK]", "[OPTION]... LINK LINK", "[OPTION]... [LINK] = COMMAND [ARGUMENT]..."],
    description: &[
        "Joins a link to standard input and output, two links, or a link to a command's standard input and output. \
         It is plug(1) with the options of VDE's vde_plug.",
    ],
    topics: &[Topic {
        title: "Options",
        options: &[
            DAEMON,
            PIDFILE,
            OptionSpec::new(
                &["log"],
                "Say to the system's log when it starts and stops: for which user, and from which address ssh was used.",
            )
            .short('l'),
            OptionSpec::new(
                &["iplog"],
                "The same, and each IP address that is used on the stream, or behind the second link: the sources of \
                 packets, which anybody there can choose.",
            )
            .short('L'),
            OptionSpec::new(&["group"], "The group of our socket at a switch.").short('g').takes("GROUP", Value::Group),
            OptionSpec::new(&["group2"], "The same for the second link.").short('G').takes("GROUP", Value::Group),
            OptionSpec::new(&["mod", "mode"], "The permissions of our socket at a switch, in octal.")
                .short('m')
                .takes("MODE", Value::Text),
            OptionSpec::new(&["mod2", "mode2"], "The same for the second link.").short('M').takes("MODE", Value::Text),
            OptionSpec::new(&["port"], "The port of the switch.").takes("N", Value::Text),
            OptionSpec::new(&["port2"], "The same for the second link.").takes("N", Value::Text),
            OptionSpec::new(&["descr"], "What the switch shows for us.").short('D').takes("TEXT", Value::Text),
            OptionSpec::new(&["sock", "vdesock", "unix"], "The switch's directory.")
                .short('s')
                .takes("DIR", Value::Directory),
            HELP,
        ],
    }],
    examples: &[("Join the switches of two hosts:", "dpipe vde_plug /run/a = ssh host vde_plug /run/b")],
    environment: &[(
        "ETHERLOOM_LOG",
        "How much is logged to standard error: error, warn (the default), info, debug or trace.",
    )],
    see_also: &["plug(1)", "dpipe(1)"],
    commands: &[],
    sections: &[],
    ..PLUG
};

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(name: &str, line: &str) -> JoinConfig {
        match parse(name, line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned)) {
            Ok(Invocation::Join(config)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(name: &str, line: &str) -> (u8, String) {
        match parse(name, line.split(' ').map(str::to_owned)) {
            Err(error) => (error.status(), error.to_string()),
            Ok(other) => panic!("{line}: {other:?}"),
        }
    }

    fn spec(text: &str) -> Spec {
        Spec::parse(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn one_link_or_none_is_joined_to_standard_input_and_output() {
        assert_eq!(joined("plug", "").links, [spec("vde://"), Spec::Stdio(StdioRole::Plain)]);
        assert_eq!(joined("plug", "/run/a").links, [spec("vde:///run/a"), Spec::Stdio(StdioRole::Plain)]);
        assert_eq!(joined("plug", "--cable tap://t").links, [spec("tap://t"), Spec::Stdio(StdioRole::Cable(None))]);
    }

    #[test]
    fn two_links_are_joined_and_opened_again_if_wanted() {
        let config = joined("plug", "-r /run/a ssh://h/run/b --ssh ssh-x -d");
        let [Spec::Reconnect { inner: first, .. }, Spec::Reconnect { name, inner: second, .. }] = config.links else {
            panic!("{config:?}")
        };
        assert_eq!((*first, name.as_str()), (spec("vde:///run/a"), "ssh://h/run/b"));
        assert_eq!(*second, spec("ssh://h/run/b?ssh=ssh-x"));
        assert!(config.daemon);
    }

    #[test]
    fn run_as_vde_plug_it_takes_its_options() {
        let config = joined("vde_plug", "-g 5 --mod 660 --port 3 -D lab /run/a -p /tmp/p");
        assert_eq!(config.links[0], spec("vde:///run/a?group=5&mode=660&port=3&description=lab"));
        let config = joined("vde_plug", "-s /run/a = cat -u");
        let Spec::Cmd { argv, .. } = &config.links[1] else { panic!("{config:?}") };
        assert_eq!(argv.join(" "), "cat -u");
        assert_eq!(joined("vde_plug", "impair /run/b").links, [spec("vde://impair"), spec("vde:///run/b")]);
        assert_eq!(refused("vde_plug", "/run/a =").0, 64);
        let config = joined("vde_plug", "-L");
        assert!(config.syslog && config.iplog && !joined("vde_plug", "-l").iplog);
    }

    #[test]
    fn a_confined_cable_keeps_what_its_links_need() {
        let kept = |line| joined("plug", line).confinement.unwrap();
        assert_eq!(joined("plug", "/run/a tap://t").confinement, None);
        assert_eq!(kept("--confine null:// /run/a"), Confinement::default());
        assert_eq!(kept("--confine null:// /run/a -p /run/x/pid").write, [PathBuf::from("/run/x")]);
        let nat = kept("--confine impair://{user://}?control=/run/y/z listen:///run/z/s");
        assert_eq!(nat.write, ["/run/y", "/run/z"].map(PathBuf::from));
        assert_eq!(nat.follow, [PathBuf::from("/etc/resolv.conf")]);
        for line in ["ssh://h/run/b", "cmd://cat", "-r /run/a", "quic://h:1", "stream://h:1?reconnect=5"] {
            let (status, words) = refused("plug", &format!("--confine {line} null://"));
            assert!(status == 64 && words.starts_with("--confine: ") && words.contains("later"), "{words}");
        }
        assert_eq!(
            refused("plug", "--confine --cable null://"),
            (64, "--confine: the far side of a cable may open another way for its frames later".to_owned())
        );
    }

    #[test]
    fn what_makes_no_sense_is_64() {
        assert_eq!(refused("plug", "a b c"), (64, "unexpected argument 'c': at most two links are joined".to_owned()));
        assert!(refused("plug", "carrier-pigeon://").1.contains("unknown kind"));
        assert!(refused("plug", "--recomect").1.contains("did you mean --reconnect?"));
        assert!(refused("plug", "-d /run/a").1.contains("standard input and output"));
    }

    #[test]
    fn an_impaired_link_is_spoken_to() {
        let words = ["impair", "/run/bad", "set", "loss=5%", "delay=1ms"].map(str::to_owned);
        let said = Invocation::Ask("/run/bad".into(), "set loss=5% delay=1ms".to_owned());
        assert_eq!(parse("plug", words), Ok(said));
        assert_eq!(refused("plug", "impair /run/bad").0, 64);
    }

    #[test]
    fn a_cable_is_asked_what_it_carries() {
        let asks = |line: &str| parse("plug", line.split(' ').map(str::to_owned));
        assert_eq!(asks("show /run/c"), Ok(Invocation::Ask("/run/c".into(), "show".to_owned())));
        assert_eq!(asks("show --json /run/c"), Ok(Invocation::Ask("/run/c".into(), "show --json".to_owned())));
        assert!(matches!(asks("show --help"), Ok(Invocation::Print(_))));
        assert_eq!(refused("plug", "show").0, 64);
        assert_eq!(refused("plug", "show /run/c /run/d"), (64, "unexpected argument '/run/d'".to_owned()));
        assert_eq!(joined("plug", "-M /run/c /run/a /run/b").control, Some("/run/c".into()));
    }

    #[test]
    fn a_login_shell_is_for_cables_only() {
        let shell = |command: &str| parse("plug", ["-c".to_owned(), command.to_owned()]);
        assert!(matches!(shell("vde_plug"), Ok(Invocation::Join(_))));
        let Ok(Invocation::Join(config)) = shell("plug --cable") else { panic!() };
        assert_eq!(config.links, [spec("vde://"), Spec::Stdio(StdioRole::Cable(None))]);
        for command in ["sh", "vde_plug cmd://sh", "plug tap://tap0", "vde_plug; sh", ""] {
            assert_eq!(shell(command).unwrap_err().status(), 77, "{command}");
        }
        assert_eq!(refused("-plug", "").0, 77);
        assert_eq!(refused("plug", "-c plug --cable").0, 77);
    }
}

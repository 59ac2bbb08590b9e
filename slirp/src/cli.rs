//! The command line of `slirp`: words in, an [`Invocation`] out. Nothing is opened here.
//!
//! The options of the network are the keys of QEMU's `-netdev user`: what is said here goes into a `user://` locator, and
//! `nat::Config` has the last word. One default differs: the host's loopback is out of reach, unless it is asked for.
//!
//! Neighbours: `program::options` has the model, `slirp4netns` the other command line, `setup` does what comes out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use link::{Locator, LocatorError};
use nat::Config;
use plug::Spec;
use program::help;
use program::links::LINKS;
use program::options::{Item, Operand, OptionError, OptionSpec, Program, Style, Topic, Value, printable};

pub use crate::namespace::{Namespace, Setup, Setup4, Setup6, Where};
use crate::slirp4netns;
pub use crate::slirp4netns::PROGRAM as SLIRP4NETNS;
use crate::status::StatusRequest;

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print text and exit 0.
    Print(String),
    /// Ask a running one what it does.
    Status(StatusRequest),
    /// Run.
    Run(Box<Plan>),
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The NAT's settings.
    pub nat: Config,
    /// What it serves.
    pub end: End,
    /// A capture of every frame that crosses the link.
    pub pcap: Option<PathBuf>,
    /// The host's address that guests' packets leave from.
    pub source: Option<Source>,
    /// The same for IPv6.
    pub source6: Option<Source>,
    /// Where the API is to listen.
    pub api: Option<PathBuf>,
    /// The guest of API rules that name none.
    pub api_guest: DefaultGuest,
    /// A descriptor that gets a `1` when everything is set up.
    pub ready: Option<RawFd>,
    /// A descriptor whose readiness, or end, ends it.
    pub exit: Option<RawFd>,
    /// Whether to go to the background.
    pub daemon: bool,
    /// Where to write the process's number.
    pub pidfile: Option<PathBuf>,
    /// Whether to give up, once everything is set up, what is not needed any more.
    pub confine: bool,
    /// Text for standard output, once everything is set up.
    pub announcement: Option<String>,
}

/// What a NAT serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever is at the other end of a link.
    Link(Box<Spec>),
    /// A network namespace.
    Namespace(Box<Namespace>),
}

/// The guest that a rule means if it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultGuest {
    /// In most cases.
    pub ipv4: Ipv4Addr,
    /// If IPv6 is asked for and there is a known address.
    pub ipv6: Option<Ipv6Addr>,
}

/// An address of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Itself, of the family that is asked for.
    Address(IpAddr),
    /// The first that an interface has.
    Interface(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => name.fmt(f),
        }
    }
}

/// A command line that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// A word that fits no option, or an option that fits no word.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A link, or a setting of the network, that cannot be.
    #[error("{}", printable(&.0.to_string()))]
    Locator(#[from] LocatorError),
    /// A value that an option does not take.
    #[error("{option}: '{}': {why}", printable(.value))]
    Value {
        /// The option.
        option: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A word where no word belongs.
    #[error("unexpected argument '{}'", printable(.0))]
    Unexpected(String),
    /// Something that is missing, or cannot be asked for.
    #[error("{0}")]
    Refused(&'static str),
    /// A command line of slirp4netns's, in its own words.
    #[error("{}", printable(.0))]
    Slirp4netns(String),
}

impl UsageError {
    /// The exit status: 2, or that of slirp4netns.
    #[must_use]
    pub fn status(&self) -> u8 {
        if matches!(self, Self::Slirp4netns(_)) { 1 } else { 2 }
    }
}

/// Reads a command line, without the program's name, for the program run under that name.
///
/// # Errors
/// [`UsageError`], one line that names the option.
pub fn parse(name_run_under: &str, words: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    if name_run_under == SLIRP4NETNS.name {
        slirp4netns::parse(words).map_err(|error| UsageError::Slirp4netns(error.to_string()))
    } else {
        parse_slirp(words)
    }
}

fn parse_slirp(words: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    let mut network = new_network();
    let mut operands = Vec::new();
    let (mut netns, mut user, mut configure) = (None, None, true);
    let (mut status, mut json) = (None, false);
    let (mut host_loopback, mut no_dns, mut ipv6_required) = (false, false, false);
    let mut common = Common::default();
    for item in SLIRP.parse(words) {
        let (option, value) = match item? {
            Item::Operand(word) => {
                operands.push(word);
                continue;
            }
            Item::Option(option, value) => (option.name(), value.unwrap_or_default()),
        };
        match option {
            "help" => return Ok(Invocation::Print(help::program(&SLIRP))),
            "version" => return Ok(Invocation::Print(help::version(&SLIRP))),
            "netns" => netns = Some(where_from(&value)),
            "userns-path" => user = Some(PathBuf::from(value)),
            "configure" => configure = true,
            "no-configure" => configure = false,
            "host-loopback" => host_loopback = true,
            "no-dns" => no_dns = true,
            "restrict" => network.options.push("restrict", "on".to_owned()),
            "status" => status = Some(PathBuf::from(value)),
            "json" => json = true,
            "no-confine" => common.no_confine = true,
            "daemon" => common.daemon = true,
            "pidfile" => common.pidfile = Some(PathBuf::from(value)),
            "pcap" => common.pcap = Some(PathBuf::from(value)),
            "api-socket" => common.api = Some(PathBuf::from(value)),
            "ready-fd" => common.ready = Some(descriptor("--ready-fd", value)?),
            "exit-fd" => common.exit = Some(descriptor("--exit-fd", value)?),
            "outbound-addr" => common.source = Some(source::<Ipv4Addr>(value)),
            "outbound-addr6" => common.source6 = Some(source::<Ipv6Addr>(value)),
            "ipv6" => {
                ipv6_required = value == "on";
                network.options.push("ipv6", value);
            }
            key => network.options.push(key, value),
        }
    }
    let mut operands = operands.into_iter();
    if let Some(socket) = status {
        return match operands.next() {
            None => Ok(Invocation::Status(StatusRequest { socket, json })),
            Some(word) => Err(UsageError::Unexpected(word)),
        };
    }
    if json {
        return Err(UsageError::Refused("--json goes with --status"));
    }
    network.options.push("host-loopback", if host_loopback { "on" } else { "off" }.to_owned());
    let mut nat = Config::from_locator(&network)?;
    nat.dns_relay = !no_dns;
    let operand = operands.next();
    if let Some(word) = operands.next() {
        return Err(UsageError::Unexpected(word));
    }
    let mut guest = DefaultGuest { ipv4: nat.dhcp_start, ipv6: None };
    let end = match netns {
        Some(net) => {
            let setup = configure.then(|| setup_of(&nat, ipv6_required));
            if let Some(setup) = setup {
                guest = DefaultGuest::of(&setup, &nat);
                // There are no leases where the address is known.
                let known = guest.ipv4.into();
                nat.forwards.iter_mut().for_each(|rule| rule.guest.0 = Some(rule.guest.0.unwrap_or(known)));
            }
            let interface = operand.unwrap_or_else(|| "tap0".to_owned());
            End::Namespace(Box::new(Namespace { net, user, interface, setup }))
        }
        None if user.is_some() => return Err(UsageError::Refused("--userns-path goes with --netns")),
        None => End::Link(Box::new(link(
            &operand.ok_or(UsageError::Refused("expected a link, or --netns; --help says more"))?,
        )?)),
    };
    common.plan(nat, end, guest)
}

/// What both command lines have, under names of their own.
#[derive(Default)]
pub(crate) struct Common {
    pub daemon: bool,
    pub pidfile: Option<PathBuf>,
    pub pcap: Option<PathBuf>,
    pub api: Option<PathBuf>,
    pub ready: Option<RawFd>,
    pub exit: Option<RawFd>,
    pub source: Option<Source>,
    pub source6: Option<Source>,
    pub no_confine: bool,
    pub announcement: Option<String>,
}

impl Common {
    pub(crate) fn plan(self, nat: Config, end: End, api_guest: DefaultGuest) -> Result<Invocation, UsageError> {
        let Self { daemon, pidfile, pcap, api, ready, exit, source, source6, no_confine, announcement } = self;
        if ready.is_some() && ready == exit {
            return Err(UsageError::Refused("--ready-fd and --exit-fd are two descriptors"));
        }
        let confine = !no_confine;
        let plan = Plan {
            nat,
            end,
            pcap,
            source,
            source6,
            api,
            api_guest,
            ready,
            exit,
            daemon,
            pidfile,
            confine,
            announcement,
        };
        Ok(Invocation::Run(Box::new(plan)))
    }
}

/// A `user://` locator without options.
pub(crate) fn new_network() -> Locator {
    Locator::from_qemu("user")
}

impl DefaultGuest {
    /// The namespace, as it is set up.
    pub(crate) fn of(setup: &Setup, nat: &Config) -> Self {
        let ipv4 = setup.ipv4.map_or(nat.dhcp_start, |ipv4| ipv4.address);
        Self { ipv4, ipv6: setup.ipv6.map(|ipv6| ipv6.address) }
    }
}

/// The namespace's side of a network: the hundredth address (`::100`), or the first lease where the network is smaller.
fn setup_of(nat: &Config, ipv6_required: bool) -> Setup {
    const HOST: u32 = 100;
    let address = Ipv4Addr::from_bits(nat.network.address.to_bits() + HOST);
    let is_free = nat.network.is_host(address) && ![nat.gateway, nat.dns].contains(&address);
    let address = if is_free { address } else { nat.dhcp_start };
    let ipv4 = Setup4 { address, mask: nat.network.mask(), gateway: nat.gateway };
    Setup { mtu: nat.mtu, mac: None, ipv4: nat.ipv4.then_some(ipv4), ipv6: setup6_of(nat, ipv6_required) }
}

/// The IPv6 part of it.
pub(crate) fn setup6_of(nat: &Config, required: bool) -> Option<Setup6> {
    const HOST: u128 = 0x100;
    let net = nat.ipv6?;
    let address = Ipv6Addr::from_bits(net.network.address.to_bits() | HOST);
    let is_free = net.network.is_host(address) && ![net.gateway, net.dns].contains(&address);
    let address = if is_free { address } else { net.lease(0) };
    Some(Setup6 { address, prefix: net.network.prefix, gateway: net.gateway, required })
}

/// A link by its locator, or by the directory of a switch.
fn link(word: &str) -> Result<Spec, LocatorError> {
    let text = if word.contains("://") { word.to_owned() } else { format!("vde://{word}") };
    Spec::parse(&text.parse()?)
}

/// A process's namespace, or a file's.
fn where_from(word: &str) -> Where {
    match word.parse() {
        Ok(pid) => Where::Process(pid),
        Err(_) => Where::File(word.into()),
    }
}

/// An address of this family, or an interface that has one.
pub(crate) fn source<A: FromStr + Into<IpAddr>>(word: String) -> Source {
    match word.parse::<A>() {
        Ok(address) => Source::Address(address.into()),
        Err(_) => Source::Interface(word),
    }
}

/// A descriptor that was left to this process.
pub(crate) fn descriptor(option: &'static str, value: String) -> Result<RawFd, UsageError> {
    const WHY: &str = "expected the number of an open descriptor";
    match value.parse() {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(UsageError::Value { option, value, why: WHY }),
    }
}

/// The program and its options, as `slirp`.
pub static SLIRP: Program = Program {
    name: "slirp",
    summary: "user-mode NAT for virtual Ethernets and network namespaces",
    style: Style::Gnu,
    usage: &["[OPTION]... LINK", "[OPTION]... --netns PID|PATH [TAP]", "--status SOCKET [--json]"],
    description: &[
        "Lets everybody on a virtual Ethernet reach the world, by sockets of this host's and without privileges. There is \
         a router with DHCP and DNS at 10.0.2.2 and 10.0.2.3, and at fec0::2 and fec0::3; ports of the host can lead \
         inside.",
        "LINK is a locator; a word without :// is the directory of a VDE switch.",
        "With --netns it makes a TAP in the network namespace of a process, or of a file such as /run/netns/NAME, and \
         gives it addresses (10.0.2.100, fec0::100), default routes and an MTU; lo is brought up. It may do so for \
         every namespace of the user who runs it. The TAP is called tap0 unless named, and is gone when slirp ends. \
         Which name server programs there ask is left to their resolv.conf.",
        "Unlike QEMU's user network, it does not let guests reach what listens on the host's loopback, unless \
         --host-loopback is given.",
    ],
    topics: &[
        Topic {
            title: "Network, in the words of QEMU's -netdev user",
            options: &[
                OptionSpec::new(&["net"], "The guests' network (default 10.0.2.0/24).")
                    .takes("ADDR/PREFIX", Value::Text),
                OptionSpec::new(&["host"], "The router's address (default: the second).").takes("ADDR", Value::Text),
                OptionSpec::new(&["dns"], "The name server's address (default: the third).").takes("ADDR", Value::Text),
                OptionSpec::new(&["dhcpstart"], "The first of 16 leases (default: the fifteenth address).")
                    .takes("ADDR", Value::Text),
                OptionSpec::new(&["hostname"], "The name that DHCP gives to guests.").takes("NAME", Value::Text),
                OptionSpec::new(&["domainname"], "The domain that DHCP tells.").takes("NAME", Value::Text),
                OptionSpec::new(&["dnssearch"], "A domain that guests are told to search. May be repeated.")
                    .takes("NAME", Value::Text)
                    .repeatable(),
                OptionSpec::new(&["mtu"], "Bytes of an IP packet, 576 to 65521 (default 1500).")
                    .takes("BYTES", Value::Text),
                OptionSpec::new(&["ipv4"], "Whether there is IPv4.").takes("on|off", Value::Choice(&["on", "off"])),
                OptionSpec::new(
                    &["ipv6"],
                    "Whether there is IPv6. It is on, unless the MTU is less than 1280; a namespace that has none is \
                     left without, unless on was asked for.",
                )
                .takes("on|off", Value::Choice(&["on", "off"])),
                OptionSpec::new(&["ipv6-net"], "The guests' IPv6 network (default fec0::/64).")
                    .takes("ADDR/PREFIX", Value::Text),
                OptionSpec::new(&["ipv6-host"], "The router's IPv6 address (default: ::2 of the network).")
                    .takes("ADDR", Value::Text),
                OptionSpec::new(&["ipv6-dns"], "The name server's IPv6 address (default: ::3 of the network).")
                    .takes("ADDR", Value::Text),
                OptionSpec::new(
                    &["hostfwd"],
                    "Lead a port of the host to a guest: [tcp|udp]:[HOSTADDR]:PORT-[GUESTADDR]:PORT, as in \
                     tcp::2222-:22. Several ports are FIRST-LAST on both sides, as in tcp::8000-8010-:8000-8010; the \
                     guest's may be named by the first alone. IPv6 addresses have brackets, as in \
                     tcp:[::1]:8080-[fec0::100]:80, and the two may be of different families. \
                     unix:PATH-[GUESTADDR]:PORT leads connections to a Unix socket inside. Without HOSTADDR it is \
                     0.0.0.0, for IPv4 alone, as [::] is for IPv6; without GUESTADDR it is the namespace's IPv4 \
                     address, or the first lease. May be repeated.",
                )
                .takes("RULE", Value::Text)
                .repeatable(),
                OptionSpec::new(
                    &["guestfwd"],
                    "Let something of the host's answer at an address of the guests' network: \
                     [tcp]:[ADDR]:PORT-cmd:COMMAND, -tcp:ADDR:PORT or -unix:PATH. May be repeated.",
                )
                .takes("RULE", Value::Text)
                .repeatable(),
                OptionSpec::new(&["smb"], "Share this folder, by Samba's smbd.").takes("DIR", Value::File),
                OptionSpec::new(&["smbserver"], "Where it is shared (default: the fourth address).")
                    .takes("ADDR", Value::Text),
                OptionSpec::new(&["tftp"], "Serve the files of this folder by TFTP, at the router's address.")
                    .takes("DIR", Value::File),
                OptionSpec::new(&["bootfile"], "The file that DHCP tells guests to boot.").takes("FILE", Value::Text),
                OptionSpec::new(
                    &["tftp-server-name"],
                    "The TFTP server that DHCP tells guests of (default: the router's address).",
                )
                .takes("NAME", Value::Text),
                OptionSpec::new(&["restrict"], "Let guests reach nobody: only forwarded ports lead in."),
                OptionSpec::new(&["no-dns"], "Have no name server for guests."),
                OptionSpec::new(
                    &["host-loopback"],
                    "Let guests reach what listens on this host's 127.0.0.1 and ::1, by the router's addresses.",
                ),
                OptionSpec::new(&["outbound-addr"], "Send what guests send over IPv4 from this address of the host.")
                    .takes("ADDR|INTERFACE", Value::Text),
                OptionSpec::new(&["outbound-addr6"], "The same for IPv6.").takes("ADDR|INTERFACE", Value::Text),
            ],
        },
        Topic {
            title: "Network namespaces",
            options: &[
                OptionSpec::new(&["netns"], "Serve the network namespace of this process, or of this file.")
                    .takes("PID|PATH", Value::File),
                OptionSpec::new(
                    &["userns-path"],
                    "Enter this user namespace to do so. The default is the one that owns the network namespace.",
                )
                .takes("PATH", Value::File),
                OptionSpec::new(&["configure"], "Set the TAP up (default)."),
                OptionSpec::new(&["no-configure"], "Make the TAP and leave it as it is."),
            ],
        },
        Topic {
            title: "Process",
            options: &[
                OptionSpec::new(&["daemon"], "Go to the background once everything is set up.").short('d'),
                OptionSpec::new(&["pidfile"], "Write the process's number to this file.")
                    .short('p')
                    .takes("FILE", Value::File),
                OptionSpec::new(
                    &["api-socket"],
                    "Take requests at this socket, as slirp4netns does: rules come and go, and --status asks here.",
                )
                .short('a')
                .takes("SOCKET", Value::File),
                OptionSpec::new(&["ready-fd"], "Write 1 to this descriptor when everything is set up, and close it.")
                    .short('r')
                    .takes("FD", Value::Text),
                OptionSpec::new(
                    &["exit-fd"],
                    "End when this descriptor has something to read, or its other end closes.",
                )
                .short('e')
                .takes("FD", Value::Text),
                OptionSpec::new(
                    &["no-confine"],
                    "Keep rights, file system and system calls that are not needed once everything is set up. They are given \
                     up otherwise, unless the link is one that opens something later; commands that guests start \
                     (--guestfwd, --smb) keep the file system.",
                ),
                OptionSpec::new(&["pcap"], "Capture every frame to this file, for tcpdump and Wireshark.")
                    .takes("FILE", Value::File),
                OptionSpec::new(&["status"], "Print the flows of the slirp that has this API socket, and its drops.")
                    .takes("SOCKET", Value::File),
                OptionSpec::new(&["json"], "Print them as JSON."),
                OptionSpec::new(&["help"], "Print this and exit.").short('h'),
                OptionSpec::new(&["version"], "Print the version and exit."),
            ],
        },
    ],
    commands: &[],
    operands: &[Operand { name: "LINK", value: Value::Locator }],
    schemes: LINKS,
    sections: &[],
    exit_statuses: &[
        ("0", "A signal, or what --exit-fd names, ended it."),
        ("1", "Something failed, or the link has ended."),
        ("2", "The command line makes no sense."),
    ],
    files: &[("/etc/resolv.conf", "The name servers that guests are answered by. It is read again when it changes.")],
    environment: &[(
        "ETHERLOOM_LOG",
        "How much is logged to standard error: error, warn (the default), info, debug or trace.",
    )],
    examples: &[
        ("Connect everybody on a switch:", "slirp vde:///run/lab"),
        ("Connect a network namespace, and lead port 8080 into it:", "slirp --netns 1234 --hostfwd tcp::8080-:80"),
        ("Show what passes:", "slirp --status /run/slirp.sock"),
    ],
    see_also: &["slirp4netns(1)", "plug(1)", "vswitch(1)", "network_namespaces(7)"],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Plan {
        match parse("slirp", line.split(' ').map(str::to_owned)) {
            Ok(Invocation::Run(plan)) => *plan,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> (u8, String) {
        match parse("slirp", line.split(' ').map(str::to_owned)) {
            Err(error) => (error.status(), error.to_string()),
            Ok(other) => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_network_is_qemus_but_for_the_hosts_loopback() {
        let plan =
            plan("--net 10.9.0.0/16 --hostfwd tcp::80-:80 --hostfwd=udp::1-2-:1 --restrict --mtu 9000 -d /run/sw");
        assert_eq!(plan.nat.network.to_string(), "10.9.0.0/16");
        assert!(plan.nat.restrict && !plan.nat.host_loopback && plan.nat.dns_relay && plan.daemon);
        assert_eq!((plan.nat.mtu, plan.nat.forwards.len()), (9000, 3));
        assert_eq!(plan.end, End::Link(Box::new(Spec::parse(&"vde:///run/sw".parse().unwrap()).unwrap())));
        assert!(self::plan("--host-loopback null://").nat.host_loopback);
    }

    #[test]
    fn a_namespace_has_an_address_to_which_ports_lead() {
        let plan = plan("--netns 77 --mtu 65520 --hostfwd tcp::80-:80 --hostfwd tcp::81-10.0.2.9:80");
        let End::Namespace(namespace) = plan.end else { panic!() };
        let setup = namespace.setup.unwrap();
        assert_eq!((setup.ipv4.unwrap().address, setup.mtu), ([10, 0, 2, 100].into(), 65520));
        assert_eq!(setup.ipv6.unwrap().address.to_string(), "fec0::100");
        assert_eq!((namespace.net, namespace.interface.as_str()), (Where::Process(77), "tap0"));
        let targets = plan.nat.forwards.iter().map(|rule| rule.guest.0.unwrap().to_string());
        assert_eq!(targets.collect::<Vec<_>>(), ["10.0.2.100", "10.0.2.9"]);
        let End::Namespace(namespace) = self::plan("--netns /run/netns/a --no-configure eth0").end else { panic!() };
        assert_eq!((namespace.net, namespace.setup), (Where::File("/run/netns/a".into()), None));
        assert_eq!(namespace.interface, "eth0");
    }

    #[test]
    fn what_a_namespace_has_follows_the_network() {
        let setup = |line: &str| match plan(line).end {
            End::Namespace(namespace) => namespace.setup.unwrap(),
            End::Link(_) => panic!(),
        };
        assert_eq!(setup("--netns 7 --ipv4 off").ipv4, None);
        assert_eq!(setup("--netns 7 --ipv6 off").ipv6, None);
        let ipv6 =
            |line: &str| setup(line).ipv6.map(|s| format!("{}/{} {} {}", s.address, s.prefix, s.gateway, s.required));
        assert_eq!(ipv6("--netns 7 --ipv6-net fd00:1::/48 --ipv6 on").unwrap(), "fd00:1::100/48 fd00:1::2 true");
        assert_eq!(ipv6("--netns 7 --ipv6-net fd00::/120 --ipv6-host fd00::9").unwrap(), "fd00::15/120 fd00::9 false");
    }

    #[test]
    fn every_key_of_qemus_is_an_option() {
        let plan = plan(
            "--tftp /srv --bootfile a.ipxe --tftp-server-name boot --guestfwd ::25-cmd:cat --smb /srv/share \
             --smbserver 10.0.2.9 --ipv6-dns fec0::9 --outbound-addr6 2001:db8::1 --hostfwd tcp:[::1]:1-[fec0::15]:2 \
             null://",
        );
        assert_eq!((plan.nat.tftp.unwrap(), plan.nat.smb.unwrap()), ("/srv".into(), "/srv/share".into()));
        assert_eq!(
            (plan.nat.bootfile.as_deref(), plan.nat.tftp_server_name.as_deref()),
            (Some("a.ipxe"), Some("boot"))
        );
        assert_eq!((plan.nat.guest_forwards.len(), plan.nat.forwards.len()), (3, 1));
        assert_eq!(plan.source6, Some(Source::Address("2001:db8::1".parse().unwrap())));
    }

    #[test]
    fn what_makes_no_sense_is_2() {
        assert!(refused("--mtu 1500").1.contains("expected a link"));
        assert!(refused("carrier-pigeon://").1.contains("unknown kind"));
        assert!(refused("--hostfwd tcp::1 null://").1.contains("hostfwd=tcp::1"));
        assert!(refused("--ready-fd x null://").1.contains("--ready-fd: 'x'"));
        assert!(refused("--userns-path /x null://").1.contains("--netns"));
        assert_eq!(refused("null:// null://"), (2, "unexpected argument 'null://'".to_owned()));
    }
}

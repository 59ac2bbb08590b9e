//! The command line under the name `slirp4netns`: that program's options and words, for the scripts and container engines
//! that know it. What comes out is the same [`crate::cli::Plan`].
//!
//! Documented in: slirp4netns(1). What it differs in: the TAP's name may be left out, `--enable-sandbox` and
//! `--enable-seccomp` change nothing, and there is no `--target-type=bess`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use link::MacAddr;
use nat::Config;
use program::help;
use program::options::{Item, Operand, OptionSpec, Program, Style, Topic, Value};

use crate::cli::{
    Common, DefaultGuest, End, Invocation, Namespace, Setup, Setup4, UsageError, Where, descriptor, new_network,
    setup6_of, source,
};

/// The version of slirp4netns whose options these are.
const VERSION: &str = "1.3.2";

/// The prefixes that slirp4netns takes.
const PREFIXES: std::ops::RangeInclusive<u8> = 1..=25;

/// Reads a command line, without the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    let mut operands = Vec::new();
    let mut common = Common::default();
    let mut cidr = Cidr { network: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 };
    let mut network = new_network();
    let (mut configure, mut mac, mut user, mut is_path) = (false, None, None, None);
    let (mut ipv6, mut loopback, mut dns) = (false, true, true);
    for item in PROGRAM.parse(words) {
        let (option, value) = match item? {
            Item::Operand(word) => {
                operands.push(word);
                continue;
            }
            Item::Option(option, value) => (option.name(), value.unwrap_or_default()),
        };
        match option {
            "help" => return Ok(Invocation::Print(help::program(&PROGRAM))),
            "version" => return Ok(Invocation::Print(version())),
            "configure" => configure = true,
            "exit-fd" => common.exit = Some(descriptor("--exit-fd", value)?),
            "ready-fd" => common.ready = Some(descriptor("--ready-fd", value)?),
            "mtu" => match value.parse() {
                Ok(mtu) if nat::MTU_RANGE.contains(&mtu) => network.options.push("mtu", value),
                _ => return Err(said(format!("MTU must be a positive integer (576 to 65521), not '{value}'"))),
            },
            "enable-ipv6" => ipv6 = true,
            "api-socket" => common.api = Some(PathBuf::from(value)),
            "cidr" => cidr = Cidr::parse(&value)?,
            "disable-host-loopback" => loopback = false,
            "netns-type" => is_path = Some(netns_type(&value)?),
            "userns-path" => user = Some(PathBuf::from(value)),
            "outbound-addr" => common.source = Some(source::<Ipv4Addr>(value)),
            "outbound-addr6" => common.source6 = Some(source::<Ipv6Addr>(value)),
            "disable-dns" => dns = false,
            "macaddress" => {
                mac = Some(value.parse().map_err(|_| said(format!("\"{value}\" is an invalid MAC address.")))?);
            }
            "target-type" if value == "netns" => {}
            "target-type" => return Err(UsageError::Refused("--target-type: only netns is offered")),
            "enable-sandbox" | "enable-seccomp" => {}
            name => unreachable!("--{name} is in the table but nobody reads it"),
        }
    }
    if mac.is_some() && !configure {
        return Err(UsageError::Refused("--macaddress goes with --configure"));
    }
    for (key, host) in [("host", 2), ("dns", 3), ("dhcpstart", 15)] {
        network.options.push(key, cidr.host(host).to_string());
    }
    network.options.push("net", format!("{}/{}", cidr.network, cidr.prefix));
    network.options.push("host-loopback", switch(loopback));
    network.options.push("ipv6", switch(ipv6));
    network.options.push("ipv6-net", "fd00::/64".to_owned());
    let mut nat = Config::from_locator(&network)?;
    nat.dns_relay = dns;

    let mut operands = operands.into_iter();
    let net = operands.next().ok_or(UsageError::Refused("PID or PATH must be specified; --help says more"))?;
    let net = match (is_path.unwrap_or(false), net.parse()) {
        (true, _) => Where::File(net.into()),
        (false, Ok(pid)) if pid > 0 => Where::Process(pid),
        _ => return Err(said(format!("PID must be a positive integer, not '{net}'"))),
    };
    let interface = operands.next().unwrap_or_else(|| "tap0".to_owned());
    if let Some(word) = operands.next() {
        return Err(UsageError::Unexpected(word));
    }
    let address = cidr.host(100);
    let ipv4 = Setup4 { address, mask: nat.network.mask(), gateway: nat.gateway };
    let setup = Setup { mtu: nat.mtu, mac, ipv4: Some(ipv4), ipv6: setup6_of(&nat, true) };
    common.announcement = Some(announcement(&nat, &common, setup, address));
    let namespace = Namespace { net, user, interface, setup: configure.then_some(setup) };
    let guest = DefaultGuest::of(&setup, &nat);
    common.plan(nat, End::Namespace(Box::new(namespace)), guest)
}

/// Words of slirp4netns's.
fn said(words: String) -> UsageError {
    UsageError::Slirp4netns(words)
}

fn switch(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn netns_type(value: &str) -> Result<bool, UsageError> {
    match value {
        "path" => Ok(true),
        "pid" => Ok(false),
        _ => Err(said(format!("--netns-type: '{value}': expected path or pid"))),
    }
}

/// A network, as `--cidr` names it.
struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    fn parse(text: &str) -> Result<Self, UsageError> {
        let invalid = || said(format!("invalid CIDR: {text}"));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        if !PREFIXES.contains(&prefix) {
            return Err(said(format!("prefix length needs to be {}-{}", PREFIXES.start(), PREFIXES.end())));
        }
        let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - u32::from(prefix))));
        if network != address {
            let words = "CIDR needs to be a network address like";
            return Err(said(format!("{words} {network}/{prefix}, not like {address}/{prefix}")));
        }
        Ok(Self { network, prefix })
    }

    fn host(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + number)
    }
}

/// What `--version` prints: container engines read the first line, scripts the one about SLIRP_CONFIG_VERSION_MAX.
fn version() -> String {
    let own = help::version(&PROGRAM);
    format!(
        "{} version {VERSION}\ncommit: {own}libslirp: none\nSLIRP_CONFIG_VERSION_MAX: 4\nlibseccomp: none\n",
        PROGRAM.name
    )
}

/// What it says when it starts.
fn announcement(nat: &Config, common: &Common, setup: Setup, address: Ipv4Addr) -> String {
    let mut lines = vec![
        "Starting slirp".to_owned(),
        format!("* MTU:             {}", nat.mtu),
        format!("* Network:         {}", nat.network.address),
        format!("* Netmask:         {}", nat.network.mask()),
        format!("* Gateway:         {}", nat.gateway),
        format!("* DNS:             {}", nat.dns),
        format!("* DHCP begin:      {}", nat.dhcp_start),
        format!("* DHCP end:        {}", nat.lease(nat::LEASES - 1)),
        format!("* Recommended IP:  {address}"),
    ];
    if let (Some(net), Some(ipv6)) = (&nat.ipv6, setup.ipv6) {
        lines.extend([
            format!("* IPv6 network:    {}", net.network),
            format!("* IPv6 gateway:    {}", net.gateway),
            format!("* IPv6 DNS:        {}", net.dns),
            format!("* IPv6 address:    {}", ipv6.address),
        ]);
    }
    lines.extend(common.api.as_ref().map(|path| format!("* API Socket:      {}", path.display())));
    lines.extend(setup.mac.map(|mac: MacAddr| format!("* MAC address:     {mac}")));
    if nat.host_loopback {
        lines.push(format!(
            "WARNING: 127.0.0.1:* on the host is accessible as {} (set --disable-host-loopback to prohibit connecting to \
             127.0.0.1:*)",
            nat.gateway
        ));
    }
    lines.join("\n") + "\n"
}

/// The program and its options, as `slirp4netns`.
pub static PROGRAM: Program = Program {
    name: "slirp4netns",
    summary: "user-mode networking for unprivileged network namespaces",
    style: Style::Gnu,
    usage: &["[OPTION]... PID|PATH [TAP]"],
    description: &[
        "Connects the network namespace of a process to the world, by a TAP of that name, without privileges. It is \
         slirp(1) with the options of slirp4netns.",
        "As in slirp4netns, the namespace reaches what listens on the host's loopback by the router's address, unless \
         --disable-host-loopback is given.",
    ],
    topics: &[Topic {
        title: "Options",
        options: &[
            OptionSpec::new(
                &["configure"],
                "Bring the TAP up, with an address (the hundredth), route and MTU; lo too.",
            )
            .short('c'),
            OptionSpec::new(&["exit-fd"], "End when this descriptor has something to read, or its other end closes.")
                .short('e')
                .takes("FD", Value::Text),
            OptionSpec::new(&["ready-fd"], "Write 1 to this descriptor when everything is set up, and close it.")
                .short('r')
                .takes("FD", Value::Text),
            OptionSpec::new(&["mtu"], "The MTU (default 1500, at most 65521).").short('m').takes("MTU", Value::Text),
            OptionSpec::new(&["enable-ipv6"], "Have IPv6, too: fd00::/64, router ::2, DNS ::3, the TAP ::100.")
                .short('6'),
            OptionSpec::new(&["api-socket"], "Take requests at this socket.").short('a').takes("PATH", Value::File),
            OptionSpec::new(&["cidr"], "The network (default 10.0.2.0/24).").takes("CIDR", Value::Text),
            OptionSpec::new(&["disable-host-loopback"], "Keep the host's 127.0.0.1 out of reach."),
            OptionSpec::new(&["netns-type"], "What the namespace is named by (default pid).")
                .takes("TYPE", Value::Choice(&["path", "pid"])),
            OptionSpec::new(&["userns-path"], "Enter this user namespace.").takes("PATH", Value::File),
            OptionSpec::new(&["enable-sandbox"], "Taken, without an effect of its own."),
            OptionSpec::new(&["enable-seccomp"], "The same."),
            OptionSpec::new(&["outbound-addr"], "Send what comes from the namespace from this address of the host.")
                .takes("IPv4|INTERFACE", Value::Text),
            OptionSpec::new(&["outbound-addr6"], "The same for IPv6.").takes("IPv6|INTERFACE", Value::Text),
            OptionSpec::new(&["disable-dns"], "Have no name server."),
            OptionSpec::new(&["macaddress"], "The TAP's Ethernet address, with --configure.").takes("MAC", Value::Text),
            OptionSpec::new(&["target-type"], "Only netns is offered.").takes("TYPE", Value::Choice(&["netns"])),
            OptionSpec::new(&["help"], "Print this and exit.").short('h'),
            OptionSpec::new(&["version"], "Print the version and exit.").short('v'),
        ],
    }],
    commands: &[],
    operands: &[Operand { name: "PID|PATH", value: Value::File }, Operand { name: "TAP", value: Value::Text }],
    schemes: &[],
    sections: &[],
    exit_statuses: &[
        ("0", "A signal, or what --exit-fd names, ended it."),
        ("1", "Something failed, or the command line makes no sense."),
    ],
    files: &[("/etc/resolv.conf", "The name servers that the namespace is answered by.")],
    environment: &[(
        "ETHERLOOM_LOG",
        "How much is logged to standard error: error, warn (the default), info, debug or trace.",
    )],
    examples: &[("Connect the namespace of a process:", "slirp4netns --configure --mtu=65520 1234 tap0")],
    see_also: &["slirp(1)", "network_namespaces(7)"],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Plan};

    fn plan(line: &str) -> Plan {
        match cli::parse("slirp4netns", line.split(' ').map(str::to_owned)) {
            Ok(Invocation::Run(plan)) => *plan,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn its_usual_command_line_is_understood() {
        let plan = plan("--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp -c -r 3 -e 4 77 tap0");
        assert_eq!((plan.nat.mtu, plan.nat.host_loopback), (65520, false));
        assert_eq!((plan.ready, plan.exit), (Some(3), Some(4)));
        let End::Namespace(namespace) = plan.end else { panic!() };
        assert_eq!((namespace.net, namespace.interface.as_str()), (Where::Process(77), "tap0"));
        assert_eq!(namespace.setup.unwrap().ipv4.unwrap().address, Ipv4Addr::new(10, 0, 2, 100));
        assert_eq!((plan.nat.ipv6, namespace.setup.unwrap().ipv6), (None, None));
    }

    #[test]
    fn ipv6_is_had_when_it_is_asked_for() {
        let plan = plan("-c -6 77 tap0");
        let End::Namespace(namespace) = plan.end else { panic!() };
        let ipv6 = namespace.setup.unwrap().ipv6.unwrap();
        assert_eq!((ipv6.address.to_string().as_str(), ipv6.prefix, ipv6.required), ("fd00::100", 64, true));
        assert_eq!(ipv6.gateway.to_string(), "fd00::2");
        assert!(plan.announcement.unwrap().contains("* IPv6 DNS:        fd00::3"));
    }

    #[test]
    fn a_network_moves_every_address() {
        let plan = plan("-c 77 --cidr 10.0.135.128/25 tap11");
        let text = plan.announcement.unwrap();
        for address in ["10.0.135.130", "10.0.135.131", "10.0.135.143", "10.0.135.228"] {
            assert!(text.contains(address), "{address}: {text}");
        }
    }

    #[test]
    fn mistakes_are_told_in_its_words() {
        for (line, words) in [
            ("-c --cidr 24 7", "invalid CIDR"),
            ("-c --cidr foo 7", "invalid CIDR"),
            ("-c --cidr 10.0.2.0 7", "invalid CIDR"),
            (
                "-c --cidr 10.0.2.100/24 7",
                "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
            ),
            ("-c --cidr 10.0.2.100/26 7", "prefix length needs to be 1-25"),
            ("-m 70000 7", "MTU must be a positive integer"),
            ("-c x tap0", "PID must be a positive integer"),
        ] {
            let error = cli::parse("slirp4netns", line.split(' ').map(str::to_owned)).unwrap_err();
            assert!(error.status() == 1 && error.to_string().contains(words), "{line}: {error}");
        }
    }
}

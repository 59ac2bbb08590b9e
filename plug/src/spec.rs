//! What a locator means: each kind's keys, taken out and checked, as plain data that can be opened.
//!
//! The keys are QEMU's where QEMU has the kind (qemu(1), "Network options"). A key of QEMU's that asks for something we
//! do otherwise is taken with the value that asks for nothing: `script=no`, `vhost=off`, `queues=1`.
//!
//! Neighbours: the links themselves in `link`; `bare`, `stream`, `vxlan`, `l2tpv3`, `quic`, `impair` and `ssh` for the options of
//! those kinds; `user` for the NAT, whose settings `nat` takes.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use link::vde::wire::{MAX_PORT, Request};
use link::{
    DgramConfig, Link, Locator, LocatorError, McastConfig, Null, Options, Pcap, PcapConfig, Resolution, Soft,
    StreamConfig, StreamSocket, Tap, TapError, UdpConfig, Vde, VdeConfig,
};

use crate::coprocess::Cmd;
use crate::options::{take_mtu, take_seconds};
use crate::reconnect::{Pauses, Reconnect};
use crate::ssh::{Ssh, SshConfig};
use crate::stdio::{Stdio, StdioRole};
use crate::{Impair, ImpairConfig, L2tpv3Config, OpenError, Quic, QuicConfig, User, VxlanConfig, bare, stream};

/// A link to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `null://`: frames go nowhere.
    Null,
    /// `pcap://file?len=BYTES&time=micro|nano`: frames go into a capture and nowhere else.
    Pcap(PcapConfig),
    /// `tap://name`.
    Tap(TapSpec),
    /// `vde://DIR[PORT]?port=N&group=NAME&mode=OCTAL&mtu=BYTES&description=TEXT`: a port of a VDE switch.
    Vde(VdeConfig),
    /// `udp://HOST:PORT?local=ADDR:PORT&mtu=BYTES`: bare frames to an address. In this and what follows, the name under
    /// which its messages appear comes first.
    Udp(String, UdpConfig),
    /// `dgram:///PATH?local=PATH&mode=OCTAL&mtu=BYTES`: bare frames to a socket file.
    Dgram(String, DgramConfig),
    /// `mcast://GROUP:PORT?local=ADDR&ttl=N&mtu=BYTES`: bare frames to a group.
    Mcast(String, McastConfig),
    /// `vxlan://HOST[:PORT]?vni=N&peer=HOST[:PORT]&local=ADDR&port=N&ttl=N&dev=NAME&ageing=SECONDS&mtu=BYTES`.
    Vxlan(String, VxlanConfig),
    /// `l2tpv3://DST[:PORT]` with QEMU's options.
    L2tpv3(String, L2tpv3Config),
    /// `stream://HOST:PORT`, `stream:///PATH`, and `listen://` alike: a connection in QEMU's framing.
    Stream(StreamConfig),
    /// `stdio://`: standard input and output, in VDE's framing.
    Stdio(StdioRole),
    /// `cmd://COMMAND`: a program in VDE's framing; its name as a link, and its command line.
    Cmd {
        /// The locator, for messages.
        name: String,
        /// The program and its arguments; not empty.
        argv: Vec<String>,
    },
    /// `ssh://[USER@]HOST[:PORT]/SWITCH`: a cable to another host.
    Ssh(SshConfig),
    /// `reconnect://{LOCATOR}?min=SECONDS&max=SECONDS`: a link that is opened again when it has ended.
    Reconnect {
        /// The inner link's locator, for messages.
        name: String,
        /// The link.
        inner: Box<Spec>,
        /// The pauses between tries.
        pauses: Pauses,
    },
    /// `user://`: the name under which its messages appear, and its settings.
    User(String, Box<nat::Config>),
    /// `impair://{LOCATOR}?…`: the link inside, and what is done to its frames.
    Impair(Box<Spec>, Box<ImpairConfig>),
    /// `quic://HOST:PORT`, or `quic://?listen=ADDR:PORT`: a cable; [`QuicConfig`] has its options.
    Quic(Box<QuicConfig>),
}

/// A TAP: `tap://name?mtu=BYTES&up=on|try&persist=on`, or `tap://?fd=N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSpec {
    /// The interface; empty lets the kernel choose.
    pub name: String,
    /// A descriptor that this process has inherited, instead of a name. It is duplicated.
    pub fd: Option<i32>,
    /// The MTU to set, in bytes.
    pub mtu: Option<u16>,
    /// Whether to bring the interface up.
    pub up: BringUp,
    /// Whether the interface stays when the link is closed, if that is to be changed.
    pub persist: Option<bool>,
}

/// Whether to bring an interface up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BringUp {
    /// It stays as it is.
    #[default]
    No,
    /// If this process may; who made the interface for an unprivileged user brings it up, too.
    Try,
    /// Yes.
    Yes,
}

impl Spec {
    /// Takes a locator apart.
    ///
    /// # Errors
    /// [`LocatorError`] names the kind or the option that nobody knows, or the value that does not fit.
    pub fn parse(locator: &Locator) -> Result<Self, LocatorError> {
        match locator.scheme.as_str() {
            "null" => parse_null(locator.clone()),
            "pcap" => parse_pcap(locator.clone()),
            "tap" => parse_tap(locator.clone()),
            "vde" => parse_vde(locator.clone()),
            "udp" => bare::parse_udp(locator),
            "dgram" => bare::parse_dgram(locator),
            "mcast" => bare::parse_mcast(locator),
            "vxlan" => Ok(Self::Vxlan(locator.to_string(), VxlanConfig::from_locator(locator)?)),
            "l2tpv3" => Ok(Self::L2tpv3(locator.to_string(), L2tpv3Config::from_locator(locator)?)),
            "stream" | "listen" => stream::parse(locator),
            "socket" => stream::parse_socket(locator),
            "stdio" => parse_stdio(locator.clone()),
            "cmd" => parse_cmd(locator.clone()),
            "ssh" => SshConfig::parse(locator.clone()).map(Self::Ssh),
            "reconnect" => parse_reconnect(locator.clone()),
            "user" => Ok(Self::User(locator.to_string(), Box::new(User::config(locator)?))),
            "impair" => parse_impair(locator.clone()),
            "quic" => Ok(Self::Quic(Box::new(QuicConfig::parse(locator.clone())?))),
            unknown => Err(LocatorError::UnknownKind(unknown.to_owned())),
        }
    }

    /// Opens the link.
    ///
    /// # Errors
    /// What the kind meets.
    pub fn open(self) -> Result<Box<dyn Link>, OpenError> {
        Ok(match self {
            Self::Null => Box::<Null>::default(),
            Self::Pcap(config) => Box::new(Pcap::create(Null::default(), &config)?),
            Self::Tap(tap) => Box::new(Soft::new(tap.open()?)),
            Self::Vde(config) => Box::new(Soft::new(Vde::open(&config)?)),
            Self::Udp(name, config) => Box::new(Soft::new(config.open(name)?)),
            Self::Dgram(name, config) => Box::new(Soft::new(config.open(name)?)),
            Self::Mcast(name, config) => Box::new(Soft::new(config.open(name)?)),
            Self::Vxlan(name, config) => Box::new(Soft::new(config.open(name)?)),
            Self::L2tpv3(name, config) => Box::new(Soft::new(config.open(name)?)),
            Self::Stream(config) => Box::new(Soft::new(StreamSocket::open(config)?)),
            Self::Stdio(role) => {
                let opened = Stdio::open(role);
                let error = |source| OpenError::Host { act: "use standard input and output", source };
                Box::new(Soft::new(opened.map_err(error)?))
            }
            Self::Cmd { name, argv } => {
                let started = Cmd::open(name.clone(), &argv);
                Box::new(Soft::new(started.map_err(|source| OpenError::Start { name, source })?))
            }
            Self::Ssh(config) => {
                let name = config.name.clone();
                Box::new(Soft::new(Ssh::open(config).map_err(|source| OpenError::Start { name, source })?))
            }
            Self::Reconnect { name, inner, pauses } => Box::new(Soft::new(Reconnect::open(name, *inner, pauses)?)),
            Self::User(name, config) => Box::new(Soft::new(User::new(name, *config)?)),
            Self::Impair(inner, config) => Box::new(Soft::new(Impair::open(inner.open()?, &config)?)),
            Self::Quic(config) => Box::new(Soft::new(Quic::open(&config)?)),
        })
    }
}

impl TapSpec {
    /// Opens the interface, or takes it over.
    ///
    /// # Errors
    /// [`OpenError::Descriptor`] if nobody has left one under that number, [`OpenError::Tap`].
    pub fn open(self) -> Result<Tap, OpenError> {
        let mut tap = match self.fd {
            Some(fd) => Tap::adopt(duplicate(fd).map_err(|source| OpenError::Descriptor { fd, source })?)?,
            None => Tap::open(&self.name)?,
        };
        if let Some(mtu) = self.mtu {
            tap.set_mtu(mtu)?;
        }
        if let Some(persist) = self.persist {
            tap.set_persistent(persist)?;
        }
        match self.up {
            BringUp::No => {}
            BringUp::Try => match tap.set_up(true) {
                Err(TapError::System { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
                outcome => outcome?,
            },
            BringUp::Yes => tap.set_up(true)?,
        }
        Ok(tap)
    }
}

fn parse_null(locator: Locator) -> Result<Spec, LocatorError> {
    no_address(&locator)?;
    locator.options.finish()?;
    Ok(Spec::Null)
}

fn parse_pcap(mut locator: Locator) -> Result<Spec, LocatorError> {
    let path = address_or(&mut locator, "file")?;
    let options = &mut locator.options;
    if path.is_empty() {
        return Err(options.bad_value("file", "", &"expected a path, as in pcap:///tmp/lab.pcap"));
    }
    let snap_len = options.take_parsed("len")?.unwrap_or(PcapConfig::DEFAULT_SNAP_LEN);
    if snap_len == 0 {
        return Err(options.bad_value("len", "0", &"a capture keeps at least 1 byte of each frame"));
    }
    let resolution = match options.take("time")?.as_deref() {
        None | Some("micro") => Resolution::Micro,
        Some("nano") => Resolution::Nano,
        Some(other) => return Err(options.bad_value("time", other, &"expected micro or nano")),
    };
    locator.options.finish()?;
    Ok(Spec::Pcap(PcapConfig { path: path.into(), snap_len, resolution }))
}

fn parse_tap(mut locator: Locator) -> Result<Spec, LocatorError> {
    let name = address_or(&mut locator, "ifname")?;
    let options = &mut locator.options;
    let fd = options.take_parsed::<i32>("fd")?;
    if let Some(fd) = fd.filter(|fd| *fd < 0 || !name.is_empty()) {
        let why = "expected the number of an open descriptor, and no interface name with it";
        return Err(options.bad_value("fd", &fd.to_string(), &why));
    }
    let mtu = options.take_parsed::<u16>("mtu")?;
    if let Some(mtu) = mtu.filter(|mtu| *mtu < 68) {
        return Err(options.bad_value("mtu", &mtu.to_string(), &"an IPv4 link carries at least 68 bytes (RFC 791)"));
    }
    let up = match options.take("up")?.as_deref() {
        None | Some("off") => BringUp::No,
        Some("try") => BringUp::Try,
        Some("on") => BringUp::Yes,
        Some(other) => return Err(options.bad_value("up", other, &"expected on, off or try")),
    };
    let persist = options.take_switch("persist")?;
    only(options, "script", &["no", ""], "scripts are not run; bring the interface up with up=on, or with ifup")?;
    only(options, "downscript", &["no", ""], "scripts are not run")?;
    only(options, "vhost", &["off"], "frames pass through this process, not through the kernel's vhost")?;
    only(options, "queues", &["1"], "an interface has one queue here")?;
    only(options, "vnet_hdr", &["on"], "the header is used wherever the interface has it")?;
    locator.options.finish()?;
    Ok(Spec::Tap(TapSpec { name, fd, mtu, up, persist }))
}

/// vdeplug4's `DIR[PORT/group=NAME/mode=OCTAL]`, QEMU's `sock=DIR,port=N,group=NAME,mode=OCTAL`, and any mixture that
/// says nothing twice. A switch's directory whose name ends in `]` is told by `sock=`.
fn parse_vde(mut locator: Locator) -> Result<Spec, LocatorError> {
    let address = std::mem::take(&mut locator.address);
    let (dir, bracket) = match address.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        Some((dir, inside)) => (dir, inside),
        None => (address.as_str(), ""),
    };
    let options = &mut locator.options;
    let mut in_bracket = [None, None, None];
    let keys = ["port", "group", "mode"];
    for item in bracket.split('/').filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').unwrap_or(("port", item));
        match keys.iter().zip(&mut in_bracket).find(|(known, _)| **known == key) {
            Some((_, place)) if place.is_none() => *place = Some(value.to_owned()),
            Some(_) => return Err(options.bad_value(key, value, &"it is given twice")),
            None => return Err(options.bad_value(key, value, &"only port, group and mode stand in brackets")),
        }
    }
    let mut take = |key: &str, in_bracket: Option<String>| match (options.take(key)?, in_bracket) {
        (Some(value), Some(other)) => Err(options.bad_value(key, &value, &format!("'{other}' is given already"))),
        (value, other) => Ok(value.or(other)),
    };
    let [port, group, mode] = in_bracket;
    let (port, group, mode) = (take("port", port)?, take("group", group)?, take("mode", mode)?);
    let sock = take("sock", (!dir.is_empty()).then(|| dir.to_owned()))?.filter(|dir| !dir.is_empty());

    let mut config = VdeConfig { dir: sock.map(Into::into), group, ..VdeConfig::default() };
    if let Some(port) = port {
        let error = || options.bad_value("port", &port, &format!("expected 0 (any) to {MAX_PORT}"));
        config.port = port.parse().ok().filter(|port| *port <= MAX_PORT).ok_or_else(error)?;
    }
    if let Some(mode) = mode {
        let error = || options.bad_value("mode", &mode, &"expected permissions in octal, as in 660");
        config.mode = Some(u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(error)?);
    }
    if let Some(mtu) = take_mtu(options)? {
        config.mtu = mtu;
    }
    config.description = options.take("description")?;
    if let Some(words) = config.description.as_ref().filter(|words| words.len() > Request::MAX_DESCRIPTION) {
        let why = format!("at most {} bytes", Request::MAX_DESCRIPTION);
        return Err(options.bad_value("description", words, &why));
    }
    locator.options.finish()?;
    Ok(Spec::Vde(config))
}

fn parse_stdio(locator: Locator) -> Result<Spec, LocatorError> {
    no_address(&locator)?;
    locator.options.finish()?;
    Ok(Spec::Stdio(StdioRole::Plain))
}

fn parse_cmd(locator: Locator) -> Result<Spec, LocatorError> {
    let name = locator.to_string();
    let command = locator.address;
    if command.is_empty() {
        return Err(locator.options.bad_value("command", "", &"expected a command, as in cmd://vde_plug /run/lab"));
    }
    locator.options.finish()?;
    Ok(Spec::Cmd { name, argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), command] })
}

fn parse_reconnect(mut locator: Locator) -> Result<Spec, LocatorError> {
    let inner = locator.take_nested()?;
    let options = &mut locator.options;
    let mut pauses = Pauses::default();
    if let Some(min) = take_seconds(options, "min")? {
        pauses.min = min;
    }
    pauses.max = take_seconds(options, "max")?.unwrap_or(pauses.max).max(pauses.min);
    locator.options.finish()?;
    Ok(Spec::Reconnect { name: inner.to_string(), inner: Box::new(Spec::parse(&inner)?), pauses })
}

fn parse_impair(mut locator: Locator) -> Result<Spec, LocatorError> {
    let inner = Spec::parse(&locator.take_nested()?)?;
    let config = ImpairConfig::take_from(&mut locator.options)?;
    locator.options.finish()?;
    Ok(Spec::Impair(Box::new(inner), Box::new(config)))
}

/// What stands behind `://`, or the value of the key that says the same in QEMU's spelling.
fn address_or(locator: &mut Locator, key: &str) -> Result<String, LocatorError> {
    match locator.options.take(key)? {
        Some(value) if locator.address.is_empty() => Ok(value),
        Some(value) => Err(locator.options.bad_value(key, &value, &format!("'{}' is given already", locator.address))),
        None => Ok(std::mem::take(&mut locator.address)),
    }
}

fn no_address(locator: &Locator) -> Result<(), LocatorError> {
    if locator.address.is_empty() {
        return Ok(());
    }
    Err(locator.options.bad_value("address", &locator.address, &format!("{}:// has none", locator.scheme)))
}

/// Takes a key that has only these values here.
fn only(options: &mut Options, key: &str, values: &[&str], why: &str) -> Result<(), LocatorError> {
    match options.take(key)? {
        Some(value) if !values.contains(&value.as_str()) => Err(options.bad_value(key, &value, &why)),
        _ => Ok(()),
    }
}

fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; any number may be asked about.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use link::stream::{Role, StreamAddress};

    use super::*;

    fn ours(text: &str) -> Result<Spec, LocatorError> {
        Spec::parse(&text.parse()?)
    }

    fn qemu(text: &str) -> Result<Spec, LocatorError> {
        Spec::parse(&Locator::from_qemu(text))
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let tap = TapSpec { name: "tap0".to_owned(), mtu: Some(9000), ..TapSpec::default() };
        assert_eq!(ours("tap://tap0?mtu=9000"), Ok(Spec::Tap(tap.clone())));
        assert_eq!(qemu("tap,ifname=tap0,script=no,downscript=no,vhost=off,mtu=9000"), Ok(Spec::Tap(tap)));
        assert_eq!(qemu("tap,fd=7"), Ok(Spec::Tap(TapSpec { fd: Some(7), ..TapSpec::default() })));
        let config = PcapConfig { snap_len: 96, resolution: Resolution::Nano, ..PcapConfig::new("/tmp/x.pcap") };
        assert_eq!(ours("pcap:///tmp/x.pcap?len=96&time=nano"), Ok(Spec::Pcap(config.clone())));
        assert_eq!(qemu("pcap,file=/tmp/x.pcap,len=96,time=nano"), Ok(Spec::Pcap(config)));
        let stream = |address, role| match address {
            Ok(Spec::Stream(config)) => config.role == role && config.address == StreamAddress::Inet("h:1".to_owned()),
            other => panic!("{other:?}"),
        };
        assert!(stream(ours("stream://h:1"), Role::Connect(None)) && stream(ours("listen://h:1"), Role::Listen));
        assert!(stream(qemu("stream,server=on,addr.type=inet,addr.host=h,addr.port=1"), Role::Listen));
        let again = Role::Connect(Some(Duration::from_millis(1500)));
        assert!(stream(ours("stream://h:1?reconnect=1.5"), again));
        assert!(stream(qemu("stream,addr.type=inet,addr.host=h,addr.port=1,reconnect-ms=1500"), again));
        assert!(stream(qemu("socket,connect=h:1"), Role::Connect(None)));
        assert!(stream(qemu("socket,listen=h:1"), Role::Listen));
        let Ok(Spec::Cmd { argv, .. }) = ours("cmd://echo '?x=%20&' | cat") else { panic!() };
        assert_eq!(argv[2], "echo '?x=%20&' | cat");
        let Ok(Spec::Reconnect { inner, pauses, .. }) = ours("reconnect://{vde:///x?port=2}?max=9") else { panic!() };
        assert_eq!((*inner, pauses.max), (ours("vde:///x?port=2").unwrap(), Duration::from_secs(9)));
        assert_eq!(ours("null://"), Ok(Spec::Null));
        let Ok(Spec::Impair(inner, config)) =
            ours("impair://{pcap:///x?len=9}?loss=1%,25%&tx.loss=2&seed=5&control=/c")
        else {
            panic!("it is no such link")
        };
        assert_eq!(*inner, Spec::Pcap(PcapConfig { snap_len: 9, ..PcapConfig::new("/x") }));
        let shown = |settings: &crate::impair::settings::Settings| settings.shown().collect::<Vec<_>>();
        assert_eq!(shown(&config.sides.tx), [("loss", "2%".to_owned())]);
        assert_eq!(shown(&config.sides.rx), [("loss", "1%,25%".to_owned())]);
        assert_eq!((config.seed, config.control), (Some(5), Some("/c".into())));
        assert!(matches!(qemu("user,hostfwd=tcp::2222-:22"), Ok(Spec::User(..))));
        let vde = VdeConfig {
            dir: Some("/run/lab".into()),
            port: 3,
            group: Some("vde".to_owned()),
            mode: Some(0o660),
            ..VdeConfig::default()
        };
        assert_eq!(ours("vde:///run/lab[3/group=vde/mode=660]"), Ok(Spec::Vde(vde.clone())));
        assert_eq!(ours("vde:///run/lab[port=3]?group=vde&mode=0660"), Ok(Spec::Vde(vde.clone())));
        assert_eq!(ours("vde:///run/lab?port=3&group=vde&mode=660"), Ok(Spec::Vde(vde.clone())));
        assert_eq!(qemu("vde,sock=/run/lab,port=3,group=vde,mode=0660"), Ok(Spec::Vde(vde)));
        assert_eq!(ours("vde://"), Ok(Spec::Vde(VdeConfig::default())));
        let named = VdeConfig { mtu: 9000, description: Some("lab".to_owned()), ..VdeConfig::default() };
        assert_eq!(ours("vde://?mtu=9000&description=lab"), Ok(Spec::Vde(named)));
        assert!(matches!(ours("quic://host:4433?mtu=9000"), Ok(Spec::Quic(config)) if config.mtu == 9000));
        assert!(matches!(qemu("quic,listen=:4433,trust=first"), Ok(Spec::Quic(_))));
    }

    #[test]
    fn what_a_kind_does_not_take_is_named() {
        let refused = |text: &str, words: &str| {
            let error = ours(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        };
        refused("carrier-pigeon://", "unknown kind of link 'carrier-pigeon'");
        refused("tap://tap0?colour=red", "tap: unknown option 'colour'");
        refused("tap://tap0?ifname=tap1", "tap: ifname=tap1: 'tap0' is given already");
        refused("tap://tap0?fd=3", "tap: fd=3: expected");
        refused("tap://?fd=-1", "tap: fd=-1: expected");
        refused("tap://tap0?mtu=67", "tap: mtu=67: ");
        refused("tap://tap0?up=perhaps", "tap: up=perhaps: expected on, off or try");
        refused("tap://tap0?script=/etc/qemu-ifup", "tap: script=/etc/qemu-ifup: ");
        refused("null://x", "null: address=x: null:// has none");
        refused("pcap://", "pcap: file=: expected a path");
        refused("pcap://x?len=0", "pcap: len=0: ");
        refused("pcap://x?time=pico", "pcap: time=pico: expected micro or nano");
        refused("vde:///run/lab[3]?port=4", "vde: port=4: '3' is given already");
        refused("vde:///run/lab?sock=/run/other", "vde: sock=/run/other: '/run/lab' is given already");
        refused("vde:///run/lab[3/4]", "vde: port=4: it is given twice");
        refused("vde:///run/lab[colour=red]", "vde: colour=red: only port, group and mode");
        refused("vde:///run/lab[x]", "vde: port=x: expected 0 (any) to 16777215");
        refused("vde:///run/lab?mode=888", "vde: mode=888: expected permissions in octal");
        refused("vde:///run/lab?mtu=9217", "vde: mtu=9217: expected 68 to 9216 bytes");
        refused("stream://host", "stream: address=host: expected HOST:PORT");
        refused("listen://h:1?reconnect=-1", "listen: reconnect=-1: expected seconds");
        refused("cmd://", "cmd: command=: expected a command");
        refused("reconnect://vde:///x", "reconnect: expected a locator in braces");
        refused("reconnect://{vde:///x?colour=1}", "vde: unknown option 'colour'");
        refused("impair://tap0", "impair: expected a locator in braces");
        refused("impair://{hat://}", "unknown kind of link 'hat'");
        refused("impair://{null://?x=1}", "null: unknown option 'x'");
        refused("impair://{null://}?x=1", "impair: unknown option 'x'");
        refused("impair://{null://}?tx.loss=many", "impair: tx.loss=many: expected a percentage");
        refused("impair://{null://}?rx.reorder=5%", "impair: rx.reorder=5%: frames overtake others only where");
        refused("impair://{null://}?seed=x", "impair: seed=x: ");
        refused("impair://{null://}?control=", "impair: control=: expected a path");
        refused("user://?nett=1", "user: unknown option 'nett'");
        refused("quic://host", "quic: address=host: expected HOST:PORT");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let refused = |text: &str| ours(text).unwrap().open().map(drop).unwrap_err().to_string();
        assert_eq!(refused("tap://?fd=1000"), "fd=1000: Bad file descriptor");
        assert_eq!(refused("impair://{tap://?fd=1000}"), "fd=1000: Bad file descriptor");
        assert!(
            refused("impair://{null://}?control=/nowhere/x")
                .starts_with("control socket: cannot bind /nowhere/x: No such")
        );
        assert!(refused("pcap:///nowhere/x").starts_with("/nowhere/x: No such file"));
        assert_eq!(refused("vde:///nowhere"), "vde:///nowhere: no switch is running there (no such directory)");
        assert!(refused("tap://much-too-long-a-name").contains("is no interface name"));
    }

    #[test]
    fn an_opened_link_takes_every_offload() {
        for text in ["null://", "user://", "pcap:///dev/null", "impair://{user://}?loss=1%"] {
            let link = ours(text).unwrap().open().unwrap();
            assert_eq!(link.capabilities().offloads, link::Offloads::ALL, "{text}");
        }
    }
}

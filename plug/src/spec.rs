//! What a locator means: each kind's keys, taken out and checked, as plain data that can be opened.
//!
//! The keys are QEMU's where QEMU has the kind (qemu(1), "Network options"). A key of QEMU's that asks for something we
//! do otherwise is taken with the value that asks for nothing: `script=no`, `vhost=off`, `queues=1`.
//!
//! Neighbours: the links themselves in `link`; `user` for the NAT, whose settings `slirp` takes; `quic`, which takes its
//! locators apart itself.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use link::datagram::JUMBO_MTU;
use link::vde::wire::{MAX_PORT, Request};
use link::{
    Link, Locator, LocatorError, Null, Options, Pcap, PcapConfig, Resolution, Soft, Tap, TapError, Vde, VdeConfig,
};

use crate::{OpenError, Quic, QuicConfig, User};

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
    /// `user://`: the name under which its messages appear, and its settings.
    User(String, Box<slirp::Config>),
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
            "user" => Ok(Self::User(locator.to_string(), Box::new(User::config(locator)?))),
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
            Self::User(name, config) => Box::new(Soft::new(User::new(name, *config)?)),
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
    if let Some(mtu) = options.take_parsed::<u16>("mtu")? {
        if !(68..=JUMBO_MTU).contains(&mtu) {
            return Err(options.bad_value("mtu", &mtu.to_string(), &format!("expected 68 to {JUMBO_MTU} bytes")));
        }
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
        assert_eq!(ours("null://"), Ok(Spec::Null));
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
        refused("user://?nett=1", "user: unknown option 'nett'");
        refused("quic://host", "quic: address=host: expected HOST:PORT");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let refused = |text: &str| ours(text).unwrap().open().map(drop).unwrap_err().to_string();
        assert_eq!(refused("tap://?fd=1000"), "fd=1000: Bad file descriptor");
        assert!(refused("pcap:///nowhere/x").starts_with("/nowhere/x: No such file"));
        assert_eq!(refused("vde:///nowhere"), "vde:///nowhere: no switch is running there (no such directory)");
        assert!(refused("tap://much-too-long-a-name").contains("is no interface name"));
    }

    #[test]
    fn an_opened_link_takes_every_offload() {
        for text in ["null://", "user://", "pcap:///dev/null"] {
            let link = ours(text).unwrap().open().unwrap();
            assert_eq!(link.capabilities().offloads, link::Offloads::ALL, "{text}");
        }
    }
}

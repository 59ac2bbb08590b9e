//! What a locator means: each kind's keys, taken out and checked, as plain data that can be opened.
//!
//! The keys are QEMU's where QEMU has the kind (qemu(1), "Network options"). A key of QEMU's that asks for something we
//! do otherwise is taken with the value that asks for nothing: `script=no`, `vhost=off`, `queues=1`.
//!
//! Neighbours: the links themselves in `link`; `user` for the NAT, whose settings `slirp` takes.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use link::{Link, Locator, LocatorError, Null, Options, Pcap, PcapConfig, Resolution, Soft, Tap};

use crate::{OpenError, User};

/// A link to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `null://`: frames go nowhere.
    Null,
    /// `pcap://file?len=BYTES&time=micro|nano`: frames go into a capture and nowhere else.
    Pcap(PcapConfig),
    /// `tap://name`.
    Tap(TapSpec),
    /// `user://`: the name under which its messages appear, and its settings.
    User(String, Box<slirp::Config>),
}

/// A TAP: `tap://name?mtu=BYTES&up=on&persist=on`, or `tap://?fd=N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSpec {
    /// The interface; empty lets the kernel choose.
    pub name: String,
    /// A descriptor that this process has inherited, instead of a name. It is duplicated.
    pub fd: Option<i32>,
    /// The MTU to set, in bytes.
    pub mtu: Option<u16>,
    /// Whether to bring the interface up.
    pub up: bool,
    /// Whether the interface stays when the link is closed, if that is to be changed.
    pub persist: Option<bool>,
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
            "user" => Ok(Self::User(locator.to_string(), Box::new(User::config(locator)?))),
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
            Self::User(name, config) => Box::new(Soft::new(User::new(name, *config)?)),
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
        if self.up {
            tap.set_up(true)?;
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
    let up = options.take_switch("up")?.unwrap_or(false);
    let persist = options.take_switch("persist")?;
    only(options, "script", &["no", ""], "scripts are not run; bring the interface up with up=on, or with ifup")?;
    only(options, "downscript", &["no", ""], "scripts are not run")?;
    only(options, "vhost", &["off"], "frames pass through this process, not through the kernel's vhost")?;
    only(options, "queues", &["1"], "an interface has one queue here")?;
    only(options, "vnet_hdr", &["on"], "the header is used wherever the interface has it")?;
    locator.options.finish()?;
    Ok(Spec::Tap(TapSpec { name, fd, mtu, up, persist }))
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
        refused("tap://tap0?script=/etc/qemu-ifup", "tap: script=/etc/qemu-ifup: ");
        refused("null://x", "null: address=x: null:// has none");
        refused("pcap://", "pcap: file=: expected a path");
        refused("pcap://x?len=0", "pcap: len=0: ");
        refused("pcap://x?time=pico", "pcap: time=pico: expected micro or nano");
        refused("user://?nett=1", "user: unknown option 'nett'");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let refused = |text: &str| ours(text).unwrap().open().map(drop).unwrap_err().to_string();
        assert_eq!(refused("tap://?fd=1000"), "fd=1000: Bad file descriptor");
        assert!(refused("pcap:///nowhere/x").starts_with("/nowhere/x: No such file"));
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

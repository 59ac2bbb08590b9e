//! From a [`Plan`] to a running NAT: everything that can fail fails here, before a frame is carried.
//!
//! The order matters: descriptors that were left to this process are taken before others get their numbers, the process in
//! the namespace is started while there is one thread, and who waits for readiness is told last.

use std::fmt::Display;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::anyhow;
use link::{Link, Pcap, PcapConfig, Soft};
use nat::{Nat, Sockets};
use nix::ifaddrs::getifaddrs;
use nix::unistd::geteuid;
use program::confine::{Capability, Confinement, confine};
use program::process::{self, Keeper, PidFile};
use program::signals::Signals;

use crate::api::Api;
use crate::cli::{End, Plan, Source};
use crate::router::{Ending, Router};

/// Sets everything up and runs until the end.
///
/// # Errors
/// What could not be had, or why the link has ended.
pub fn run(plan: Plan) -> anyhow::Result<()> {
    let ready = plan.ready.map(inherited).transpose()?;
    let exit = plan.exit.map(inherited).transpose()?;
    // Each flow has one.
    process::raise_descriptor_limit();
    let background = if plan.daemon { Some(process::daemonize()?) } else { None };
    let signals = Signals::block()?;
    let _pid_file = plan.pidfile.as_deref().map(PidFile::create).transpose()?;

    let confinement = if plan.confine { confinement(&plan) } else { None };
    let files = files(&plan);
    let source = plan.source.map(address_of).transpose()?;
    let source6 = plan.source6.map(address6_of).transpose()?;
    let sockets = Sockets::new()?.with_source(source).with_source6(source6).prepare(&plan.nat)?;
    let nat = Nat::new(plan.nat, sockets, random(), Instant::now())?;
    let mut link: Box<dyn Link> = match plan.end {
        End::Link(spec) => spec.open()?,
        End::Namespace(namespace) => Box::new(Soft::new(namespace.open()?)),
    };
    if let Some(path) = plan.pcap {
        link = Box::new(Pcap::create(link, &PcapConfig::new(path))?);
    }
    let name = link.name().to_owned();
    let mut router = Router::new(nat, link, signals).map_err(failed(&name))?;
    if let Some(path) = &plan.api {
        router.serve(Api::open(path, plan.api_guest)?).map_err(failed(&path.display()))?;
    }
    if let Some(exit) = exit {
        router.end_with(exit).map_err(failed(&"--exit-fd"))?;
    }

    // Everything is open.
    let _keeper = match confinement {
        Some(confinement) => {
            let keeper = if files.is_empty() { None } else { Some(Keeper::start(files)?) };
            confine(&confinement)?.log();
            keeper
        }
        None => None,
    };
    if let Some(text) = plan.announcement {
        let mut out = io::stdout();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed(&"standard output"))?;
    }
    if let Some(background) = background {
        background.detach()?;
    }
    if let Some(ready) = ready {
        File::from(ready).write_all(b"1").map_err(failed(&"--ready-fd"))?;
    }
    let ending = router.run().map_err(failed(&"event loop"))?;
    tell(&router);
    match ending {
        Ending::Asked => Ok(()),
        Ending::Link(error) if error.to_string().contains("://") => Err(error.into()),
        Ending::Link(error) => Err(failed(&name)(error)),
    }
}

/// What is kept once everything is open; nothing if the link may need anything later.
fn confinement(plan: &Plan) -> Option<Confinement> {
    let link = match &plan.end {
        End::Link(spec) => spec.needs().inspect_err(|why| log::info!("not confined: {why}")).ok()?,
        End::Namespace(_) => Confinement::for_tap(),
    };
    let mut kept = link.and(plug::nat_needs(&plan.nat));
    // Rules that come by the API may name low ports.
    if plan.api.is_some() && geteuid().is_root() {
        kept.capabilities.push(Capability::NetBindService);
    }
    Some(kept)
}

/// What is removed at the end.
fn files(plan: &Plan) -> Vec<PathBuf> {
    let entrances = plug::entrances(&plan.nat).map(Path::to_owned);
    plan.pidfile.iter().chain(&plan.api).cloned().chain(entrances).collect()
}

/// The error of what has this name.
fn failed(object: &dyn Display) -> impl FnOnce(io::Error) -> anyhow::Error {
    let object = object.to_string();
    move |source| anyhow!("{object}: {}", link::reason(&source))
}

/// Logs what has passed.
fn tell(router: &Router) {
    let counters = router.counters();
    let drops: Vec<_> = counters.drops.iter().map(|(reason, frames)| format!("{frames} {reason}")).collect();
    let (sent, received) = (counters.tx_frames, counters.rx_frames);
    log::info!("{}: {sent} frames sent, {received} received; dropped: [{}]", router.name(), drops.join(", "));
}

/// A descriptor that was left to this process under a number.
fn inherited(fd: RawFd) -> anyhow::Result<OwnedFd> {
    // SAFETY: no pointers; any number may be asked about.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(anyhow!("descriptor {fd}: {}", link::reason(&io::Error::last_os_error())));
    }
    // SAFETY: it is open, and nobody has opened anything here yet: whoever started this program left it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address_of(source: Source) -> anyhow::Result<Ipv4Addr> {
    let address = own_address(&source, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })?;
    address.ok_or_else(|| anyhow!("--outbound-addr: '{source}' is no IPv4 address, and no interface that has one"))
}

fn address6_of(source: Source) -> anyhow::Result<Ipv6Addr> {
    let address = own_address(&source, |address| match address {
        // A link-local address is of use on one link alone.
        IpAddr::V6(address) => Some(address).filter(|address| !address.is_unicast_link_local()),
        IpAddr::V4(_) => None,
    })?;
    address.ok_or_else(|| anyhow!("--outbound-addr6: '{source}' is no IPv6 address, and no interface that has one"))
}

/// The first address that is wanted.
fn own_address<A>(source: &Source, wanted: impl Fn(IpAddr) -> Option<A>) -> anyhow::Result<Option<A>> {
    let name = match source {
        Source::Address(address) => return Ok(wanted(*address)),
        Source::Interface(name) => name,
    };
    let interfaces = getifaddrs().map_err(|error| failed(&"list of interfaces")(error.into()))?;
    let own = interfaces.filter(|interface| interface.interface_name == *name).filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    });
    Ok(own.filter_map(wanted).next())
}

/// 64 bits of the operating system's randomness, by way of the keys of the standard library's hash tables.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

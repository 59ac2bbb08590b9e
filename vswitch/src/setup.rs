//! From a [`Config`] to a [`Server`]: everything that can fail fails here, before the switch carries a frame.
//!
//! The order matters: the doors are opened before links are, so that a second switch on the same directory ends before it
//! takes a TAP away; and the rc file comes last, since its commands may speak of ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use link::{InterfaceWatch, MacAddr};
use mio::unix::SourceFd;
use mio::{Interest, Poll};
use nix::unistd::Group;
use program::signals::Signals;

use crate::about::About;
use crate::bridge::Bridge;
use crate::console::{ConsoleError, Consoles};
use crate::options::Config;
use crate::server::Server;
use crate::stp::{BridgeSettings, Stp};
use crate::switch::{Switch, SwitchError, Wake};
use crate::vde::{Listener, Settings, VdeError};
use crate::watch::{WatchError, Watchers};

/// Why a switch does not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The operating system refused what every switch needs.
    #[error("cannot {act}: {}", link::reason(.source))]
    Host {
        /// What was to be done.
        act: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// No such group.
    #[error("there is no group '{0}'")]
    NoGroup(String),
    /// The control socket.
    #[error(transparent)]
    Vde(#[from] VdeError),
    /// A port from the command line.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The console, or the rc file.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The sockets of those who watch.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// Opens everything a switch has; `signals` end it.
///
/// # Errors
/// [`SetupError`] names what could not be had.
pub fn set_up(config: &Config, signals: Signals) -> Result<Server, SetupError> {
    let host = |act| move |source| SetupError::Host { act, source };
    let group = config.group.as_deref().map(group_id).transpose()?;
    let mgmt_group = config.mgmt_group.as_deref().map(group_id).transpose()?;
    let poll = Poll::new().map_err(host("make an event loop"))?;
    let registry = poll.registry();
    let watch = |fd, wake: Wake| registry.register(&mut SourceFd(&fd), wake.token(), Interest::READABLE);
    watch(signals.as_raw_fd(), Wake::Signal).map_err(host("watch for signals"))?;
    let interfaces = InterfaceWatch::open().map_err(host("watch interfaces"))?;
    watch(interfaces.as_raw_fd(), Wake::Interfaces).map_err(host("watch interfaces"))?;

    let settings = Settings { dir: config.dir.clone(), mode: config.mode, dir_mode: config.dir_mode, group };
    let mut door = Listener::open(settings)?;
    door.register(registry, Wake::Door.token()).map_err(host("watch the control socket"))?;
    let about = About {
        name: program::messages::invocation_name(),
        dir: door.dir().to_owned(),
        mgmt: config.mgmt.clone(),
        started: SystemTime::now(),
        begun: Instant::now(),
    };
    let mut consoles = Consoles::open(config, mgmt_group, registry)?;
    let watchers = Watchers::open(config, &door, registry)?;

    let registry_of_switch = registry.try_clone().map_err(host("make an event loop"))?;
    let mut switch = new_switch(config, registry_of_switch);
    for locator in &config.ports {
        switch.add_link(locator, None)?;
    }
    if let Some(file) = config.rcfile.clone().or_else(usual_rc_file) {
        consoles.run_file(&file, &mut switch, &about)?;
    }
    Ok(Server { poll, signals, switch, door, interfaces, consoles, watchers, about })
}

fn new_switch(config: &Config, registry: mio::Registry) -> Switch {
    let mut bridge = Bridge::new(random());
    bridge.set_hub(config.hub);
    bridge.set_ageing(config.ageing);
    bridge.set_snooping(config.snooping);
    let address = config.mac.unwrap_or_else(random_address);
    let stp = Stp::new(BridgeSettings { priority: config.priority, address });
    let mut switch = Switch::new(bridge, stp, config.numports, registry);
    if config.fstp {
        switch.with_stp(Stp::enable);
    }
    switch
}

/// The first of VDE's usual rc files that exists.
fn usual_rc_file() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".vde2/vde_switch.rc"));
    home.into_iter().chain([PathBuf::from("/etc/vde2/vde_switch.rc")]).find(|path| path.exists())
}

fn group_id(name: &str) -> Result<u32, SetupError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found =
        Group::from_name(name).map_err(|error| SetupError::Host { act: "look up a group", source: error.into() });
    found?.map(|group| group.gid.as_raw()).ok_or_else(|| SetupError::NoGroup(name.to_owned()))
}

/// An address of our own choice: unicast, locally administered (IEEE 802-2014 §8.4).
fn random_address() -> MacAddr {
    let [a, b, c, d, e, ..] = random().to_ne_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

/// 64 bits of the operating system's randomness, by way of the keys of the standard library's hash tables.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

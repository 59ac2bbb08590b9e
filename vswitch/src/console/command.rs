//! The commands: a line in, a typed [`Command`] out. Pure; nothing is looked up, and nothing is done.
//!
//! A line begins with a command's path, and arguments follow. As in vde_switch the path need not be set off
//! (`port/print3`), and the longest one that fits counts. Unlike there, numbers are numbers to their last digit, and a
//! word too many is an error, unless it begins with `#`: from there on a line is a comment.
//!
//! One table has them all, with the words that `help` shows.
//!
//! Neighbours: `answer` for what is said in return; each topic's file carries its commands out.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use link::{Locator, MacAddr};

use crate::stp::Edge;
use crate::{PortId, VlanId};

/// What a console can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The commands whose path begins so.
    Help(String),
    /// This session ends.
    Logout,
    /// The switch ends.
    Shutdown,
    /// What the switch is.
    ShowInfo,
    /// The commands of a file.
    Load(PathBuf),
    /// Where clients join.
    DataSocket,
    /// Which way a frame would go, and why.
    Explain {
        /// From whom.
        source: MacAddr,
        /// To whom.
        destination: MacAddr,
        /// Where it comes in; otherwise where its source was last heard.
        port: Option<PortId>,
        /// Its VLAN; otherwise none, or the lowest where the source is known.
        vlan: Option<VlanId>,
    },
    /// What to tell this session as it happens.
    Debug(Debug),
    /// Plugins, of which there are none.
    Plugin(Plugin),
    /// Stations.
    Hash(Hash),
    /// Spanning tree.
    Fstp(Fstp),
    /// Ports.
    Port(Port),
    /// VLANs.
    Vlan(Vlan),
    /// Copies for those who watch.
    Mirror(Mirror),
    /// Groups and who listens to them.
    Multicast(Multicast),
}

/// `debug/…`; a category is named by its path, or several by how their paths begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Debug {
    /// The categories.
    List,
    /// Tell of these.
    Add(String),
    /// No longer.
    Del(String),
}

/// `plugin/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Those loaded.
    List,
    /// Load one.
    Add,
    /// Unload one.
    Del,
}

/// `hash/…`; times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// The settings.
    ShowInfo,
    /// The size to show.
    SetSize(u32),
    /// The interval to show.
    SetGcInterval(u32),
    /// How long a station is remembered.
    SetExpire(u32),
    /// How long a station stays before it can move.
    SetMinPersistence(u32),
    /// All stations.
    Print,
    /// One station.
    Find(MacAddr, VlanId),
    /// A static entry.
    Add(MacAddr, PortId, VlanId),
    /// Removes an entry, static or learned.
    Del(MacAddr, VlanId),
}

/// `fstp/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fstp {
    /// The settings.
    ShowInfo,
    /// On or off.
    Set(bool),
    /// Whether a port has stations only behind it.
    SetEdge(VlanId, PortId, bool),
    /// What a port costs less than others.
    Bonus(VlanId, PortId, u32),
    /// The tree.
    Print(Option<VlanId>),
    /// The bridge priority.
    SetPriority(u16),
}

/// Frames that storm control counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storm {
    /// To everybody.
    Broadcast,
    /// To groups.
    Multicast,
    /// To stations that are not known.
    Unknown,
}

/// `port/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// The settings of all.
    ShowInfo,
    /// How many there may be.
    SetNumPorts(u32),
    /// Hub or switch.
    SetHub(bool),
    /// The VLAN of frames without a tag; none refuses them.
    SetVlan(PortId, Option<VlanId>),
    /// Makes the first that does not exist.
    CreateAuto,
    /// Makes this one.
    Create(PortId),
    /// Removes it.
    Remove(PortId),
    /// Whether a client that asks for none may get it.
    Allocatable(PortId, bool),
    /// The one user who may join it.
    SetUser(PortId, Option<String>),
    /// The one group that may join it.
    SetGroup(PortId, Option<String>),
    /// Takes a member out.
    EndpointClose(PortId, u32),
    /// Counts from zero.
    ResetCounter(Option<PortId>),
    /// Those in use.
    Print(Option<PortId>),
    /// All.
    AllPrint(Option<PortId>),
    /// Plugs a link in.
    Add(Option<PortId>, Locator),
    /// Takes the links that the switch has opened out.
    Del(PortId),
    /// What else is set.
    Settings(Option<PortId>),
    /// Dropped frames by reason.
    Drops(Option<PortId>),
    /// Back into all VLANs.
    Transparent(PortId),
    /// Storm control.
    Storm(PortId, Storm, Option<u32>),
    /// How many stations it may bring in.
    MacLimit(PortId, Option<u32>),
    /// Whether its sources are learned.
    Learning(PortId, bool),
    /// Whether stations only are behind it.
    Edge(PortId, Edge),
    /// Its path cost.
    Cost(PortId, u32),
    /// Whether a BPDU shuts it.
    Guard(PortId, bool),
    /// Opens it again.
    GuardReset(PortId),
}

/// `vlan/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlan {
    /// Makes one.
    Create(VlanId),
    /// Removes one.
    Remove(VlanId),
    /// Puts a port into one, tagged.
    AddPort(VlanId, PortId),
    /// Takes it out.
    DelPort(VlanId, PortId),
    /// Those there are, with the ports in use.
    Print(Option<VlanId>),
    /// Those there are, with all their ports.
    AllPrint(Option<VlanId>),
}

/// `mirror/…`; a mirror is named by its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// Copies what ports receive, send, or both.
    AddPorts {
        /// Whose frames.
        ports: Vec<PortId>,
        /// Where the copies go.
        destination: PortId,
        /// Those received.
        rx: bool,
        /// Those sent.
        tx: bool,
    },
    /// Copies the frames of a VLAN.
    AddVlan(VlanId, PortId),
    /// Whether frames from the destination are taken.
    Ingress(PortId, bool),
    /// Removes it.
    Del(PortId),
    /// Those there are.
    Print,
}

/// `mcast/…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// The settings.
    ShowInfo,
    /// IGMP and MLD snooping.
    SetSnooping(bool),
    /// Whether a group that nobody has reported goes to every port.
    SetFlood(bool),
    /// Who listens.
    Print,
}

/// A line that is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No command begins so.
    #[error("there is no such command")]
    Unknown,
    /// The arguments are not what the command takes.
    #[error("{0} takes: {1}")]
    Arguments(&'static str, &'static str),
}

/// A command and its place in the table.
#[derive(Debug)]
pub struct Entry {
    /// Where it stands in the tree of commands.
    pub path: &'static str,
    /// Its arguments.
    pub syntax: &'static str,
    /// What it does.
    pub help: &'static str,
    /// How it is answered.
    pub shape: Shape,
    parse: fn(&mut Arguments<'_>) -> Option<Command>,
}

/// How a line is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The title of a menu is no command.
    Menu,
    /// With success or failure.
    Plain,
    /// The same, after a table that may be empty.
    Table,
}

/// What a line says; none if it says nothing, or is a comment.
///
/// # Errors
/// [`ParseError`], along with the entry whose arguments are wrong.
pub fn parse(line: &str) -> Result<Option<(&'static Entry, Command)>, (Shape, ParseError)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let commands = COMMANDS.iter().filter(|entry| entry.shape != Shape::Menu && line.starts_with(entry.path));
    let entry = commands.max_by_key(|entry| entry.path.len()).ok_or((Shape::Plain, ParseError::Unknown))?;
    let mut arguments = Arguments { rest: &line[entry.path.len()..] };
    let command = (entry.parse)(&mut arguments).filter(|_| arguments.is_empty());
    match command {
        Some(command) => Ok(Some((entry, command))),
        None => Err((entry.shape, ParseError::Arguments(entry.path, entry.syntax))),
    }
}

/// What follows the path.
struct Arguments<'a> {
    rest: &'a str,
}

impl<'a> Arguments<'a> {
    fn is_empty(&self) -> bool {
        let rest = self.rest.trim_start();
        rest.is_empty() || rest.starts_with('#')
    }

    fn word(&mut self) -> Option<&'a str> {
        if self.is_empty() {
            return None;
        }
        let rest = self.rest.trim_start();
        let (word, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        self.rest = rest;
        Some(word)
    }

    /// Everything that is left, with its spaces.
    fn all(&mut self) -> Option<&'a str> {
        let rest = std::mem::take(&mut self.rest).trim();
        Some(rest).filter(|rest| !rest.is_empty())
    }

    fn parsed<T: FromStr>(&mut self) -> Option<T> {
        self.word()?.parse().ok()
    }

    /// What need not be there, but is right if it is.
    fn optional<T>(&mut self, take: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.is_empty() { Some(None) } else { take(self).map(Some) }
    }

    fn number(&mut self, range: RangeInclusive<u32>) -> Option<u32> {
        self.parsed().filter(|number| range.contains(number))
    }

    /// `0` or `1`.
    fn switch(&mut self) -> Option<bool> {
        self.number(0..=1).map(|number| number == 1)
    }

    /// A number, or `off`.
    fn limit(&mut self) -> Option<Option<u32>> {
        match self.word()? {
            "off" => Some(None),
            word => word.parse().ok().map(Some),
        }
    }

    fn port(&mut self) -> Option<PortId> {
        self.number(1..=65535).and_then(PortId::new)
    }

    fn vlan(&mut self) -> Option<VlanId> {
        self.number(0..=4094).and_then(|number| VlanId::new(number as u16))
    }

    /// A VLAN that can be made.
    fn tagged_vlan(&mut self) -> Option<VlanId> {
        self.vlan().filter(|vlan| *vlan != VlanId::UNTAGGED)
    }

    /// A user or a group, or nobody.
    fn name(&mut self) -> Option<Option<String>> {
        self.word().map(|word| Some(word.to_owned()).filter(|name| name != "NONE" && name != "ANY"))
    }
}

const fn menu(path: &'static str, help: &'static str) -> Entry {
    Entry { path, syntax: "============", help, shape: Shape::Menu, parse: |_| None }
}

/// The longest time that can be set, in seconds.
const MAX_TIME: u32 = 1_000_000;
/// The largest size that can be shown.
const MAX_SIZE: u32 = 1 << 30;
/// The greatest path cost (IEEE 802.1D-2004 §17.14).
const MAX_COST: u32 = 200_000_000;

macro_rules! entry {
    ($shape:ident, $path:literal, $syntax:literal, $help:literal, $parse:expr) => {
        Entry { path: $path, syntax: $syntax, help: $help, shape: Shape::$shape, parse: $parse }
    };
}

/// Every command, in the order in which `help` has them.
pub static COMMANDS: &[Entry] = &[
    menu("ds", "DATA SOCKET MENU"),
    entry!(Table, "ds/showinfo", "", "show ds info", |_| Some(Command::DataSocket)),
    entry!(Table, "help", "[arg]", "Help (limited to arg when specified)", |line| {
        Some(Command::Help(line.word().unwrap_or_default().to_owned()))
    }),
    entry!(Plain, "logout", "", "logout from this mgmt terminal", |_| Some(Command::Logout)),
    entry!(Plain, "shutdown", "", "shutdown of the switch", |_| Some(Command::Shutdown)),
    entry!(Table, "showinfo", "", "show switch version and info", |_| Some(Command::ShowInfo)),
    entry!(Plain, "load", "path", "load a configuration script", |line| { Some(Command::Load(line.all()?.into())) }),
    entry!(Table, "explain", "SRC DST [PORT [VLAN]]", "which way a frame would go, and why", |line| {
        let (source, destination) = (line.parsed()?, line.parsed()?);
        let port = line.optional(Arguments::port)?;
        let vlan = line.optional(Arguments::vlan)?;
        Some(Command::Explain { source, destination, port, vlan })
    }),
    menu("debug", "DEBUG MENU"),
    entry!(Table, "debug/list", "", "list debug categories", |_| Some(Command::Debug(Debug::List))),
    entry!(Plain, "debug/add", "dbgpath", "enable debug info for a given category", |line| {
        Some(Command::Debug(Debug::Add(line.word().unwrap_or_default().to_owned())))
    }),
    entry!(Plain, "debug/del", "dbgpath", "disable debug info for a given category", |line| {
        Some(Command::Debug(Debug::Del(line.word().unwrap_or_default().to_owned())))
    }),
    menu("plugin", "PLUGINS MENU"),
    entry!(Table, "plugin/list", "", "list plugins", |_| Some(Command::Plugin(Plugin::List))),
    entry!(Plain, "plugin/add", "library", "load a plugin", |line| {
        line.all().map(|_| Command::Plugin(Plugin::Add))
    }),
    entry!(Plain, "plugin/del", "name", "unload a plugin", |line| line.all().map(|_| Command::Plugin(Plugin::Del))),
    menu("hash", "HASH TABLE MENU"),
    entry!(Table, "hash/showinfo", "", "show hash info", |_| Some(Command::Hash(Hash::ShowInfo))),
    entry!(Plain, "hash/setsize", "N", "change hash size", |line| {
        Some(Command::Hash(Hash::SetSize(line.number(1..=MAX_SIZE)?)))
    }),
    entry!(Plain, "hash/setgcint", "N", "change garbage collector interval", |line| {
        Some(Command::Hash(Hash::SetGcInterval(line.number(0..=MAX_TIME)?)))
    }),
    entry!(Plain, "hash/setexpire", "N", "change hash entries expire time", |line| {
        Some(Command::Hash(Hash::SetExpire(line.number(1..=MAX_TIME)?)))
    }),
    entry!(Plain, "hash/setminper", "N", "minimum persistence time", |line| {
        Some(Command::Hash(Hash::SetMinPersistence(line.number(0..=MAX_TIME)?)))
    }),
    entry!(Table, "hash/print", "", "print the hash table", |_| Some(Command::Hash(Hash::Print))),
    entry!(Table, "hash/find", "MAC [VLAN]", "MAC lookup", |line| {
        Some(Command::Hash(Hash::Find(line.parsed()?, line.optional(Arguments::vlan)?.unwrap_or_default())))
    }),
    entry!(Plain, "hash/add", "MAC PORT [VLAN]", "add an entry that neither moves nor expires", |line| {
        let (address, port) = (line.parsed()?, line.port()?);
        Some(Command::Hash(Hash::Add(address, port, line.optional(Arguments::vlan)?.unwrap_or_default())))
    }),
    entry!(Plain, "hash/del", "MAC [VLAN]", "remove an entry", |line| {
        Some(Command::Hash(Hash::Del(line.parsed()?, line.optional(Arguments::vlan)?.unwrap_or_default())))
    }),
    menu("fstp", "FAST SPANNING TREE MENU"),
    entry!(Table, "fstp/showinfo", "", "show fstp info", |_| Some(Command::Fstp(Fstp::ShowInfo))),
    entry!(Table, "fstp/setfstp", "0/1", "Fast spanning tree protocol 1=ON 0=OFF", |line| {
        Some(Command::Fstp(Fstp::Set(line.switch()?)))
    }),
    entry!(Plain, "fstp/setedge", "VLAN PORT 1/0", "Define an edge port for a vlan 1=Y 0=N", |line| {
        Some(Command::Fstp(Fstp::SetEdge(line.vlan()?, line.port()?, line.switch()?)))
    }),
    entry!(Plain, "fstp/bonus", "VLAN PORT COST", "set the port bonus for a vlan", |line| {
        Some(Command::Fstp(Fstp::Bonus(line.vlan()?, line.port()?, line.number(0..=MAX_COST)?)))
    }),
    entry!(Table, "fstp/print", "[N]", "print fst data for the defined vlan", |line| {
        Some(Command::Fstp(Fstp::Print(line.optional(Arguments::vlan)?)))
    }),
    entry!(Plain, "fstp/setprio", "N", "set the bridge priority, a multiple of 4096", |line| {
        let priority: u16 = line.parsed()?;
        Some(Command::Fstp(Fstp::SetPriority(priority))).filter(|_| priority & 0xfff == 0)
    }),
    menu("port", "PORT STATUS MENU"),
    entry!(Table, "port/showinfo", "", "show port info", |_| Some(Command::Port(Port::ShowInfo))),
    entry!(Plain, "port/setnumports", "N", "set the number of ports", |line| {
        Some(Command::Port(Port::SetNumPorts(line.number(1..=65535)?)))
    }),
    entry!(Plain, "port/sethub", "0/1", "1=HUB 0=switch", |line| { Some(Command::Port(Port::SetHub(line.switch()?))) }),
    entry!(Plain, "port/setvlan", "N VLAN", "set port VLAN (untagged; 4095=none)", |line| {
        // No VLAN has 4095 (IEEE 802.1Q-2018 table 9-2).
        let (port, number) = (line.port()?, line.number(0..=4095)?);
        Some(Command::Port(Port::SetVlan(port, VlanId::new(number as u16))))
    }),
    entry!(
        Table,
        "port/createauto",
        "",
        "create a port with an automatically allocated id (inactive|notallocatable)",
        |_| Some(Command::Port(Port::CreateAuto))
    ),
    entry!(Plain, "port/create", "N", "create the port N (inactive|notallocatable)", |line| {
        Some(Command::Port(Port::Create(line.port()?)))
    }),
    entry!(Plain, "port/remove", "N", "remove the port N", |line| Some(Command::Port(Port::Remove(line.port()?)))),
    entry!(Plain, "port/allocatable", "N 0/1", "Is the port allocatable as unnamed? 1=Y 0=N", |line| {
        Some(Command::Port(Port::Allocatable(line.port()?, line.switch()?)))
    }),
    entry!(Plain, "port/setuser", "N user", "access control: set user", |line| {
        Some(Command::Port(Port::SetUser(line.port()?, line.name()?)))
    }),
    entry!(Plain, "port/setgroup", "N user", "access control: set group", |line| {
        Some(Command::Port(Port::SetGroup(line.port()?, line.name()?)))
    }),
    entry!(Plain, "port/epclose", "N ID", "remove the endpoint port N/id ID", |line| {
        Some(Command::Port(Port::EndpointClose(line.port()?, line.parsed()?)))
    }),
    entry!(Plain, "port/resetcounter", "[N]", "reset the port (N) counters", |line| {
        Some(Command::Port(Port::ResetCounter(line.optional(Arguments::port)?)))
    }),
    entry!(Table, "port/print", "[N]", "print the port/endpoint table", |line| {
        Some(Command::Port(Port::Print(line.optional(Arguments::port)?)))
    }),
    entry!(Table, "port/allprint", "[N]", "print the port/endpoint table (including inactive port)", |line| {
        Some(Command::Port(Port::AllPrint(line.optional(Arguments::port)?)))
    }),
    entry!(Table, "port/add", "[N] LOCATOR", "plug a link in, such as tap://tap0, into port N or a free one", |line| {
        let text = line.all()?;
        let (port, locator) = match text.split_once(char::is_whitespace) {
            Some((first, rest)) if !first.contains("://") => (Some(first.parse().ok()?), rest.trim()),
            _ => (None, text),
        };
        Some(Command::Port(Port::Add(port, locator.parse().ok()?)))
    }),
    entry!(Plain, "port/del", "N", "unplug the links of port/add, --tap and --port", |line| {
        Some(Command::Port(Port::Del(line.port()?)))
    }),
    entry!(Table, "port/settings", "[N]", "print VLANs, limits and spanning tree settings", |line| {
        Some(Command::Port(Port::Settings(line.optional(Arguments::port)?)))
    }),
    entry!(Table, "port/drops", "[N]", "print dropped frames by reason", |line| {
        Some(Command::Port(Port::Drops(line.optional(Arguments::port)?)))
    }),
    entry!(Plain, "port/transparent", "N", "put the port into all VLANs, tags as they come (the default)", |line| {
        Some(Command::Port(Port::Transparent(line.port()?)))
    }),
    entry!(
        Plain,
        "port/storm",
        "N KIND FPS/off",
        "limit frames/s in, of KIND broadcast, multicast or unknown",
        |line| {
            let port = line.port()?;
            let kind = match line.word()? {
                "broadcast" => Storm::Broadcast,
                "multicast" => Storm::Multicast,
                "unknown" => Storm::Unknown,
                _ => return None,
            };
            Some(Command::Port(Port::Storm(port, kind, line.limit()?)))
        }
    ),
    entry!(Plain, "port/maclimit", "N COUNT/off", "limit the stations that the port brings in", |line| {
        Some(Command::Port(Port::MacLimit(line.port()?, line.limit()?)))
    }),
    entry!(Plain, "port/learning", "N 0/1", "learn the stations of the port? 1=Y 0=N", |line| {
        Some(Command::Port(Port::Learning(line.port()?, line.switch()?)))
    }),
    entry!(Plain, "port/edge", "N auto/on/off", "spanning tree: are there only stations behind the port?", |line| {
        let port = line.port()?;
        let edge = match line.word()? {
            "auto" => Edge::Auto,
            "on" => Edge::Always,
            "off" => Edge::Never,
            _ => return None,
        };
        Some(Command::Port(Port::Edge(port, edge)))
    }),
    entry!(Plain, "port/cost", "N COST", "spanning tree: set the path cost (2000)", |line| {
        Some(Command::Port(Port::Cost(line.port()?, line.number(1..=MAX_COST)?)))
    }),
    entry!(Plain, "port/guard", "N 0/1", "spanning tree: shut the port if a BPDU comes in? 1=Y 0=N", |line| {
        Some(Command::Port(Port::Guard(line.port()?, line.switch()?)))
    }),
    entry!(Plain, "port/guardreset", "N", "open a port that its guard has shut", |line| {
        Some(Command::Port(Port::GuardReset(line.port()?)))
    }),
    menu("vlan", "VLAN MANAGEMENT MENU"),
    entry!(Plain, "vlan/create", "N", "create the VLAN with tag N", |line| {
        Some(Command::Vlan(Vlan::Create(line.tagged_vlan()?)))
    }),
    entry!(Plain, "vlan/remove", "N", "remove the VLAN with tag N", |line| {
        Some(Command::Vlan(Vlan::Remove(line.vlan()?)))
    }),
    entry!(Plain, "vlan/addport", "N PORT", "add port to the vlan N (tagged)", |line| {
        Some(Command::Vlan(Vlan::AddPort(line.vlan()?, line.port()?)))
    }),
    entry!(Plain, "vlan/delport", "N PORT", "remove port from the vlan N (tagged)", |line| {
        Some(Command::Vlan(Vlan::DelPort(line.vlan()?, line.port()?)))
    }),
    entry!(Table, "vlan/print", "[N]", "print the list of defined vlan", |line| {
        Some(Command::Vlan(Vlan::Print(line.optional(Arguments::vlan)?)))
    }),
    entry!(Table, "vlan/allprint", "[N]", "print the list of defined vlan (including inactive port)", |line| {
        Some(Command::Vlan(Vlan::AllPrint(line.optional(Arguments::vlan)?)))
    }),
    menu("mirror", "MIRROR MENU"),
    entry!(Plain, "mirror/addport", "N[,N] DEST [rx/tx/both]", "copy frames of ports to port DEST", |line| {
        let ports = line.word()?.split(',').map(|port| port.parse().ok()).collect::<Option<_>>()?;
        let destination = line.port()?;
        let (rx, tx) = match line.word() {
            None | Some("both") => (true, true),
            Some("rx") => (true, false),
            Some("tx") => (false, true),
            Some(_) => return None,
        };
        Some(Command::Mirror(Mirror::AddPorts { ports, destination, rx, tx }))
    }),
    entry!(Plain, "mirror/addvlan", "VLAN DEST", "copy frames of a vlan to port DEST", |line| {
        Some(Command::Mirror(Mirror::AddVlan(line.vlan()?, line.port()?)))
    }),
    entry!(Plain, "mirror/ingress", "DEST 0/1", "take frames that come in on port DEST? 1=Y 0=N", |line| {
        Some(Command::Mirror(Mirror::Ingress(line.port()?, line.switch()?)))
    }),
    entry!(Plain, "mirror/del", "DEST", "remove the mirror to port DEST", |line| {
        Some(Command::Mirror(Mirror::Del(line.port()?)))
    }),
    entry!(Table, "mirror/print", "", "print the mirrors", |_| Some(Command::Mirror(Mirror::Print))),
    menu("mcast", "MULTICAST MENU"),
    entry!(Table, "mcast/showinfo", "", "show multicast info", |_| Some(Command::Multicast(Multicast::ShowInfo))),
    entry!(Plain, "mcast/setsnooping", "0/1", "IGMP and MLD snooping 1=ON 0=OFF", |line| {
        Some(Command::Multicast(Multicast::SetSnooping(line.switch()?)))
    }),
    entry!(Plain, "mcast/setflood", "0/1", "flood groups that nobody has reported? 1=Y 0=N", |line| {
        Some(Command::Multicast(Multicast::SetFlood(line.switch()?)))
    }),
    entry!(Table, "mcast/print", "", "print listeners and routers", |_| Some(Command::Multicast(Multicast::Print))),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        parse(line).unwrap().unwrap().1
    }

    fn error(line: &str) -> ParseError {
        parse(line).unwrap_err().1
    }

    #[test]
    fn every_path_is_there_once_and_below_its_menu() {
        let mut menu = "";
        for (place, entry) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS[..place].iter().all(|other| other.path != entry.path), "{}", entry.path);
            match entry.path.split_once('/') {
                Some((topic, _)) => assert_eq!(topic, menu, "{}", entry.path),
                None if entry.shape == Shape::Menu => menu = entry.path,
                None => {}
            }
        }
    }

    #[test]
    fn a_line_begins_with_the_path_and_the_longest_that_fits_counts() {
        let port = PortId::new(5);
        assert_eq!(command("port/print5"), Command::Port(Port::Print(port)));
        assert_eq!(command("\t port/print\t 5 \r"), Command::Port(Port::Print(port)));
        assert_eq!(command("port/createauto"), Command::Port(Port::CreateAuto));
        assert_eq!(command("port/create 5"), Command::Port(Port::Create(PortId::new(5).unwrap())));
        assert_eq!(command("port/guardreset 1"), Command::Port(Port::GuardReset(PortId::FIRST)));
        for line in ["port", "port/", "port/p", "p", "Port/print", "hel", "x", "debug", "\u{1b}[2J", "é"] {
            assert_eq!(error(line), ParseError::Unknown, "{line}");
        }
    }

    #[test]
    fn comments_and_empty_lines_say_nothing() {
        for line in ["", "  \t", "# port/print", "  #"] {
            assert_eq!(parse(line).unwrap().map(|(_, command)| command), None, "{line}");
        }
        assert_eq!(command("port/remove 5 # the printer"), Command::Port(Port::Remove(PortId::new(5).unwrap())));
        assert_eq!(command("load /etc/a #1"), Command::Load("/etc/a #1".into()));
    }

    #[test]
    fn arguments_are_right_to_the_last_letter() {
        let lines = [
            "port/create 5abc",
            "port/create 5 6",
            "port/create",
            "port/create 0",
            "port/create -1",
            "port/create 65536",
            "port/sethub 2",
            "port/setvlan 1 4096",
            "vlan/create 0",
            "vlan/create 4095",
            "vlan/addport 5",
            "hash/find xx",
            "hash/find 0:1:2:3:4:5 4095",
            "hash/setsize 0",
            "fstp/setprio 1",
            "port/storm 1 anycast 5",
            "port/storm 1 broadcast",
            "port/edge 1 maybe",
            "port/add tap0",
            "port/add x tap://y",
            "port/add",
            "explain 2:0:0:0:0:1",
            "load",
            "showinfo please",
        ];
        for line in lines {
            assert!(matches!(error(line), ParseError::Arguments(..)), "{line}");
        }
        assert_eq!(error("vlan/addport 5").to_string(), "vlan/addport takes: N PORT");
    }

    #[test]
    fn a_locator_may_have_spaces() {
        let locator = "cmd://ssh host vde_plug /tmp/s".parse().unwrap();
        assert_eq!(
            command("port/add 7 cmd://ssh host vde_plug /tmp/s"),
            Command::Port(Port::Add(PortId::new(7), locator))
        );
        assert!(matches!(command("port/add cmd://a b"), Command::Port(Port::Add(None, _))));
    }

    #[test]
    fn four_thousand_and_ninety_five_is_no_vlan() {
        assert_eq!(command("port/setvlan 1 4095"), Command::Port(Port::SetVlan(PortId::FIRST, None)));
        assert_eq!(command("port/setvlan 1 0"), Command::Port(Port::SetVlan(PortId::FIRST, Some(VlanId::UNTAGGED))));
        assert_eq!(command("port/setuser 1 NONE"), Command::Port(Port::SetUser(PortId::FIRST, None)));
    }
}

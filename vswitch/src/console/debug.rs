//! What a session can be told of as it happens, and in which words.
//!
//! The first categories are vde_switch's, with its numbers. Two of them it alone has: of `fstp/+` and `fstp/-`, a
//! neighbour that is heard or no more, nothing is told here. `hash/+` and `hash/-` tell of stations that move.

use std::fmt::{self, Write};

use program::options::printable;

use super::answer::{Failure, Outcome};
use super::command::Debug;
use crate::Event;
use crate::stp::{BridgeId, PortState};
use crate::switch::{Kind, Member, Switch};
use crate::{PortId, VlanId};

/// A category.
struct Category {
    path: &'static str,
    tag: u16,
    help: &'static str,
}

const fn category(path: &'static str, tag: u16, help: &'static str) -> Category {
    Category { path, tag, help }
}

static CATEGORIES: [Category; 16] = [
    category("hash/+", 0o11, "hash: new element"),
    category("hash/-", 0o12, "hash: discarded element"),
    category("fstp/status", 0o44, "fstp: status change"),
    category("fstp/root", 0o45, "fstp: rootswitch/port change"),
    category("fstp/+", 0o41, "fstp: port becomes active"),
    category("fstp/-", 0o42, "fstp: port becomes inactive"),
    category("fstp/guard", 0o46, "fstp: a guard has shut a port"),
    category("fstp/change", 0o47, "fstp: topology change"),
    category("port/+", 0o21, "new port"),
    category("port/-", 0o22, "closed port"),
    category("port/descr", 0o23, "set port description"),
    category("port/storm", 0o24, "storm control drops frames"),
    category("port/maclimit", 0o25, "more stations than the port may bring in"),
    category("port/refused", 0o26, "a client was not let in"),
    category("port/ep/+", 0o31, "new endpoint"),
    category("port/ep/-", 0o32, "closed endpoint"),
];

/// The categories that a session is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Categories(u16);

impl Categories {
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn execute(&mut self, command: &Debug, out: &mut String) -> Outcome {
        match command {
            Debug::List => self.list(out),
            Debug::Add(path) => {
                let named = named(path)?;
                if self.0 & named == named {
                    return Err(Failure::new(libc::EEXIST));
                }
                self.0 |= named;
            }
            Debug::Del(path) => {
                let named = named(path)?;
                if self.0 & named == 0 {
                    return Err(Failure::new(libc::ENOENT));
                }
                self.0 &= !named;
            }
        }
        Ok(())
    }

    fn list(self, out: &mut String) {
        out.push_str("CATEGORY               TAG STATUS HELP\n------------           --- ------ ----\n");
        for (place, Category { path, tag, help }) in CATEGORIES.iter().enumerate() {
            let status = if self.0 & 1 << place == 0 { "OFF" } else { "ON" };
            let _ = writeln!(out, "{path:<22} {tag:03o} {status:<6} {help}");
        }
    }

    /// The lines for those who are told of these categories.
    pub(super) fn select(self, news: &[News]) -> String {
        let told = news.iter().filter(|news| self.0 & 1 << news.category != 0);
        told.map(|news| news.line.as_str()).collect()
    }
}

/// The categories whose path begins so.
fn named(path: &str) -> Result<u16, Failure> {
    let places = CATEGORIES.iter().enumerate().filter(|(_, category)| category.path.starts_with(path));
    match places.fold(0, |named, (place, _)| named | 1 << place) {
        0 => Err(Failure::new(libc::EINVAL)),
        named => Ok(named),
    }
}

/// A line for those who are told of its category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    category: usize,
    line: String,
}

impl News {
    fn new(path: &str, text: fmt::Arguments<'_>) -> Option<Self> {
        let category = CATEGORIES.iter().position(|category| category.path == path)?;
        let tag = CATEGORIES.get(category)?.tag;
        Some(Self { category, line: format!("3{tag:03o} {path} {}\n", printable(&text.to_string())) })
    }
}

/// The root, and the port that leads to it.
pub(super) type Root = (BridgeId, Option<PortId>);

/// What has happened, in lines; `root` is what was last told of the tree.
pub(super) fn news(events: &[Event], switch: &Switch, root: &mut Option<Root>) -> Vec<News> {
    let mut news: Vec<News> = events.iter().flat_map(|event| lines(event, switch)).flatten().collect();
    let status = switch.stp().root();
    let now = (status.root, status.port);
    if root.replace(now).is_some_and(|before| before != now) {
        let text = format_args!("Port {:04} VLAN 00:00 -> {}", number(now.1), bridge_id(now.0));
        news.extend(News::new("fstp/root", text));
    }
    news
}

fn number(port: Option<PortId>) -> u16 {
    port.map_or(0, PortId::number)
}

/// Eight bytes in hexadecimal, the priority first.
pub(super) fn bridge_id(id: BridgeId) -> String {
    let [high, low] = id.priority.to_be_bytes();
    format!("{high:02x}:{low:02x}:{}", id.address)
}

/// A VLAN as two bytes.
fn bytes(vlan: VlanId) -> String {
    let [high, low] = vlan.number().to_be_bytes();
    format!("{high:02x}:{low:02x}")
}

fn lines(event: &Event, switch: &Switch) -> [Option<News>; 2] {
    match event {
        Event::PortAdded(port) => [News::new("port/+", format_args!("{:02}", port.number())), None],
        // As in vde_switch, a port closes when the last leaves.
        Event::PortRemoved(_) => [None, None],
        Event::Joined { port, member, .. } => {
            let endpoint = format!("Port {:02} FD {member:2}", port.number());
            let described = match switch.member(*member) {
                Some(Member { kind: Kind::Client { description, .. }, .. }) if !description.is_empty() => {
                    News::new("port/descr", format_args!("{endpoint} -> \"{description}\""))
                }
                _ => None,
            };
            [News::new("port/ep/+", format_args!("{endpoint}")), described]
        }
        Event::Left { port, member, .. } => {
            let is_last = switch.port(*port).is_ok_and(|port| port.members.is_empty());
            let closed = is_last.then(|| News::new("port/-", format_args!("{:02}", port.number()))).flatten();
            [News::new("port/ep/-", format_args!("Port {:02} FD {member:2}", port.number())), closed]
        }
        Event::Refused { reason } => [News::new("port/refused", format_args!("{reason}")), None],
        Event::StationMoved { vlan, address, from, to } => {
            let vlan = bytes(*vlan);
            [
                News::new("hash/-", format_args!("{address} VLAN {vlan} Port {from}")),
                News::new("hash/+", format_args!("{address} VLAN {vlan} Port {to}")),
            ]
        }
        Event::PortState { port, state } => {
            let state = match state {
                PortState::Forwarding => "learning+forwarding",
                other => other.name(),
            };
            [News::new("fstp/status", format_args!("Port {:04} VLAN 00:00 {state}", port.number())), None]
        }
        Event::TopologyChanged(port) => [News::new("fstp/change", format_args!("Port {:04}", port.number())), None],
        Event::GuardTripped(port) => [News::new("fstp/guard", format_args!("Port {:04}", port.number())), None],
        Event::Storm(port) => [News::new("port/storm", format_args!("Port {:02}", port.number())), None],
        Event::MacLimit(port) => [News::new("port/maclimit", format_args!("Port {:02}", port.number())), None],
    }
}

/// That somebody was not let in.
#[cfg(test)]
pub(super) fn refused(reason: &str) -> Vec<News> {
    News::new("port/refused", format_args!("{reason}")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(categories: &mut Categories, path: &str) -> Outcome {
        categories.execute(&Debug::Add(path.to_owned()), &mut String::new())
    }

    #[test]
    fn categories_are_named_by_how_their_paths_begin() {
        let mut categories = Categories::default();
        add(&mut categories, "port/ep").unwrap();
        assert_eq!(add(&mut categories, "port/ep/+"), Err(Failure::new(libc::EEXIST)));
        add(&mut categories, "port").unwrap();
        assert_eq!(add(&mut categories, "/"), Err(Failure::new(libc::EINVAL)));
        let del = Debug::Del("hash".to_owned());
        assert_eq!(categories.execute(&del, &mut String::new()), Err(Failure::new(libc::ENOENT)));
        add(&mut categories, "").unwrap();
        categories.execute(&del, &mut String::new()).unwrap();
        let mut list = String::new();
        categories.list(&mut list);
        assert!(list.contains("\nhash/+                 011 OFF    hash: new element\n"), "{list}");
        assert!(list.contains("\nport/+                 021 ON     new port\n"), "{list}");
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let port = News::new("port/+", format_args!("{:02}", 3)).unwrap();
        let refused = News::new("port/refused", format_args!("a\nb\u{1b}")).unwrap();
        let mut categories = Categories::default();
        add(&mut categories, "port/+").unwrap();
        assert_eq!(categories.select(&[port.clone(), refused.clone()]), "3021 port/+ 03\n");
        add(&mut categories, "port/refused").unwrap();
        assert_eq!(categories.select(&[port, refused]), "3021 port/+ 03\n3026 port/refused a\\nb\\u{1b}\n");
    }
}

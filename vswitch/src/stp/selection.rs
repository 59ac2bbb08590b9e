//! Port Role Selection (IEEE 802.1D-2004 §17.28): the bridge's place in the tree, from what its ports hold.
//!
//! The variables of the bridge (§17.18) live here. Roles are selected in one go over all ports, whenever one of them
//! has cleared `selected` or the bridge itself has changed.

use std::time::{Duration, Instant};

use super::port::{InfoIs, Port};
use super::timer::Timer;
use super::values::{BridgeId, PortIdentifier, Priority, Times};
use super::{BridgeSettings, Role};
use crate::PortId;

/// What the bridge knows of the tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// BridgeIdentifier.
    pub id: BridgeId,
    /// BridgeTimes.
    pub times: Times,
    /// rootPriority.
    pub root_priority: Priority,
    /// rootTimes.
    pub root_times: Times,
    /// rootPortId; none at the root.
    pub root_port: Option<PortId>,
    /// Roles are to be selected whatever the ports say.
    pub reselect: bool,
    /// When spanning tree was switched on; none when it is off.
    pub started: Option<Instant>,
    /// Times the topology has changed (§14.8.1.1), and when it last did.
    pub changes: u64,
    pub changed_at: Option<Instant>,
}

impl Tree {
    /// A bridge that knows itself only.
    pub(super) fn new(settings: BridgeSettings, times: Times) -> Self {
        let id = BridgeId::new(settings);
        Self {
            id,
            times,
            root_priority: Priority::of_bridge(id),
            root_times: times,
            root_port: None,
            reselect: true,
            started: None,
            changes: 0,
            changed_at: None,
        }
    }

    /// designatedPriority of a port (§17.19.4).
    pub(super) fn designated_priority(&self, port: PortIdentifier) -> Priority {
        Priority { root: self.root_priority.root, cost: self.root_priority.cost, bridge: self.id, port }
    }

    /// designatedTimes, the same for every port (§17.19.5): hellos come at the bridge's own pace.
    pub(super) fn designated_times(&self) -> Times {
        Times { hello: self.times.hello, ..self.root_times }
    }

    /// How soon a BPDU that was sent no longer counts against the hold count: a second (§17.22) with the standard's one
    /// hello time of 2 s, and half a hello time with others, for hellos alone would keep the count up for good.
    pub(super) fn hold_time(&self) -> Duration {
        self.times.hello / 2
    }

    /// helloWhen, set anew. All ports say hello at the same moments, one wake-up for all of them; so the first comes
    /// within a hello time and every other after one.
    pub(super) fn next_hello(&self, now: Instant) -> Timer {
        let running = self.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started));
        let into = u64::try_from(running.as_nanos() % self.times.hello.as_nanos().max(1)).unwrap_or(0);
        Timer::start(self.times.hello.saturating_sub(Duration::from_nanos(into)), now)
    }

    /// ROLE_SELECTION (figure 17-19): clearReselectTree(), updtRolesTree() (§17.21.25), setSelectedTree().
    pub(super) fn select_roles(&mut self, ports: &mut [Port]) {
        self.reselect = false;
        self.select_root(ports);
        let (designated_times, root_port) = (self.designated_times(), self.root_port);
        for port in ports {
            let designated = self.designated_priority(port.identifier());
            let (role, update) = match port.info_is {
                InfoIs::Disabled => (Role::Disabled, port.updt_info),
                InfoIs::Aged => (Role::Designated, true),
                InfoIs::Mine => {
                    let is_stale = port.port_priority != designated || port.port_times != designated_times;
                    (Role::Designated, port.updt_info || is_stale)
                }
                InfoIs::Received if root_port == Some(port.id) => (Role::Root, false),
                InfoIs::Received if designated < port.port_priority => (Role::Designated, true),
                InfoIs::Received if port.port_priority.bridge == self.id => (Role::Backup, false),
                InfoIs::Received => (Role::Alternate, false),
            };
            port.selected_role = role;
            port.updt_info = update;
            port.selected = true;
        }
    }

    /// The best of the bridge's own vector and the root path vectors of its ports (§17.21.25 a to c).
    fn select_root(&mut self, ports: &[Port]) {
        let paths =
            ports.iter().filter(|port| port.info_is == InfoIs::Received && port.port_priority.bridge != self.id);
        let paths = paths.map(|port| {
            let held = port.port_priority;
            let path = Priority { cost: held.cost.saturating_add(port.settings.path_cost), ..held };
            (path, port.identifier(), port.id, port.port_times)
        });
        let best = paths.min_by_key(|(path, identifier, id, _)| (*path, *identifier, *id));
        let own = Priority::of_bridge(self.id);
        (self.root_priority, self.root_times, self.root_port) = match best {
            Some((path, _, id, times)) if path < own => (path, times.aged(), Some(id)),
            _ => (own, self.times, None),
        };
    }
}

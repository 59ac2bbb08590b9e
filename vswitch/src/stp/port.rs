//! A port: the variables of IEEE 802.1D-2004 §17.19, and the machines that concern nobody but the port itself: Port
//! Timers (§17.22), Port Receive (§17.23), Port Protocol Migration (§17.24), Bridge Detection (§17.25) and Port State
//! Transition (§17.30).
//!
//! Variables carry the standard's names. A machine is a method that takes one step and says whether it moved; states
//! that are left at once have no variable, and where another variable tells the state (`oper_edge` for Bridge
//! Detection, `role` for Port Role Transitions, `info_is` for Port Information), that variable is the state. `info`,
//! `roles`, `topology` and `transmit` hold the other machines of a port, `selection` the one of the bridge.

use std::time::{Duration, Instant};

use super::bpdu::Bpdu;
use super::selection::Tree;
use super::timer::Timer;
use super::values::{PortIdentifier, Priority, Times};
use super::{BpduCounters, Edge, PortSettings, PortState, PortStatus, Role};
use crate::PortId;

/// Migrate Time (table 17-1).
const MIGRATE_TIME: Duration = Duration::from_secs(3);

/// Where a port's information comes from (§17.19.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InfoIs {
    Disabled,
    Aged,
    Mine,
    Received,
}

/// States of Port Protocol Migration (figure 17-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Migration {
    CheckingRstp,
    SelectingStp,
    Sensing,
}

/// Resting states of Topology Change (figure 17-25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopologyState {
    Inactive,
    Learning,
    Active,
}

/// A port.
#[derive(Debug)]
pub(super) struct Port {
    pub id: PortId,
    pub settings: PortSettings,
    pub link_up: bool,
    /// BPDU guard has shut the port.
    pub tripped: bool,
    pub counters: BpduCounters,
    /// What the bridge was told to do with the port's frames.
    pub announced: PortState,

    // Timers (§17.17).
    pub edge_delay_while: Timer,
    pub fd_while: Timer,
    pub hello_when: Timer,
    pub mdelay_while: Timer,
    pub rb_while: Timer,
    pub rcvd_info_while: Timer,
    pub rr_while: Timer,
    pub tc_while: Timer,
    /// BPDUs sent of late, and since when the next to be forgotten is remembered (§17.19.44).
    pub tx_count: u8,
    pub tx_since: Option<Instant>,

    // Variables (§17.19).
    pub agree: bool,
    pub agreed: bool,
    pub disputed: bool,
    pub fdb_flush: bool,
    pub forward: bool,
    pub forwarding: bool,
    pub info_is: InfoIs,
    pub learn: bool,
    pub learning: bool,
    pub mcheck: bool,
    pub new_info: bool,
    pub oper_edge: bool,
    pub port_enabled: bool,
    pub port_priority: Priority,
    pub port_times: Times,
    pub proposed: bool,
    pub proposing: bool,
    /// The BPDU that Port Information has still to look at: `rcvdMsg`, `msgPriority` and `msgTimes` in one.
    pub rcvd_msg: Option<Bpdu>,
    pub rcvd_rstp: bool,
    pub rcvd_stp: bool,
    pub rcvd_tc: bool,
    pub rcvd_tc_ack: bool,
    pub rcvd_tcn: bool,
    pub re_root: bool,
    pub role: Role,
    pub selected: bool,
    pub selected_role: Role,
    pub send_rstp: bool,
    pub sync: bool,
    pub synced: bool,
    pub tc_ack: bool,
    pub tc_prop: bool,
    pub updt_info: bool,

    migration: Migration,
    pub topology: TopologyState,
    /// Whether the last message had the topology change flag, so that one change is one event.
    pub tc_seen: bool,
    /// Whether a BPDU has come in since the link came up.
    neighbour_heard: bool,
}

impl Port {
    /// A port without a link, at BEGIN.
    pub(super) fn new(id: PortId, settings: PortSettings, tree: &Tree) -> Self {
        Self {
            id,
            settings,
            link_up: false,
            tripped: false,
            counters: BpduCounters::default(),
            announced: PortState::Forwarding,
            edge_delay_while: Timer::Held(MIGRATE_TIME),
            fd_while: Timer::Held(tree.designated_times().max_age),
            hello_when: Timer::Zero,
            mdelay_while: Timer::Held(MIGRATE_TIME),
            rb_while: Timer::Zero,
            rcvd_info_while: Timer::Zero,
            rr_while: Timer::Zero,
            tc_while: Timer::Zero,
            tx_count: 0,
            tx_since: None,
            agree: false,
            agreed: false,
            disputed: false,
            fdb_flush: false,
            forward: false,
            forwarding: false,
            info_is: InfoIs::Disabled,
            learn: false,
            learning: false,
            mcheck: false,
            new_info: true,
            oper_edge: settings.edge == Edge::Always,
            port_enabled: false,
            port_priority: tree.designated_priority(PortIdentifier::new(id, &settings)),
            port_times: tree.designated_times(),
            proposed: false,
            proposing: false,
            rcvd_msg: None,
            rcvd_rstp: false,
            rcvd_stp: false,
            rcvd_tc: false,
            rcvd_tc_ack: false,
            rcvd_tcn: false,
            re_root: false,
            role: Role::Disabled,
            selected: false,
            selected_role: Role::Disabled,
            send_rstp: true,
            sync: false,
            synced: true,
            tc_ack: false,
            tc_prop: false,
            updt_info: false,
            migration: Migration::CheckingRstp,
            topology: TopologyState::Inactive,
            tc_seen: false,
            neighbour_heard: false,
        }
    }

    /// BEGIN (§17.18.1): everything but what was said of the port and of its link starts over.
    pub(super) fn begin(&mut self, tree: &Tree) {
        let fresh = Self::new(self.id, self.settings, tree);
        let (link_up, counters, announced) = (self.link_up, self.counters, self.announced);
        *self = Self { link_up, counters, announced, ..fresh };
    }

    /// Its identifier in BPDUs.
    pub(super) fn identifier(&self) -> PortIdentifier {
        PortIdentifier::new(self.id, &self.settings)
    }

    /// Whether other machines may look at the role that was selected: `selected && !updtInfo`.
    pub(super) fn is_settled(&self) -> bool {
        self.selected && !self.updt_info
    }

    /// Takes over new settings. [`Edge::Always`] counts at once if no bridge was heard since the link came up.
    pub(super) fn set_settings(&mut self, settings: PortSettings) {
        let becomes_edge = settings.edge == Edge::Always && self.settings.edge != Edge::Always;
        self.settings = settings;
        self.oper_edge |= becomes_edge && !self.neighbour_heard;
        self.tripped &= settings.bpdu_guard;
    }

    /// portEnabled follows the link and the guard.
    pub(super) fn update_enabled(&mut self, now: Instant) {
        let enabled = self.link_up && !self.tripped;
        if enabled == self.port_enabled {
            return;
        }
        self.port_enabled = enabled;
        self.neighbour_heard = false;
        self.tc_seen = false;
        if enabled {
            self.edge_delay_while.release(now);
            self.mdelay_while.release(now);
        } else {
            // DISCARD of Port Receive (figure 17-14).
            self.rcvd_msg = None;
            (self.rcvd_rstp, self.rcvd_stp) = (false, false);
            self.edge_delay_while = Timer::Held(MIGRATE_TIME);
        }
    }

    /// Port Timers (§17.22).
    pub(super) fn tick(&mut self, tree: &Tree, now: Instant) {
        for timer in [
            &mut self.edge_delay_while,
            &mut self.fd_while,
            &mut self.hello_when,
            &mut self.mdelay_while,
            &mut self.rb_while,
            &mut self.rcvd_info_while,
            &mut self.rr_while,
            &mut self.tc_while,
        ] {
            timer.tick(now);
        }
        while self.tx_count > 0
            && let Some(next) = self.tx_since.map(|since| since + tree.hold_time())
            && next <= now
        {
            self.tx_count -= 1;
            self.tx_since = Some(next);
        }
    }

    /// When a timer that some machine waits for will be zero.
    pub(super) fn deadline(&self, tree: &Tree) -> Option<Instant> {
        if !self.port_enabled {
            return None;
        }
        let when = |timer: Timer, waited_for: bool| timer.deadline().filter(|_| waited_for);
        let timers = [
            when(self.edge_delay_while, self.settings.edge == Edge::Auto && self.proposing && !self.oper_edge),
            when(self.fd_while, !self.forward),
            when(self.hello_when, self.sends_hellos()),
            when(self.mdelay_while, self.migration != Migration::Sensing),
            self.rb_while.deadline(),
            when(self.rcvd_info_while, self.info_is == InfoIs::Received),
            self.rr_while.deadline(),
            self.tc_while.deadline(),
            self.held_back_until(tree),
        ];
        timers.into_iter().flatten().min()
    }

    /// Port Receive, RECEIVE (figure 17-14), with updtBPDUVersion() (§17.21.22).
    pub(super) fn receive(&mut self, bpdu: Bpdu, now: Instant) {
        match bpdu {
            Bpdu::Message(message) if message.rapid.is_some() => self.rcvd_rstp = true,
            Bpdu::Message(_) | Bpdu::Tcn => self.rcvd_stp = true,
        }
        self.oper_edge = false;
        self.neighbour_heard = true;
        self.edge_delay_while = Timer::start(MIGRATE_TIME, now);
        self.rcvd_msg = Some(bpdu);
    }

    /// Port Protocol Migration (figure 17-15).
    pub(super) fn protocol_migration(&mut self, now: Instant) -> bool {
        let next = match self.migration {
            Migration::CheckingRstp if !self.port_enabled && self.mdelay_while != Timer::Held(MIGRATE_TIME) => {
                Migration::CheckingRstp
            }
            Migration::CheckingRstp if self.mdelay_while.is_zero() => Migration::Sensing,
            Migration::SelectingStp if self.mdelay_while.is_zero() || !self.port_enabled || self.mcheck => {
                Migration::Sensing
            }
            Migration::Sensing if !self.port_enabled || self.mcheck || (!self.send_rstp && self.rcvd_rstp) => {
                Migration::CheckingRstp
            }
            Migration::Sensing if self.send_rstp && self.rcvd_stp => Migration::SelectingStp,
            Migration::CheckingRstp | Migration::SelectingStp | Migration::Sensing => return false,
        };
        self.migration = next;
        match next {
            Migration::CheckingRstp => {
                self.mcheck = false;
                self.send_rstp = true;
                self.mdelay_while = Timer::Held(MIGRATE_TIME);
                if self.port_enabled {
                    self.mdelay_while.release(now);
                }
            }
            Migration::SelectingStp => {
                self.send_rstp = false;
                self.mdelay_while = Timer::start(MIGRATE_TIME, now);
            }
            Migration::Sensing => (self.rcvd_rstp, self.rcvd_stp) = (false, false),
        }
        true
    }

    /// Bridge Detection (figure 17-16).
    pub(super) fn bridge_detection(&mut self) -> bool {
        let (admin_edge, auto_edge) = match self.settings.edge {
            Edge::Always => (true, false),
            Edge::Never => (false, false),
            Edge::Auto => (false, true),
        };
        let silent = self.edge_delay_while.is_zero() && auto_edge && self.send_rstp && self.proposing;
        let edge = match self.oper_edge {
            true => (self.port_enabled && auto_edge) || admin_edge,
            false => (!self.port_enabled && admin_edge) || silent,
        };
        std::mem::replace(&mut self.oper_edge, edge) != edge
    }

    /// EdgeDelay (§17.20.4).
    pub(super) fn edge_delay(&self, tree: &Tree) -> Duration {
        if self.settings.point_to_point { MIGRATE_TIME } else { tree.designated_times().max_age }
    }

    /// Port State Transition (figure 17-23).
    pub(super) fn state_transition(&mut self) -> bool {
        match (self.learning, self.forwarding) {
            (false, _) if self.learn => self.learning = true,
            (true, false) if self.forward => self.forwarding = true,
            (true, false) if !self.learn => self.learning = false,
            (true, true) if !self.forward => (self.learning, self.forwarding) = (false, false),
            _ => return false,
        }
        true
    }

    /// What Port State Transition says is done with frames.
    pub(super) fn state(&self) -> PortState {
        match (self.learning, self.forwarding) {
            (_, true) => PortState::Forwarding,
            (true, false) => PortState::Learning,
            (false, false) => PortState::Discarding,
        }
    }

    /// A row of the table.
    pub(super) fn status(&self) -> PortStatus {
        PortStatus {
            role: self.role,
            state: self.announced,
            settings: self.settings,
            link_up: self.link_up,
            oper_edge: self.port_enabled && self.oper_edge,
            identifier: self.identifier(),
            designated_root: self.port_priority.root,
            designated_cost: self.port_priority.cost,
            designated_bridge: self.port_priority.bridge,
            designated_port: self.port_priority.port,
            is_rstp: self.send_rstp,
            guarded: self.tripped,
            counters: self.counters,
        }
    }
}

//! Topology Change (IEEE 802.1D-2004 §17.31, figure 17-25): stations may be elsewhere, so what was learned is forgotten
//! and the rest of the tree is told.
//!
//! A change is a port that is no edge and begins to forward. The flag travels in BPDUs for `tcWhile` (RSTP), or as a
//! TCN to the root, which answers with the flag in its own BPDUs (STP). Flushing is immediate, towards STP neighbours
//! too.

use std::time::{Duration, Instant};

use super::port::{Port, TopologyState};
use super::selection::Tree;
use super::timer::Timer;
use super::{Action, Role};

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the machine rests.
    Rests,
    /// Something to this port only.
    Moved,
    /// The caller owes setTcPropTree() (§17.21.18): all other ports pass the change on.
    Propagate,
}

impl Port {
    /// Takes a step; a change that nobody spoke of yet is an action.
    pub(super) fn topology_change(&mut self, tree: &Tree, now: Instant, out: &mut Vec<Action>) -> Step {
        let in_tree = matches!(self.role, Role::Root | Role::Designated);
        let told = self.rcvd_tc || self.rcvd_tcn || self.rcvd_tc_ack || self.tc_prop;
        match self.topology {
            TopologyState::Inactive if self.learn => self.begin_learning(),
            TopologyState::Learning if in_tree && self.forward && !self.oper_edge => {
                // DETECTED
                self.topology = TopologyState::Active;
                self.new_tc_while(tree, now);
                self.new_info = true;
                out.push(Action::TopologyChanged { port: self.id });
                return Step::Propagate;
            }
            TopologyState::Learning if told => self.begin_learning(),
            TopologyState::Learning if !in_tree && !self.learn && !self.learning => {
                // INACTIVE
                self.topology = TopologyState::Inactive;
                self.fdb_flush = true;
                self.tc_while = Timer::Zero;
                self.tc_ack = false;
            }
            TopologyState::Active if !in_tree || self.oper_edge => self.begin_learning(),
            TopologyState::Active if self.rcvd_tcn || self.rcvd_tc => {
                if self.rcvd_tcn {
                    // NOTIFIED_TCN
                    self.new_tc_while(tree, now);
                }
                // NOTIFIED_TC
                if self.rcvd_tcn || !self.tc_seen {
                    out.push(Action::TopologyChanged { port: self.id });
                }
                self.tc_seen |= self.rcvd_tc;
                (self.rcvd_tcn, self.rcvd_tc) = (false, false);
                self.tc_ack |= self.role == Role::Designated;
                return Step::Propagate;
            }
            TopologyState::Active if self.tc_prop => {
                // PROPAGATING
                self.new_tc_while(tree, now);
                self.fdb_flush = true;
                self.tc_prop = false;
            }
            TopologyState::Active if self.rcvd_tc_ack => {
                // ACKNOWLEDGED
                self.tc_while = Timer::Zero;
                self.rcvd_tc_ack = false;
            }
            TopologyState::Inactive | TopologyState::Learning | TopologyState::Active => return Step::Rests,
        }
        Step::Moved
    }

    /// LEARNING.
    fn begin_learning(&mut self) {
        self.topology = TopologyState::Learning;
        (self.rcvd_tc, self.rcvd_tcn, self.rcvd_tc_ack, self.tc_prop) = (false, false, false, false);
    }

    /// newTcWhile() (§17.21.7).
    fn new_tc_while(&mut self, tree: &Tree, now: Instant) {
        if !self.tc_while.is_zero() {
            return;
        }
        let times = tree.designated_times();
        if self.send_rstp {
            self.tc_while = Timer::start(times.hello + Duration::from_secs(1), now);
            self.new_info = true;
        } else {
            self.tc_while = Timer::start(times.max_age + times.forward_delay, now);
        }
    }
}

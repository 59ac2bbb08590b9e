//! Port Information (IEEE 802.1D-2004 §17.27, figure 17-18): whose word counts on a segment, and for how long.
//!
//! ```text
//! DISABLED ── portEnabled ──> AGED ── updtInfo ──> UPDATE ──> CURRENT <── RECEIVE <── BPDU
//!     ^                        ^                                 │
//!     └── !portEnabled         └────── rcvdInfoWhile == 0 ───────┘
//! ```
//!
//! `info_is` is the state: Mine and Received are CURRENT. What is received changes roles through `selection`.

use std::time::Instant;

use super::bpdu::{Bpdu, Message, SenderRole};
use super::port::{InfoIs, Port};
use super::selection::Tree;
use super::timer::Timer;

/// What rcvInfo() makes of a BPDU (§17.21.8).
enum RcvdInfo {
    SuperiorDesignated,
    RepeatedDesignated,
    InferiorDesignated,
    InferiorRootAlternate,
    Other,
}

impl Port {
    /// Takes a step, and says whether there was one. A step that clears `selected` asks for roles to be selected anew.
    pub(super) fn information(&mut self, tree: &Tree, now: Instant) -> bool {
        if !self.port_enabled && self.info_is != InfoIs::Disabled {
            self.disable_information();
            return true;
        }
        match self.info_is {
            InfoIs::Disabled if self.port_enabled => self.age_information(),
            InfoIs::Disabled => return false,
            _ if self.selected && self.updt_info => self.update_information(tree),
            InfoIs::Aged => return false,
            InfoIs::Mine | InfoIs::Received if self.updt_info => return false,
            InfoIs::Mine | InfoIs::Received => {
                if let Some(bpdu) = self.rcvd_msg.take() {
                    self.receive_information(bpdu, tree, now);
                } else if self.info_is == InfoIs::Received && self.rcvd_info_while.is_zero() {
                    self.age_information();
                } else {
                    return false;
                }
            }
        }
        true
    }

    /// DISABLED.
    fn disable_information(&mut self) {
        (self.proposing, self.proposed, self.agree, self.agreed) = (false, false, false, false);
        self.rcvd_info_while = Timer::Zero;
        self.info_is = InfoIs::Disabled;
        self.selected = false;
    }

    /// AGED.
    fn age_information(&mut self) {
        self.info_is = InfoIs::Aged;
        self.selected = false;
    }

    /// UPDATE, with betterorsameinfo(Mine) (§17.21.1).
    fn update_information(&mut self, tree: &Tree) {
        let designated = tree.designated_priority(self.identifier());
        (self.proposing, self.proposed) = (false, false);
        self.agreed &= self.info_is == InfoIs::Mine && designated <= self.port_priority;
        self.synced &= self.agreed;
        self.port_priority = designated;
        self.port_times = tree.designated_times();
        self.updt_info = false;
        self.info_is = InfoIs::Mine;
        self.new_info = true;
    }

    /// RECEIVE and the five states behind it.
    fn receive_information(&mut self, bpdu: Bpdu, tree: &Tree, now: Instant) {
        let Bpdu::Message(message) = bpdu else {
            self.rcvd_tcn = true;
            return;
        };
        match self.classify(&message, tree) {
            RcvdInfo::SuperiorDesignated => {
                (self.agreed, self.proposing) = (false, false);
                self.record_proposal(&message, tree);
                self.set_tc_flags(&message);
                // betterorsameinfo(Received) (§17.21.1).
                self.agree &= self.info_is == InfoIs::Received && message.priority <= self.port_priority;
                self.port_priority = message.priority;
                self.port_times = message.times;
                self.rcvd_info_while = Timer::start(self.port_times.lifetime(), now);
                self.info_is = InfoIs::Received;
                self.selected = false;
            }
            RcvdInfo::RepeatedDesignated => {
                self.record_proposal(&message, tree);
                self.set_tc_flags(&message);
                self.rcvd_info_while = Timer::start(self.port_times.lifetime(), now);
            }
            RcvdInfo::InferiorDesignated => self.record_dispute(&message),
            RcvdInfo::InferiorRootAlternate => {
                self.record_agreement(&message);
                self.set_tc_flags(&message);
            }
            RcvdInfo::Other => {}
        }
    }

    /// rcvInfo() (§17.21.8).
    ///
    /// A Designated Port that hears itself is looped to itself. It takes its own word as if another port of the bridge
    /// had given it, and so becomes a Backup Port; when the word ages, it asks again, still discarding.
    fn classify(&self, message: &Message, tree: &Tree) -> RcvdInfo {
        if !message.is_designated() {
            let is_no_better = message.priority >= self.port_priority;
            let is_reply = message
                .rapid
                .is_some_and(|rapid| matches!(rapid.role, SenderRole::Root | SenderRole::AlternateOrBackup));
            return match is_no_better && is_reply && !self.is_own(message, tree) {
                true => RcvdInfo::InferiorRootAlternate,
                false => RcvdInfo::Other,
            };
        }
        let is_same = message.priority == self.port_priority;
        if message.priority.is_superior_to(&self.port_priority) || (is_same && message.times != self.port_times) {
            RcvdInfo::SuperiorDesignated
        } else if is_same && self.info_is == InfoIs::Received {
            RcvdInfo::RepeatedDesignated
        } else if self.is_own(message, tree) && self.info_is == InfoIs::Mine {
            RcvdInfo::SuperiorDesignated
        } else {
            RcvdInfo::InferiorDesignated
        }
    }

    /// Whether this port has sent the message.
    pub(super) fn is_own(&self, message: &Message, tree: &Tree) -> bool {
        message.priority.bridge == tree.id && message.priority.port == self.identifier()
    }

    /// recordProposal() (§17.21.11). What the port proposes to itself is not worth blocking others for.
    fn record_proposal(&mut self, message: &Message, tree: &Tree) {
        let proposes = message.rapid.is_some_and(|rapid| rapid.role == SenderRole::Designated && rapid.proposal);
        self.proposed |= proposes && !self.is_own(message, tree);
    }

    /// recordAgreement() (§17.21.9). While the hold count keeps this port's own word back, the neighbour cannot have
    /// agreed to it; it is asked again once it has been told.
    fn record_agreement(&mut self, message: &Message) {
        let agrees = self.settings.point_to_point && message.rapid.is_some_and(|rapid| rapid.agreement);
        if agrees && self.new_info {
            return;
        }
        self.agreed = agrees;
        self.proposing &= !agrees;
    }

    /// recordDispute() (IEEE 802.1Q-2005 §13.26.13, which mends 802.1D-2004 §17.21.10): a neighbour that learns by a
    /// worse vector does not hear this port.
    fn record_dispute(&mut self, message: &Message) {
        if message.rapid.is_some_and(|rapid| rapid.learning) {
            self.disputed = true;
            self.agreed = false;
        }
    }

    /// setTcFlags() (§17.21.17).
    fn set_tc_flags(&mut self, message: &Message) {
        self.rcvd_tc |= message.topology_change;
        self.rcvd_tc_ack |= message.topology_change_ack && message.rapid.is_none();
        self.tc_seen &= message.topology_change;
    }
}

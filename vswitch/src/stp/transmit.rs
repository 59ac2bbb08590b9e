//! Port Transmit (IEEE 802.1D-2004 §17.26, figure 17-17): which BPDU leaves a port, and when.
//!
//! Runs when all other machines rest, so that one BPDU says all that an event has changed. No more than
//! [`TX_HOLD_COUNT`] leave at once, and one more each second.

use std::time::Instant;

use super::bpdu::{Bpdu, Message, Rapid, SenderRole};
use super::port::Port;
use super::selection::Tree;
use super::{Action, Role};

/// Transmit Hold Count (table 17-1).
pub(super) const TX_HOLD_COUNT: u8 = 6;

impl Port {
    /// IDLE and what follows from it.
    pub(super) fn transmit(&mut self, tree: &Tree, now: Instant, out: &mut Vec<Action>) {
        if !self.port_enabled || !self.is_settled() {
            return;
        }
        if self.hello_when.is_zero() {
            // TRANSMIT_PERIODIC
            self.new_info |= self.sends_hellos();
            self.hello_when = tree.next_hello(now);
        }
        if !self.new_info || self.tx_count >= TX_HOLD_COUNT {
            return;
        }
        let Some(bpdu) = self.bpdu(tree) else { return };
        self.new_info = false;
        self.tc_ack &= bpdu == Bpdu::Tcn;
        if self.tx_count == 0 {
            self.tx_since = Some(now);
        }
        self.tx_count += 1;
        self.hello_when = tree.next_hello(now);
        self.counters.sent += 1;
        out.push(Action::Transmit { port: self.id, frame: bpdu.to_frame(tree.id.address) });
    }

    /// Whether TRANSMIT_PERIODIC finds something to say.
    pub(super) fn sends_hellos(&self) -> bool {
        self.role == Role::Designated || (self.role == Role::Root && !self.tc_while.is_zero())
    }

    /// When a BPDU that the hold count keeps back may leave.
    pub(super) fn held_back_until(&self, tree: &Tree) -> Option<Instant> {
        let is_held_back = self.new_info && self.tx_count >= TX_HOLD_COUNT;
        self.tx_since.filter(|_| is_held_back).map(|since| since + tree.hold_time())
    }

    /// txConfig(), txRstp() or txTcn() (§17.21.19 to 17.21.21).
    ///
    /// A Root Port below an STP bridge has news for no other reason than a topology change: an agreement, which STP
    /// does not know, must not pass for one.
    fn bpdu(&self, tree: &Tree) -> Option<Bpdu> {
        let rapid = match (self.send_rstp, self.role) {
            (true, role) => Some(self.rapid(role)),
            (false, Role::Designated) => None,
            (false, Role::Root) => return (!self.tc_while.is_zero()).then_some(Bpdu::Tcn),
            (false, Role::Alternate | Role::Backup | Role::Disabled) => return None,
        };
        Some(Bpdu::Message(Message {
            priority: tree.designated_priority(self.identifier()),
            times: tree.designated_times(),
            topology_change: !self.tc_while.is_zero(),
            topology_change_ack: rapid.is_none() && self.tc_ack,
            rapid,
        }))
    }

    fn rapid(&self, role: Role) -> Rapid {
        let role = match role {
            Role::Disabled => SenderRole::Unknown,
            Role::Root => SenderRole::Root,
            Role::Designated => SenderRole::Designated,
            Role::Alternate | Role::Backup => SenderRole::AlternateOrBackup,
        };
        Rapid {
            role,
            proposal: self.proposing,
            learning: self.learning,
            forwarding: self.forwarding,
            agreement: self.agree,
        }
    }
}

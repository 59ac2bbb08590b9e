//! Port Role Transitions (IEEE 802.1D-2004 §17.29, figures 17-20 to 17-22): from the role that was selected to frames
//! that pass, without a loop at any moment.
//!
//! A port forwards at once where the standard can prove that it may: a Root Port when no port that was one before still
//! forwards (`reRooted`), a Designated Port when its neighbour has agreed, which the neighbour does once all its other
//! ports are in step or discarding (`allSynced`). Everything else waits for `fdWhile`.
//!
//! The conditions that span ports come in as arguments, and what a step wants of all ports goes out as [`Step`].

use std::time::{Duration, Instant};

use super::Role;
use super::port::Port;
use super::selection::Tree;
use super::timer::Timer;

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the machine rests.
    Rests,
    /// Something to this port only.
    Moved,
    /// The caller owes setSyncTree() (§17.21.14).
    SyncTree,
    /// The caller owes setReRootTree() (§17.21.15).
    ReRootTree,
}

/// What the ports of the bridge say together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Together {
    /// allSynced (§17.20.3).
    pub all_synced: bool,
    /// reRooted (§17.20.10), from the port in question.
    pub re_rooted: bool,
}

impl Together {
    /// Of all ports, for the port `of`; worth its time only where a machine asks.
    pub(super) fn look(ports: &[Port], of: &Port) -> Self {
        let is_synced = |port: &Port| {
            port.is_settled() && port.role == port.selected_role && (port.synced || port.role == Role::Root)
        };
        match of.role {
            Role::Root | Role::Alternate | Role::Backup => Self {
                all_synced: ports.iter().all(is_synced),
                re_rooted: ports.iter().all(|port| port.id == of.id || port.rr_while.is_zero()),
            },
            Role::Designated | Role::Disabled => Self::default(),
        }
    }
}

impl Port {
    /// Takes a step.
    pub(super) fn role_transition(&mut self, tree: &Tree, together: Together, now: Instant) -> Step {
        if !self.is_settled() {
            return Step::Rests;
        }
        if self.role != self.selected_role {
            self.enter_role(now);
            return Step::Moved;
        }
        match self.role {
            Role::Disabled => self.disabled(tree),
            Role::Root => self.root(tree, together, now),
            Role::Designated => self.designated(tree, now),
            Role::Alternate | Role::Backup => self.blocked(tree, together),
        }
    }

    /// DISABLE_PORT, ROOT_PORT, DESIGNATED_PORT or BLOCK_PORT: timers that the old role held begin to run.
    fn enter_role(&mut self, now: Instant) {
        for timer in [&mut self.fd_while, &mut self.rb_while, &mut self.rr_while] {
            timer.release(now);
        }
        self.role = self.selected_role;
        if matches!(self.role, Role::Disabled | Role::Alternate | Role::Backup) {
            (self.learn, self.forward) = (false, false);
        }
    }

    /// DISABLED_PORT.
    fn disabled(&mut self, tree: &Tree) -> Step {
        self.rest_discarding(Timer::Held(tree.designated_times().max_age))
    }

    /// Figure 17-22.
    fn blocked(&mut self, tree: &Tree, together: Together) -> Step {
        if self.learning || self.forwarding {
            return Step::Rests;
        }
        let backup_time = Timer::Held(2 * tree.designated_times().hello);
        if self.proposed && !self.agree {
            // ALTERNATE_PROPOSED
            self.proposed = false;
            return Step::SyncTree;
        }
        if (together.all_synced && !self.agree) || (self.proposed && self.agree) {
            // ALTERNATE_AGREED
            self.proposed = false;
            self.agree = true;
            self.new_info = true;
            return Step::Moved;
        }
        if self.role == Role::Backup && self.rb_while != backup_time {
            // BACKUP_PORT
            self.rb_while = backup_time;
            return Step::Moved;
        }
        // ALTERNATE_PORT
        self.rest_discarding(Timer::Held(self.forward_delay(tree)))
    }

    /// What DISABLED_PORT and ALTERNATE_PORT keep true, once the port has stopped.
    fn rest_discarding(&mut self, fd_while: Timer) -> Step {
        if self.learning || self.forwarding {
            return Step::Rests;
        }
        let rests = self.fd_while == fd_while && self.synced && !self.sync && !self.re_root && self.rr_while.is_zero();
        if rests {
            return Step::Rests;
        }
        self.fd_while = fd_while;
        self.synced = true;
        self.rr_while = Timer::Zero;
        (self.sync, self.re_root) = (false, false);
        Step::Moved
    }

    /// Figure 17-20.
    fn root(&mut self, tree: &Tree, together: Together, now: Instant) -> Step {
        let recent_root = Timer::Held(tree.designated_times().forward_delay);
        let may_advance = self.fd_while.is_zero() || (together.re_rooted && self.rb_while.is_zero());
        if self.rr_while != recent_root {
            // ROOT_PORT
            self.rr_while = recent_root;
        } else if self.proposed && !self.agree {
            // ROOT_PROPOSED
            self.proposed = false;
            return Step::SyncTree;
        } else if (together.all_synced && !self.agree) || (self.proposed && self.agree) {
            // ROOT_AGREED
            (self.proposed, self.sync) = (false, false);
            self.agree = true;
            self.new_info = true;
        } else if !self.forward && !self.re_root {
            // REROOT
            return Step::ReRootTree;
        } else if may_advance && !self.learn {
            // ROOT_LEARN
            self.fd_while = Timer::start(self.forward_delay(tree), now);
            self.learn = true;
        } else if may_advance && !self.forward {
            // ROOT_FORWARD
            self.fd_while = Timer::Zero;
            self.forward = true;
        } else if self.re_root && self.forward {
            // REROOTED
            self.re_root = false;
        } else {
            return Step::Rests;
        }
        Step::Moved
    }

    /// Figure 17-21.
    fn designated(&mut self, tree: &Tree, now: Instant) -> Step {
        let passes = self.learn || self.forward;
        let must_stop = (self.sync && !self.synced) || (self.re_root && !self.rr_while.is_zero()) || self.disputed;
        let may_advance = (self.fd_while.is_zero() || self.agreed || self.oper_edge)
            && (self.rr_while.is_zero() || !self.re_root)
            && !self.sync;
        if !self.forward && !self.agreed && !self.proposing && !self.oper_edge {
            // DESIGNATED_PROPOSE
            self.proposing = true;
            self.edge_delay_while = Timer::start(self.edge_delay(tree), now);
            self.new_info = true;
        } else if (!self.synced && ((!self.learning && !self.forwarding) || self.agreed || self.oper_edge))
            || (self.sync && self.synced)
        {
            // DESIGNATED_SYNCED
            self.rr_while = Timer::Zero;
            self.synced = true;
            self.sync = false;
        } else if self.rr_while.is_zero() && self.re_root {
            // DESIGNATED_RETIRED
            self.re_root = false;
        } else if must_stop && !self.oper_edge && passes {
            // DESIGNATED_DISCARD
            (self.learn, self.forward, self.disputed) = (false, false, false);
            self.fd_while = Timer::start(self.forward_delay(tree), now);
        } else if may_advance && !self.learn {
            // DESIGNATED_LEARN
            self.learn = true;
            self.fd_while = Timer::start(self.forward_delay(tree), now);
        } else if may_advance && !self.forward {
            // DESIGNATED_FORWARD
            self.forward = true;
            self.fd_while = Timer::Zero;
            self.agreed = self.send_rstp;
        } else {
            return Step::Rests;
        }
        Step::Moved
    }

    /// forwardDelay (§17.20.5): with a neighbour that speaks RSTP, a hello time is enough.
    fn forward_delay(&self, tree: &Tree) -> Duration {
        let times = tree.designated_times();
        if self.send_rstp { times.hello } else { times.forward_delay }
    }
}

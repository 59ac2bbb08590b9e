//! Every port and every member, and the line of members that may have frames.

use std::collections::VecDeque;
use std::io;

use link::{DropReason, Link, TxBatch};
use slab::Slab;

use crate::PortId;

use super::capture::{self, Capture, Passing};
use super::port::{Member, MemberKey, Port};

/// Where frames come from and go to.
#[derive(Default)]
pub(super) struct Floor {
    /// By place of the port's number.
    pub(super) ports: Vec<Option<Port>>,
    pub(super) members: Slab<Member>,
    /// Members that may have frames, each once.
    pub(super) line: VecDeque<MemberKey>,
    /// Members that had a single frame, and may have none besides: they stand in line again after those that are ready.
    pub(super) probing: Vec<MemberKey>,
    pub(super) captures: Slab<Capture>,
    /// Members whose link has failed, still to be taken out.
    pub(super) failed: Vec<(MemberKey, io::Error)>,
}

impl Floor {
    pub(super) fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    pub(super) fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.index())?.as_mut()
    }

    /// Counts a frame that the bridge dropped.
    pub(super) fn count_drop(&mut self, ingress: PortId, reason: DropReason) {
        if let Some(port) = self.port_mut(ingress) {
            port.drops.count(reason);
        }
    }

    /// Whether a capture looks at a port.
    pub(super) fn is_captured(&self, port: PortId) -> bool {
        self.port(port).is_some_and(|port| !port.captures.is_empty())
    }

    /// Gives a frame that came in on a port to its captures.
    #[cold]
    pub(super) fn catch(&mut self, ingress: PortId, frame: Passing, bytes: &[u8]) {
        let keys = self.ports.get(ingress.index()).and_then(Option::as_ref).map(|port| port.captures.as_slice());
        capture::catch(&mut self.captures, keys.unwrap_or_default(), frame, bytes);
    }

    /// Puts a member at the end of the line, unless it stands in it.
    pub(super) fn make_ready(&mut self, key: MemberKey) {
        if let Some(member) = self.members.get_mut(key as usize).filter(|member| !member.is_queued) {
            member.is_queued = true;
            self.line.push_back(key);
        }
    }

    /// Lets a member have another turn after one that was full. After a turn of one frame, all those that become ready
    /// meanwhile come first: the answer to that frame is likely among them.
    pub(super) fn look_again(&mut self, key: MemberKey, turn: usize) {
        if turn > 1 {
            self.make_ready(key);
        } else if let Some(member) = self.members.get_mut(key as usize) {
            member.is_queued = true;
            self.probing.push(key);
        }
    }

    /// Whether every member of a port takes datagrams that are still to be cut.
    pub(super) fn takes_long_datagrams(&self, port: PortId) -> bool {
        let members = self.port(port).into_iter().flat_map(|port| &port.members);
        let mut members = members.filter_map(|key| self.members.get(*key as usize));
        members.all(|member| member.link.native_offloads().uso)
    }

    /// Sends frames out of a port, to each of its members.
    pub(super) fn send(&mut self, port: PortId, batch: &TxBatch<'_>) {
        let Some(Some(port)) = self.ports.get(port.index()) else { return };
        if !port.captures.is_empty() {
            capture::catch_sent(&mut self.captures, &port.captures, batch);
        }
        for key in &port.members {
            let Some(member) = self.members.get_mut(*key as usize) else { continue };
            match member.send(batch) {
                Err(error) => self.failed.push((*key, error)),
                Ok(()) if member.link.answers() && !member.is_queued => {
                    member.is_queued = true;
                    self.line.push_back(*key);
                }
                Ok(()) => {}
            }
        }
    }
}

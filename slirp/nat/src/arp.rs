//! ARP (RFC 826): answers for the NAT's own addresses, and questions for guests that are to be connected to.

use std::net::Ipv4Addr;

use link::{DropReason, MacAddr};

use crate::env::Env;
use crate::wire::{self, ETHERNET, ETHERTYPE_ARP, Ethernet};

/// Bytes of an ARP packet for IPv4 over Ethernet.
const LEN: usize = 28;

/// What every such packet begins with: Ethernet, IPv4, and the lengths of their addresses.
const PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Takes an ARP packet: learns the sender, and answers a question for one of the NAT's addresses.
pub(crate) fn input<H>(env: &mut Env<H>, frame: &Ethernet<'_>) -> Result<(), DropReason> {
    let packet: &[u8; LEN] = frame.payload.first_chunk().ok_or(DropReason::Malformed)?;
    if packet[..6] != PREFIX {
        return Err(DropReason::Unserved);
    }
    let mut sender = [0; 6];
    sender.copy_from_slice(&packet[8..14]);
    let sender = MacAddr(sender);
    let (from, target) = (wire::address(packet, 14), wire::address(packet, 24));
    // A frame in another's name is no way to move a guest's traffic.
    if sender != frame.from || sender.is_multicast() {
        return Err(DropReason::Malformed);
    }
    if env.is_guest(from) {
        env.neighbours.learn(from, sender, &mut env.ready);
    }
    let ours = env.is_own(target.into());
    match wire::be16(packet, 6) {
        REQUEST if ours && from != target => put(env, REPLY, target, sender, from),
        REQUEST | REPLY => {}
        _ => return Err(DropReason::Malformed),
    }
    Ok(())
}

/// Asks for the Ethernet address of a guest.
pub(crate) fn ask<H>(env: &mut Env<H>, target: Ipv4Addr) {
    let from = env.config.gateway;
    put(env, REQUEST, from, MacAddr::BROADCAST, target);
}

fn put<H>(env: &mut Env<H>, operation: u16, from: Ipv4Addr, to_mac: MacAddr, to: Ipv4Addr) {
    let own = Env::<H>::own_mac(from);
    env.queue_frame(ETHERNET + LEN, |frame| {
        wire::put_ethernet(frame, to_mac, own, ETHERTYPE_ARP);
        let packet = &mut frame[ETHERNET..];
        packet[..6].copy_from_slice(&PREFIX);
        packet[6..8].copy_from_slice(&operation.to_be_bytes());
        packet[8..14].copy_from_slice(&own.0);
        packet[14..18].copy_from_slice(&from.octets());
        if operation == REPLY {
            packet[18..24].copy_from_slice(&to_mac.0);
        }
        packet[24..28].copy_from_slice(&to.octets());
    });
}

//! Which frames the cable must not lose: TCP segments that carry something.
//!
//! A TCP segment that the far host would have to ask for again takes a lane (a stream, in which QUIC repeats what was
//! lost); everything else takes a datagram. A bare acknowledgement is replaced by the next one and must not wait for a
//! repetition, so it takes a datagram too. All segments of a flow take the same lane, in order.
//!
//! Invariant: any bytes have an answer; what is not understood takes a datagram, as on any network.
//!
//! Neighbours: `session` asks; `steady` says how fast both go.

use link::Frame;

/// Streams for TCP in each direction. Flows that share one wait for each other's repetitions.
pub const LANES: u8 = 32;

/// Bytes that are looked at: Ethernet with two tags, IPv4 with options or IPv6, TCP's fixed header.
const LOOK: usize = 14 + 8 + 60 + 20;

const TCP: u8 = 6;
const FIN_SYN_RST: u8 = 0b111;

/// The lane of a frame; none if it takes a datagram.
#[must_use]
pub fn lane(frame: &Frame<'_>) -> Option<u8> {
    let mut head = [0; LOOK];
    let len = frame.copy_to(0, &mut head);
    lane_of(head.get(..len)?, frame.len())
}

fn lane_of(head: &[u8], len: usize) -> Option<u8> {
    let mut at = 12;
    let mut ethertype = word(head, at)?;
    // 802.1Q and 802.1ad.
    for _ in 0..2 {
        if [0x8100, 0x88a8].contains(&ethertype) {
            at += 4;
            ethertype = word(head, at)?;
        }
    }
    let ip = head.get(at + 2..)?;
    let before = at + 2;
    let (addresses, tcp_at, ip_len) = match ethertype {
        0x0800 => {
            let [version_ihl, _, _, _, _, _, flags, offset, _, protocol, ..] = ip.first_chunk::<20>()?;
            // A fragment (RFC 791 §3.1) may have no TCP header, and is not to wait for others.
            if version_ihl >> 4 != 4 || *protocol != TCP || flags & 0x3f != 0 || *offset != 0 {
                return None;
            }
            (ip.get(12..20)?, usize::from(version_ihl & 15) * 4, usize::from(word(ip, 2)?))
        }
        0x86dd => {
            if ip.first()? >> 4 != 6 || *ip.get(6)? != TCP {
                return None;
            }
            (ip.get(8..40)?, 40, 40 + usize::from(word(ip, 4)?))
        }
        _ => return None,
    };
    let tcp = ip.get(tcp_at..)?;
    let header_len = usize::from(*tcp.get(12)? >> 4) * 4;
    let flags = *tcp.get(13)?;
    // Behind a short packet stands padding. A packet to be cut may have 0 for a length that does not fit.
    let end = if ip_len > tcp_at { ip_len.min(len - before) } else { len - before };
    let carries = end > tcp_at + header_len || flags & FIN_SYN_RST != 0;
    carries.then(|| hash(addresses.iter().chain(tcp.iter().take(4))))
}

/// FNV-1a, folded: who picks addresses that collide only waits for himself.
fn hash<'a>(bytes: impl Iterator<Item = &'a u8>) -> u8 {
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let folded = hash ^ hash >> 16;
    (folded % u32::from(LANES)) as u8
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(flags: u8, payload: usize, port: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((40 + payload as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([1, port, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.resize(frame.len() + payload, 0);
        frame
    }

    fn look(frame: &[u8]) -> Option<u8> {
        lane_of(&frame[..frame.len().min(LOOK)], frame.len())
    }

    #[test]
    fn segments_that_carry_something_take_the_lane_of_their_flow() {
        let lane = look(&v4(0x18, 1000, 1)).unwrap();
        assert!(lane < LANES);
        for flags in [0x02, 0x11, 0x04] {
            assert_eq!(look(&v4(flags, 0, 1)), Some(lane));
        }
        let mut tagged = v4(0x18, 1000, 1);
        tagged.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
        assert_eq!(look(&tagged), Some(lane));
        let lanes: std::collections::BTreeSet<_> = (0..=255).filter_map(|port| look(&v4(0x18, 9, port))).collect();
        assert_eq!(lanes.len(), usize::from(LANES));
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 21, TCP, 64]);
        v6.extend([1; 32]);
        v6.extend([1, 2, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0, 9]);
        assert!(look(&v6).is_some());
        v6[6 + 14] = 17;
        assert_eq!(look(&v6), None);
    }

    #[test]
    fn acknowledgements_and_everything_else_take_datagrams() {
        assert_eq!(look(&v4(0x10, 0, 1)), None);
        // Padded to the shortest frame that there is.
        let mut padded = v4(0x10, 0, 1);
        padded.resize(60, 0);
        assert_eq!(look(&padded), None);
        let mut udp = v4(0x18, 100, 1);
        udp[23] = 17;
        assert_eq!(look(&udp), None);
        let mut fragment = v4(0x18, 100, 1);
        fragment[20] = 0x20;
        assert_eq!(look(&fragment), None);
        let whole = v4(0x18, 100, 1);
        for len in 0..54 {
            assert_eq!(look(&whole[..len]), None);
        }
        assert_eq!(look(&[0xff; 100]), None);
    }
}

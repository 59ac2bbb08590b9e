//! BPDUs: the frames that bridges send each other (IEEE 802.1D-2004 clause 9).
//!
//! A frame of any origin goes in, and a [`Bpdu`] comes out that has only values its type allows, or nothing. Frames are
//! 802.3 with LLC, untagged, to the bridge group address (§7.12.3):
//!
//! ```text
//!  0 destination 01:80:c2:00:00:00     19 version, type          34 bridge identifier
//!  6 source                            21 flags                  42 port identifier
//! 12 length of what follows            22 root identifier        44 message age, max age, hello time,
//! 14 LLC 42 42 03, protocol 0          30 root path cost            forward delay, each in 1/256 s
//! ```

use std::time::Duration;

use link::MacAddr;

use super::values::{BridgeId, PortIdentifier, Priority, Times};

/// Where BPDUs go (§7.12.3).
const GROUP_ADDRESS: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00];
const LLC: [u8; 3] = [0x42, 0x42, 0x03];
const TYPE_CONFIG: u8 = 0x00;
const TYPE_RST: u8 = 0x02;
const TYPE_TCN: u8 = 0x80;
/// The shortest Ethernet frame, in bytes without FCS.
const MIN_FRAME_LEN: usize = 60;
/// Nanoseconds in 1/256 s.
const NANOS_PER_UNIT: u64 = 1_000_000_000 / 256;

const FLAG_TOPOLOGY_CHANGE: u8 = 1;
const FLAG_PROPOSAL: u8 = 1 << 1;
const ROLE_SHIFT: u8 = 2;
const FLAG_LEARNING: u8 = 1 << 4;
const FLAG_FORWARDING: u8 = 1 << 5;
const FLAG_AGREEMENT: u8 = 1 << 6;
const FLAG_TOPOLOGY_CHANGE_ACK: u8 = 1 << 7;

/// A BPDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bpdu {
    /// Topology change notification (§9.3.2): STP's way to tell the root.
    Tcn,
    /// A Configuration BPDU (§9.3.1) or an RST BPDU (§9.3.3).
    Message(Message),
}

/// What a Configuration or an RST BPDU says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub priority: Priority,
    pub times: Times,
    pub topology_change: bool,
    pub topology_change_ack: bool,
    /// What only RST BPDUs say; none in a Configuration BPDU.
    pub rapid: Option<Rapid>,
}

/// The flags of an RST BPDU (§9.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rapid {
    pub role: SenderRole,
    pub proposal: bool,
    pub learning: bool,
    pub forwarding: bool,
    pub agreement: bool,
}

/// The role of the port that sent an RST BPDU (§9.2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SenderRole {
    Unknown,
    AlternateOrBackup,
    Root,
    Designated,
}

impl Message {
    /// Whether the sender is a Designated Port. A Configuration BPDU always is a Designated Port's, and an RST BPDU
    /// of an unknown role is read as one (§9.3.3).
    pub(super) fn is_designated(&self) -> bool {
        self.rapid.is_none_or(|rapid| matches!(rapid.role, SenderRole::Designated | SenderRole::Unknown))
    }
}

impl Bpdu {
    /// Parses a frame from the destination address on, padding or not. None for what is no BPDU, is cut short, is of a
    /// protocol or type that §9.3.4 does not accept, or is a Configuration BPDU past its maximum age.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let (destination, rest) = frame.split_first_chunk::<6>()?;
        let (_source, rest) = rest.split_first_chunk::<6>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let body = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        let (llc, body) = body.split_first_chunk::<3>()?;
        if *destination != GROUP_ADDRESS || *llc != LLC {
            return None;
        }
        let ([protocol_high, protocol_low, version, kind], body) = body.split_first_chunk::<4>()?;
        if (*protocol_high, *protocol_low) != (0, 0) {
            return None;
        }
        match (*kind, *version) {
            (TYPE_TCN, _) => Some(Self::Tcn),
            (TYPE_CONFIG, _) => {
                let (flags, priority, times) = parameters(body)?;
                let [topology_change, topology_change_ack] = topology_flags(flags);
                let message = Message { priority, times, topology_change, topology_change_ack, rapid: None };
                (times.message_age < times.max_age).then_some(Self::Message(message))
            }
            (TYPE_RST, 2..) => {
                let (flags, priority, times) = parameters(body)?;
                // The version 1 length, of which nothing but its presence counts (§9.3.4).
                body.get(31)?;
                let [topology_change, topology_change_ack] = topology_flags(flags);
                let rapid = Some(Rapid::parse(flags));
                Some(Self::Message(Message { priority, times, topology_change, topology_change_ack, rapid }))
            }
            _ => None,
        }
    }

    /// The frame, padded to the least length of a frame.
    pub(super) fn to_frame(self, source: MacAddr) -> Vec<u8> {
        let mut body = Vec::with_capacity(39);
        body.extend(LLC);
        match self {
            Self::Tcn => body.extend([0, 0, 0, TYPE_TCN]),
            Self::Message(message) => message.write(&mut body),
        }
        let mut frame = Vec::with_capacity(MIN_FRAME_LEN);
        frame.extend(GROUP_ADDRESS);
        frame.extend(source.0);
        frame.extend([0, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
        frame.extend(body);
        frame.resize(frame.len().max(MIN_FRAME_LEN), 0);
        frame
    }
}

impl Message {
    fn write(&self, body: &mut Vec<u8>) {
        let (version, kind) = if self.rapid.is_some() { (2, TYPE_RST) } else { (0, TYPE_CONFIG) };
        let topology =
            flag(self.topology_change, FLAG_TOPOLOGY_CHANGE) | flag(self.topology_change_ack, FLAG_TOPOLOGY_CHANGE_ACK);
        body.extend([0, 0, version, kind, topology | self.rapid.map_or(0, Rapid::flags)]);
        write_bridge(self.priority.root, body);
        body.extend(self.priority.cost.to_be_bytes());
        write_bridge(self.priority.bridge, body);
        body.extend(self.priority.port.0.to_be_bytes());
        for time in [self.times.message_age, self.times.max_age, self.times.hello, self.times.forward_delay] {
            let units = time.as_nanos() / u128::from(NANOS_PER_UNIT);
            body.extend(u16::try_from(units).unwrap_or(u16::MAX).to_be_bytes());
        }
        if self.rapid.is_some() {
            body.push(0);
        }
    }
}

impl Rapid {
    fn parse(flags: u8) -> Self {
        let role = match flags >> ROLE_SHIFT & 3 {
            0 => SenderRole::Unknown,
            1 => SenderRole::AlternateOrBackup,
            2 => SenderRole::Root,
            _ => SenderRole::Designated,
        };
        Self {
            role,
            proposal: flags & FLAG_PROPOSAL != 0,
            learning: flags & FLAG_LEARNING != 0,
            forwarding: flags & FLAG_FORWARDING != 0,
            agreement: flags & FLAG_AGREEMENT != 0,
        }
    }

    fn flags(self) -> u8 {
        let role = match self.role {
            SenderRole::Unknown => 0,
            SenderRole::AlternateOrBackup => 1,
            SenderRole::Root => 2,
            SenderRole::Designated => 3,
        };
        role << ROLE_SHIFT
            | flag(self.proposal, FLAG_PROPOSAL)
            | flag(self.learning, FLAG_LEARNING)
            | flag(self.forwarding, FLAG_FORWARDING)
            | flag(self.agreement, FLAG_AGREEMENT)
    }
}

fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

fn topology_flags(flags: u8) -> [bool; 2] {
    [flags & FLAG_TOPOLOGY_CHANGE != 0, flags & FLAG_TOPOLOGY_CHANGE_ACK != 0]
}

/// The parameters that Configuration and RST BPDUs share (§9.3.1, figure 9-1).
fn parameters(body: &[u8]) -> Option<(u8, Priority, Times)> {
    let (flags, body) = body.split_first()?;
    let (root, body) = bridge(body)?;
    let (cost, body) = body.split_first_chunk::<4>()?;
    let (bridge, body) = bridge(body)?;
    let (port, body) = body.split_first_chunk::<2>()?;
    let [a0, a1, m0, m1, h0, h1, f0, f1] = *body.first_chunk::<8>()?;
    let priority =
        Priority { root, cost: u32::from_be_bytes(*cost), bridge, port: PortIdentifier(u16::from_be_bytes(*port)) };
    let times = Times {
        message_age: duration([a0, a1]),
        max_age: duration([m0, m1]),
        hello: duration([h0, h1]),
        forward_delay: duration([f0, f1]),
    };
    Some((*flags, priority, times.clamped()))
}

fn bridge(body: &[u8]) -> Option<(BridgeId, &[u8])> {
    let (priority, body) = body.split_first_chunk::<2>()?;
    let (address, body) = body.split_first_chunk::<6>()?;
    Some((BridgeId { priority: u16::from_be_bytes(*priority), address: MacAddr(*address) }, body))
}

fn write_bridge(id: BridgeId, body: &mut Vec<u8>) {
    body.extend(id.priority.to_be_bytes());
    body.extend(id.address.0);
}

fn duration(units: [u8; 2]) -> Duration {
    Duration::from_nanos(u64::from(u16::from_be_bytes(units)) * NANOS_PER_UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: BridgeId = BridgeId { priority: 0x1000, address: MacAddr([2, 0, 0, 0, 0, 1]) };
    const BRIDGE: BridgeId = BridgeId { priority: 0x8000, address: MacAddr([2, 0, 0, 0, 0, 7]) };

    fn message(rapid: Option<Rapid>) -> Message {
        Message {
            priority: Priority { root: ROOT, cost: 2000, bridge: BRIDGE, port: PortIdentifier(0x8003) },
            times: Times { message_age: Duration::from_secs(1), ..Times::DEFAULT },
            topology_change: true,
            topology_change_ack: false,
            rapid,
        }
    }

    fn rapid() -> Rapid {
        Rapid { role: SenderRole::Designated, proposal: true, learning: false, forwarding: false, agreement: true }
    }

    #[test]
    fn an_rst_bpdu_is_laid_out_as_in_figure_9_3() {
        let frame = Bpdu::Message(message(Some(rapid()))).to_frame(BRIDGE.address);
        let mut expected = vec![0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 7, 0, 39, 0x42, 0x42, 0x03];
        expected.extend([0, 0, 2, 2, 0b0100_1111]);
        expected.extend([0x10, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0x07, 0xd0, 0x80, 0, 2, 0, 0, 0, 0, 7, 0x80, 3]);
        expected.extend([1, 0, 20, 0, 2, 0, 15, 0, 0]);
        expected.resize(60, 0);
        assert_eq!(frame, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let roles = [SenderRole::Unknown, SenderRole::AlternateOrBackup, SenderRole::Root, SenderRole::Designated];
        let rapids = roles.map(|role| Some(Rapid { role, ..rapid() }));
        for rapid in [None].into_iter().chain(rapids) {
            let bpdu = Bpdu::Message(message(rapid));
            assert_eq!(Bpdu::parse(&bpdu.to_frame(BRIDGE.address)), Some(bpdu));
        }
        assert_eq!(Bpdu::parse(&Bpdu::Tcn.to_frame(BRIDGE.address)), Some(Bpdu::Tcn));
    }

    #[test]
    fn a_bpdu_of_a_later_version_is_read_as_an_rst_bpdu() {
        let bpdu = Bpdu::Message(message(Some(rapid())));
        let mut frame = bpdu.to_frame(BRIDGE.address);
        frame[19] = 3;
        assert_eq!(Bpdu::parse(&frame), Some(bpdu));
    }

    #[test]
    fn every_cut_of_a_bpdu_is_refused() {
        for (bpdu, len) in
            [(Bpdu::Message(message(Some(rapid()))), 53), (Bpdu::Message(message(None)), 52), (Bpdu::Tcn, 21)]
        {
            let frame = bpdu.to_frame(BRIDGE.address);
            for cut in 0..len {
                assert_eq!(Bpdu::parse(&frame[..cut]), None, "{bpdu:?} cut to {cut}");
                let mut short = frame.clone();
                short[13] = u8::try_from(cut.saturating_sub(14)).unwrap();
                assert_eq!(Bpdu::parse(&short), None, "{bpdu:?} said to have {cut}");
            }
            assert_eq!(Bpdu::parse(&frame[..len]), Some(bpdu));
        }
    }

    #[test]
    fn what_is_not_a_bpdu_is_refused() {
        let good = Bpdu::Message(message(Some(rapid()))).to_frame(BRIDGE.address);
        for (offset, byte) in [(5, 1), (14, 0xaa), (15, 0xaa), (16, 0xf3), (17, 1), (18, 1), (19, 1), (20, 3)] {
            let mut frame = good.clone();
            frame[offset] = byte;
            assert_eq!(Bpdu::parse(&frame), None, "byte {offset}");
        }
    }

    #[test]
    fn a_configuration_bpdu_past_its_age_is_refused() {
        let old = |rapid| {
            let times = Times { message_age: Duration::from_secs(20), ..Times::DEFAULT };
            Bpdu::parse(&Bpdu::Message(Message { times, ..message(rapid) }).to_frame(BRIDGE.address))
        };
        assert_eq!(old(None), None);
        assert!(old(Some(rapid())).is_some());
    }

    #[test]
    fn times_out_of_bounds_are_brought_within() {
        let times = Times {
            message_age: Duration::ZERO,
            max_age: Duration::from_secs(255),
            hello: Duration::ZERO,
            forward_delay: Duration::ZERO,
        };
        let frame = Bpdu::Message(Message { times, ..message(None) }).to_frame(BRIDGE.address);
        let Some(Bpdu::Message(read)) = Bpdu::parse(&frame) else { panic!("not a BPDU") };
        assert_eq!(read.times.max_age, Duration::from_secs(40));
        assert_eq!(read.times.hello, Duration::from_secs(1));
        assert_eq!(read.times.forward_delay, Duration::from_secs(4));
    }
}

//! What watchers and the switch say to each other, as Rust types; the tables are in [`super`].
//!
//! Both ends are made of these, so a field that one end writes the other can read. A reader passes over fields that it
//! does not know; only a request must hold nothing but what is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Show {},
    Mac {},
    Explain {
        #[serde(default)]
        port: Option<u32>,
        #[serde(default)]
        vlan: Option<u16>,
        source: String,
        destination: String,
    },
    Events {},
    Dump {
        port: u32,
    },
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Switch(Box<SwitchReport>),
    Port(Box<PortReport>),
    Station(StationReport),
    Explanation(ExplanationReport),
    Following {},
    Event(EventReport),
    Capture(CaptureReport),
    Error(ErrorReport),
    End {},
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SwitchReport {
    /// The name it was run under.
    pub name: String,
    pub version: String,
    pub dir: String,
    pub pid: u32,
    /// When this was said.
    pub time: String,
    pub started: String,
    pub uptime_seconds: f64,
    pub hub: bool,
    pub snooping: bool,
    pub numports: u32,
    pub stations: u64,
    pub ageing_seconds: f64,
    /// None while it is off.
    pub spanning_tree: Option<TreeReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TreeReport {
    /// This bridge: priority and address.
    pub bridge: String,
    pub root: String,
    pub root_path_cost: u32,
    /// None where this bridge is the root.
    pub root_port: Option<u16>,
    pub topology_changes: u64,
}

/// `receive` came in from the port, `transmit` went out to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrafficReport {
    pub receive_frames: u64,
    pub receive_bytes: u64,
    pub transmit_frames: u64,
    pub transmit_bytes: u64,
    /// Frames by reason; those that have not occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PortReport {
    pub port: u16,
    /// Whether frames reach the far end of anything that is plugged in.
    pub carrier: bool,
    /// What the port does with frames: discarding, learning or forwarding.
    pub state: String,
    /// None while spanning tree is off.
    pub spanning_tree: Option<PortTreeReport>,
    pub vlan: VlanReport,
    pub stations: u32,
    pub mac_limit: Option<u32>,
    pub learning: bool,
    /// Whether storm control drops frames now.
    pub storm: bool,
    #[serde(flatten)]
    pub traffic: TrafficReport,
    pub members: Vec<MemberReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortTreeReport {
    pub role: String,
    pub edge: bool,
    /// Whether the neighbour speaks RSTP, as far as is known; otherwise STP.
    pub rstp: bool,
    /// Whether the BPDU guard has shut it.
    pub guarded: bool,
    pub path_cost: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VlanReport {
    /// Whether the port is in all VLANs.
    pub transparent: bool,
    pub untagged: Option<u16>,
    pub tagged: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemberReport {
    pub member: u32,
    pub name: String,
    /// `link` or `client`.
    pub kind: String,
    pub carrier: bool,
    pub since: String,
    /// Who a client is, by the kernel's word.
    pub peer: Option<PeerReport>,
    /// A client's own words, escaped.
    pub description: Option<String>,
    #[serde(flatten)]
    pub traffic: TrafficReport,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerReport {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StationReport {
    pub vlan: u16,
    pub address: String,
    pub port: u16,
    /// None for a static one.
    pub age_seconds: Option<f64>,
    #[serde(rename = "static")]
    pub is_static: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExplanationReport {
    /// Where the frame comes in, if that is known.
    pub ingress_port: Option<u16>,
    pub vlan: Option<u16>,
    /// What the stages decide, a line each.
    pub steps: Vec<String>,
    /// `forward`, `bpdu` or `drop`; none if it is not known where the frame comes in.
    pub verdict: Option<String>,
    pub drop_reason: Option<String>,
    pub egress: Vec<EgressReport>,
    pub mirrors: Vec<EgressReport>,
    pub left_out: Vec<LeftOutReport>,
    /// For people, several lines.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EgressReport {
    pub port: u16,
    /// What becomes of the tag: `keep`, `insert`, `replace` or `remove`.
    pub tag: String,
    /// The VLAN of the tag that is put in.
    pub tag_vlan: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeftOutReport {
    pub port: u16,
    pub reason: String,
}

/// An event: the fields that it has, of those that events have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EventReport {
    pub time: String,
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Events that this watcher missed because it did not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// For people.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CaptureReport {
    pub port: u16,
    /// What is plugged in.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ErrorReport {
    pub message: String,
}

/// Appends a line.
pub(super) fn append(answer: &Answer, out: &mut Vec<u8>) {
    // Writing to memory cannot fail, and these types have nothing that JSON lacks.
    let _ = serde_json::to_writer(&mut *out, answer);
    out.push(b'\n');
}

/// Appends the line of an error.
pub(super) fn append_error(message: impl Into<String>, out: &mut Vec<u8>) {
    append(&Answer::Error(ErrorReport { message: message.into() }), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_the_tables_say() {
        let parse = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(parse(r#"{"show":{}}"#).unwrap(), Request::Show {});
        assert_eq!(parse(r#" { "dump" : { "port" : 3 } } "#).unwrap(), Request::Dump { port: 3 });
        let explain = parse(r#"{"explain":{"source":"2:0:0:0:0:1","destination":"2:0:0:0:0:2"}}"#).unwrap();
        assert!(matches!(explain, Request::Explain { port: None, vlan: None, .. }));
        for text in ["", "show", "{}", r#"{"show":{"x":1}}"#, r#"{"dump":{}}"#, r#"{"dump":{"port":-1}}"#, "[]", "null"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_has_only_the_fields_that_it_needs() {
        let event = EventReport { event: "port_added".into(), port: Some(3), ..EventReport::default() };
        let mut out = Vec::new();
        append(&Answer::Event(event), &mut out);
        assert_eq!(out, b"{\"event\":{\"time\":\"\",\"event\":\"port_added\",\"port\":3,\"text\":\"\"}}\n");
    }
}

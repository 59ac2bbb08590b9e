//! What a cable's links have carried, for who asks by the control socket: a table, or one line of JSON.
//!
//! | line | answer |
//! |---|---|
//! | `show` | a table, a row for each link |
//! | `show --json` | the same, as one line of JSON, with the names that `vswitch show --json` has |
//! | `help` | the lines |
//!
//! Pure. Neighbours: `control` for the socket, `join` for the links.

use link::{Counters, LinkState, Way};
use serde_json::{Map, Value, json};

/// A link, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct LinkReport {
    pub(crate) name: String,
    pub(crate) state: LinkState,
    pub(crate) way: Option<Way>,
    pub(crate) counters: Counters,
}

/// The answer to a line.
///
/// # Errors
/// The line makes no sense; for whoever wrote it.
pub(crate) fn answer(line: &str, links: &[LinkReport]) -> Result<String, String> {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["show"] => Ok(table(links)),
        ["show", "--json"] => {
            Ok(json!({ "links": links.iter().map(LinkReport::to_json).collect::<Vec<_>>() }).to_string())
        }
        ["help"] => Ok("show [--json]     the links, and what each has carried and dropped\n\
                        help              this\n"
            .to_owned()),
        _ => Err(format!("'{}': expected show or help", line.trim().escape_debug())),
    }
}

impl LinkReport {
    fn to_json(&self) -> Value {
        let Counters { rx_frames, rx_bytes, tx_frames, tx_bytes, drops } = self.counters;
        let drops: Map<String, Value> =
            drops.iter().map(|(reason, frames)| (reason.name().to_owned(), frames.into())).collect();
        json!({
            "link": self.name,
            "carrier": self.state == LinkState::Up,
            "way": self.way.map(|way| way.name),
            "peer": self.way.and_then(|way| way.peer).map(|peer| peer.to_string()),
            "receive_frames": rx_frames,
            "receive_bytes": rx_bytes,
            "transmit_frames": tx_frames,
            "transmit_bytes": tx_bytes,
            "drops": drops,
        })
    }

    fn cells(&self) -> [String; 8] {
        let counters = &self.counters;
        let drops: Vec<_> = counters.drops.iter().map(|(reason, frames)| format!("{frames} {reason}")).collect();
        let way = self.way.map(|way| match way.peer {
            Some(peer) => format!("{} {peer}", way.name),
            None => way.name.to_owned(),
        });
        [
            self.name.clone(),
            if self.state == LinkState::Up { "up" } else { "down" }.to_owned(),
            way.unwrap_or_else(|| "-".to_owned()),
            counters.rx_frames.to_string(),
            counters.rx_bytes.to_string(),
            counters.tx_frames.to_string(),
            counters.tx_bytes.to_string(),
            if drops.is_empty() { "-".to_owned() } else { drops.join(", ") },
        ]
    }
}

/// The columns. Numbers are received from a link, and sent into it.
const HEADINGS: [&str; 8] = ["LINK", "CARRIER", "WAY", "RX FRAMES", "RX BYTES", "TX FRAMES", "TX BYTES", "DROPPED"];
/// The columns of numbers, which stand right.
const NUMBERS: std::ops::Range<usize> = 3..7;

fn table(links: &[LinkReport]) -> String {
    let rows: Vec<_> =
        std::iter::once(HEADINGS.map(str::to_owned)).chain(links.iter().map(LinkReport::cells)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let cell =
                if NUMBERS.contains(&column) { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use link::DropReason;

    use super::*;

    fn links() -> [LinkReport; 2] {
        let mut counters = Counters::default();
        counters.received(60);
        counters.drops.count(DropReason::LinkFull);
        let way = Some(Way { name: "quic", peer: Some("192.0.2.1:4433".parse().unwrap()) });
        let near = LinkReport { name: "vde:///run/a".to_owned(), state: LinkState::Down, way: None, counters };
        [near, LinkReport { name: "ssh://host".to_owned(), state: LinkState::Up, way, counters: Counters::default() }]
    }

    #[test]
    fn a_table_has_a_row_for_each_link() {
        let expected = "\
LINK          CARRIER  WAY                  RX FRAMES  RX BYTES  TX FRAMES  TX BYTES  DROPPED
vde:///run/a  down     -                            1        60          0         0  1 link-full
ssh://host    up       quic 192.0.2.1:4433          0         0          0         0  -
";
        assert_eq!(answer(" show\n", &links()).unwrap(), expected);
    }

    #[test]
    fn json_has_the_same() {
        let value: Value = serde_json::from_str(&answer("show --json", &links()).unwrap()).unwrap();
        let [near, far] = [&value["links"][0], &value["links"][1]];
        assert_eq!((&near["carrier"], &near["receive_bytes"], &near["way"]), (&json!(false), &json!(60), &Value::Null));
        assert_eq!((&far["way"], &far["peer"]), (&json!("quic"), &json!("192.0.2.1:4433")));
        assert_eq!((&near["drops"], &far["drops"]), (&json!({ "link-full": 1 }), &json!({})));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        assert!(answer("shwo \u{1b}", &links()).unwrap_err().starts_with("'shwo \\u{1b}': expected show"));
    }
}

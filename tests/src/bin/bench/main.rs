//! `make bench`: ours and its peers one after the other in one run; figures and their ratios.
//!
//! Figures of different runs do not compare: these machines are noisy. Neighbours: docs/BENCHMARKS.md.

mod cable;
mod guest;
mod hosts;
mod nat;
mod path;
mod sshd;
mod switch;

use anyhow::Context;

const USAGE: &str = "usage: bench [guest|switch [ROUNDS]|cable [ROUNDS]|path [ROUNDS]|nat [ROUNDS]|boots N]";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let count = |text: &str| text.parse().with_context(|| format!("bench: '{text}' is no number"));
    let result = match words[..] {
        [] => guest::compare()
            .and_then(|()| switch::compare(1))
            .and_then(|()| cable::compare(1))
            .and_then(|()| path::compare(1))
            .and_then(|()| nat::compare(1)),
        ["guest"] => guest::compare(),
        ["switch"] => switch::compare(1),
        ["switch", rounds] => count(rounds).and_then(switch::compare),
        ["cable"] => cable::compare(1),
        ["cable", rounds] => count(rounds).and_then(cable::compare),
        ["path"] => path::compare(1),
        ["path", rounds] => count(rounds).and_then(path::compare),
        ["nat"] => nat::compare(1),
        ["nat", rounds] => count(rounds).and_then(nat::compare),
        ["boots", boots] => count(boots).and_then(guest::boots),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    };
    if let Err(error) = result {
        eprintln!("bench: {error:#}");
        std::process::exit(1);
    }
}

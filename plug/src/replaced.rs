//! For users of VDE's programs: which line of ours stands for which of theirs.
//!
//! Invariant: an entry whose second half begins with `plug` is a command line that runs as it stands, and a lab runs it
//! (`tests/tests/cables/replaced.rs`).
//!
//! Neighbours: `cli`, whose manual has these as sections; `impair` for what differs from wirefilter.

use program::options::Meaning;

/// wirefilter, and where its options have gone.
pub const WIREFILTER: &[Meaning] = &[
    (
        "wirefilter -v /run/a:/run/b -l 10 -d 100 -M /run/wire",
        "plug /run/a 'impair://{vde:///run/b}?loss=10%&delay=100ms&control=/run/wire'",
    ),
    (
        "dpipe vde_plug /run/a = wirefilter -l LR10 = vde_plug /run/b",
        "plug /run/a 'impair://{vde:///run/b}?tx.loss=10%'",
    ),
    ("LR10, RL10", "With the impaired link in second place, tx.KEY is for LR, from left to right, and rx.KEY for RL."),
    ("loss 5, at its console", "plug impair /run/wire set loss=5%"),
    ("showinfo, at its console", "plug show /run/wire"),
    ("-l 10 -L 3", "loss=10%&burst=3"),
    (
        "-d 1000, -d 1000+500, -d 1000+500N",
        "delay=1000ms, with jitter=500ms, or with jitter=166.667ms&distribution=normal",
    ),
    ("-D 5", "duplicate=5%, of which each arrives twice, never more often"),
    ("-b 128K, -s 128K, -c 65536", "rate=128kibps, speed=128kibps, buffer=65536"),
    ("-m 1516", "mtu=1500: wirefilter counts the Ethernet header, and two bytes of its own"),
    ("-n 8, -N", "noise=8, overtake=on"),
];

/// vde_cryptcab.
pub const CRYPTCAB: &[Meaning] = &[
    ("vde_cryptcab -s /run/a -c host", "plug /run/a 'ssh://host/run/b?data=quic'"),
    (
        "vde_cryptcab -s /run/b, the server of that",
        "Nothing: ssh runs the far side, admits by its own rules, and carries the frames itself where UDP does not pass.",
    ),
    ("vde_cryptcab -s /run/b -p 2100 -P shared.key", "plug /run/b 'quic://?listen=0.0.0.0:2100&trust=first'"),
    ("vde_cryptcab -s /run/a -c host:2100 -P shared.key", "plug /run/a 'quic://host:2100?trust=first'"),
    (
        "shared.key",
        "Each end has a key of its own, made on first use; with trust=first it remembers the first that comes, and with \
         peer=FINGERPRINT it takes none but this one. A listener serves one peer: for several, one on a port of its own each.",
    ),
    ("vde_cryptcab -s /run/b -p 2100 -x", "plug /run/b 'udp://near:2100?local=0.0.0.0:2100'"),
    ("vde_cryptcab -s /run/a -c host:2100 -x", "plug /run/a 'udp://host:2100?local=0.0.0.0:2100'"),
    ("-k", "Nothing: quic:// breaks the silence by itself (keepalive=SECONDS)."),
];

/// vde_autolink.
pub const AUTOLINK: &[Meaning] = &[
    (
        "addwire, addlink, addtypelink and linkonoff 1 with vde_plug over ssh",
        "plug --reconnect --daemon --pidfile /run/link.pid --control /run/link /run/a ssh://host/run/b",
    ),
    ("showlinks, runninglinks", "plug show /run/link"),
    ("linkonoff 0, dellink", "kill $(cat /run/link.pid)"),
    (
        "several types of wire for one link",
        "A line for each, between switches with spanning tree (vswitch -F): one carries the frames, and another does when its \
         link has no carrier any more.",
    ),
];

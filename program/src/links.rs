//! The kinds of links, as help, man pages and completions list them. What they mean, `plug` knows; each of these forms
//! is held against it by the programs that take them.

use crate::options::{Scheme, Value};

/// Every kind that `plug` opens.
pub static LINKS: [Scheme; 6] = [
    Scheme {
        name: "tap",
        address: Value::Interface,
        form: "tap://NAME",
        help: "a TAP of this host, made if it does not exist; \
               ?up=on brings it up (up=try if it may), mtu=BYTES sets its MTU, persist=on keeps it",
    },
    Scheme {
        name: "vde",
        address: Value::Directory,
        form: "vde://DIR",
        help: "a port of the VDE switch that has this directory, vde://DIR[PORT] a certain one; \
               group=NAME and mode=OCTAL say who may read our socket, mtu=BYTES what passes, \
               description=TEXT who we are",
    },
    Scheme {
        name: "user",
        address: Value::Text,
        form: "user://",
        help: "the user-mode NAT, with DHCP and DNS; \
               its settings are those of QEMU's -netdev user, as in user://?hostfwd=tcp::2222-:22&restrict=on",
    },
    Scheme {
        name: "quic",
        address: Value::Text,
        form: "quic://HOST:4433",
        help: "a cable to another host, over QUIC; quic://?listen=ADDR:PORT is its other end. \
               peer=FINGERPRINT names the far side's key; otherwise a file does (known=FILE, by default \
               ~/.config/etherloom/known_peers), into which trust=first writes the first to come. key=FILE is our own key \
               (~/.config/etherloom/quic.key), made on first use; mtu=BYTES sets what passes, \
               keepalive=SECONDS (5) and idle=SECONDS (15) when silence is broken, and when it is the end",
    },
    Scheme {
        name: "pcap",
        address: Value::File,
        form: "pcap://FILE",
        help: "a capture of every frame sent there; len=BYTES keeps so much of each, time=nano is finer",
    },
    Scheme { name: "null", address: Value::Text, form: "null://", help: "nothing: frames sent there are gone" },
];

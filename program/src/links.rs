//! The kinds of links, as help, man pages and completions list them. What they mean, `plug` knows; each of these forms
//! is held against it by the programs that take them.

use crate::options::{Scheme, Value};

/// Every kind that `plug` opens.
pub static LINKS: &[Scheme] = &[
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
        help: "the user-mode NAT, with DHCP and DNS; its settings are those of QEMU's -netdev user, as in \
               user://?hostfwd=tcp::2222-:22&restrict=on; tftp=DIR serves files, which bootfile=FILE and \
               tftp-server-name=NAME announce, guestfwd=[tcp]:[ADDR]:PORT-TARGET leads guests to tcp:ADDR:PORT, unix:PATH \
               or cmd:COMMAND, smb=DIR shares a folder through Samba (at smbserver=ADDR)",
    },
    Scheme {
        name: "ssh",
        address: Value::Text,
        form: "ssh://USER@HOST:PORT/DIR",
        help: "the switch of that directory on another host, by the user's own ssh (USER@ and :PORT may be left out); \
               ssh=COMMAND is the command line for ssh, remote=PROGRAM the plug on the far side (or its vde_plug), \
               locator=LOCATOR another link there than a switch; data=quic moves frames to QUIC where UDP passes",
    },
    Scheme {
        name: "stream",
        address: Value::Text,
        form: "stream://HOST:PORT",
        help: "a connection to that port, or to the Unix socket stream:///PATH, as QEMU's -netdev stream; \
               reconnect=SECONDS tries again after so long",
    },
    Scheme {
        name: "listen",
        address: Value::Text,
        form: "listen://HOST:PORT",
        help: "its other end, or that of listen:///PATH: one client at a time; without HOST on every address",
    },
    Scheme {
        name: "cmd",
        address: Value::Text,
        form: "cmd://COMMAND",
        help: "a command of the shell's whose standard input and output are a VDE stream, as vde_plug's",
    },
    Scheme {
        name: "stdio",
        address: Value::Text,
        form: "stdio://",
        help: "standard input and output, as such a stream",
    },
    Scheme {
        name: "reconnect",
        address: Value::Text,
        form: "reconnect://{LINK}",
        help: "a link that is opened again when it has ended; \
               min=SECONDS is the first pause (default 0.25), max=SECONDS the longest (3)",
    },
    Scheme {
        name: "impair",
        address: Value::Text,
        form: "impair://{LINK}",
        help: "a bad network around another link, as in impair://{tap://tap0}?delay=50ms&loss=1%&rate=10mbit; \
               the manual has its settings, and control=PATH lets them be changed while it runs",
    },
    Scheme {
        name: "udp",
        address: Value::Text,
        form: "udp://HOST:PORT",
        help: "one bare frame a UDP datagram to this address, and from it, as QEMU's -netdev dgram; \
               local=ADDR:PORT is our own, mtu=BYTES what the link states (what fits into one packet)",
    },
    Scheme {
        name: "dgram",
        address: Value::File,
        form: "dgram://PATH",
        help: "one bare frame a datagram to the socket that QEMU's -netdev dgram has at this path; \
               local=PATH is our own socket, mode=OCTAL says who may send to it; takes QEMU's local.* and remote.* too",
    },
    Scheme {
        name: "mcast",
        address: Value::Text,
        form: "mcast://GROUP:PORT",
        help: "the Ethernet of all members of an IPv4 multicast group, as QEMU's -netdev socket,mcast=; \
               local=ADDR says by which interface, ttl=N how many routers to pass (1)",
    },
    Scheme {
        name: "vxlan",
        address: Value::Text,
        form: "vxlan://HOST",
        help: "VXLAN to a VTEP, to several with peer=HOST[:PORT] for each, or to a multicast group; vni=N is the \
               network; local=ADDR, port=N (4789), dev=INTERFACE and ttl=N say from where, ageing=SECONDS how long a station is \
               remembered (300)",
    },
    Scheme {
        name: "l2tpv3",
        address: Value::Text,
        form: "l2tpv3://HOST",
        help: "a static L2TPv3 pseudowire, over UDP with udp=on, else over IP itself; its settings are those of QEMU's \
               -netdev l2tpv3, as in l2tpv3://HOST:1701?udp=on&txsession=1",
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

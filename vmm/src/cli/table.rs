//! The options, once: the parser looks them up here and `-help` is printed from here.

use std::fmt::Write as _;

/// One option of the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// The name, without dashes.
    pub name: &'static str,
    /// What its argument is called, or empty if it takes none.
    pub argument: &'static str,
    /// What it does, for `-help`; lines are separated by `\n`.
    pub help: &'static str,
}

const fn option(name: &'static str, argument: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, argument, help }
}

/// Every option, by topic, in the order of `-help`.
pub const TOPICS: &[(&str, &[OptionSpec])] = &[
    (
        "Machine",
        &[
            option("m", "[size=]SIZE[M|G]", "guest memory, in MiB unless a suffix says otherwise (default 128)"),
            option("smp", "[cpus=]N", "number of virtual CPUs (default 1)"),
            option("cpu", "host|max", "the processor model: always the host's own"),
            option("M", "TYPE", "the machine type: pc, q35 and microvm all name the one machine there is"),
            option("machine", "TYPE[,accel=kvm]", "the same"),
            option("accel", "kvm", "the accelerator: KVM is the only one"),
            option("enable-kvm", "", "the same, as a switch"),
            option("name", "[guest=]NAME", "the guest's name, shown in messages"),
            option("no-reboot", "", "exit instead of starting again when the guest reboots"),
        ],
    ),
    (
        "Boot",
        &[
            option("kernel", "FILE", "boot this bzImage or ELF vmlinux"),
            option("initrd", "FILE", "with this initial RAM disk"),
            option("append", "TEXT", "and this kernel command line"),
        ],
    ),
    (
        "Console",
        &[
            option(
                "nographic",
                "",
                "first serial port on this terminal; Ctrl-A x ends the machine, Ctrl-A h lists more",
            ),
            option("serial", "stdio|none", "where the first serial port goes (default stdio; none with -daemonize)"),
            option("display", "none", "there is no display; accepted for the sake of existing scripts"),
            option("vga", "none", "likewise"),
            option("monitor", "none", "likewise"),
            option("nodefaults", "", "no network card unless one is asked for"),
        ],
    ),
    (
        "Network",
        &[
            option(
                "net",
                "nic[,model=M][,macaddr=MAC][,netdev=ID][,addr=SLOT]",
                "a network card, on the hub that all -net parts share (or on a netdev)",
            ),
            option(
                "net",
                "user[,hostfwd=RULE]...|tap[,ifname=NAME]|...",
                "put a backend on that hub; the backends are those of -netdev",
            ),
            option(
                "net",
                "dump[,file=FILE][,len=N]",
                "write what passes the hub to a pcap file (default vmm-net.pcap, 65536 bytes of each frame)",
            ),
            option("net", "none", "no network card at all"),
            option("nic", "BACKEND[,model=M][,mac=MAC]...|none", "a network card and its backend in one"),
            option(
                "netdev",
                "BACKEND,id=ID[,KEY=VALUE]...",
                "a backend, for a -device to name. user: net, host, dns, dhcpstart, hostname, domainname,\n\
                 dnssearch, restrict, host-loopback, mtu, hostfwd=[tcp|udp]:[ADDR]:PORT-[ADDR]:PORT;\n\
                 tap: ifname, fd, mtu, up, persist; pcap: file, len, time; null",
            ),
            option(
                "device",
                "MODEL,netdev=ID[,mac=MAC][,addr=SLOT][,host_mtu=N]",
                "a network card (virtio-net-pci), or virtio-rng-pci",
            ),
            option(
                "object",
                "filter-dump,id=ID,netdev=ID,file=FILE[,maxlen=N]",
                "write what passes a backend to a pcap file",
            ),
        ],
    ),
    (
        "Process",
        &[
            option("pidfile", "FILE", "write the process id to this file, and remove it at the end"),
            option("daemonize", "", "go to the background once the machine is set up"),
            option("version", "", "print the version"),
            option("help", "", "print this"),
            option("h", "", "the same"),
        ],
    ),
];

/// Finds an option by its name, written without dashes.
#[must_use]
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    TOPICS.iter().flat_map(|(_, options)| *options).find(|option| option.name == name)
}

/// The option whose name is nearest to a mistyped one, if one is near.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    TOPICS
        .iter()
        .flat_map(|(_, options)| *options)
        .map(|option| (distance(option.name, name), option.name))
        .filter(|&(distance, candidate)| distance <= 2 && distance < candidate.len())
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The text of `-help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "usage: vmm -kernel FILE [OPTION]...\n\n\
         Boots a Linux kernel in a KVM machine whose network cards attach to pluggable backends.\n\
         Options are QEMU's, with one dash or two. With no network option there is one card, on 'user'.\n",
    );
    for (topic, options) in TOPICS {
        let _ = writeln!(text, "\n{topic}:");
        for option in *options {
            let _ = writeln!(text, "  -{} {}", option.name, option.argument);
            for line in option.help.lines() {
                let _ = writeln!(text, "        {line}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_option_finds_its_neighbour() {
        assert_eq!(nearest("nograpic"), Some("nographic"));
        assert_eq!(nearest("kernal"), Some("kernel"));
        assert_eq!(nearest("drive"), None);
        assert_eq!(nearest("zz"), None);
    }

    #[test]
    fn help_shows_every_option() {
        let text = help();
        for option in TOPICS.iter().flat_map(|(_, options)| *options) {
            assert!(text.contains(&format!("  -{} {}", option.name, option.argument)), "{}", option.name);
        }
    }
}

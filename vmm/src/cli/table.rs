//! The options, once: the parser looks them up here; `-help`, the man page and the completions are printed from here.

use program::options::{Entries, OptionSpec, Program, Section, Style, Topic, Value};

/// The program and its options, in the order of `-help`.
pub static PROGRAM: Program = Program {
    name: "vmm",
    summary: "virtual machine with pluggable network backends",
    style: Style::Qemu,
    usage: &["-kernel FILE [OPTION]..."],
    description: &[
        "Boots a Linux kernel in a KVM machine whose network cards attach to pluggable backends. The cards are \
         virtio-net with checksum and segmentation offload; the machine has a serial console, a random number \
         generator, power-off and reboot, and no disks.",
        "Options are QEMU's, with one dash or two. With no network option there is one card, on 'user'.",
    ],
    topics: &[
        Topic {
            title: "Machine",
            options: &[
                OptionSpec::new(&["m"], "guest memory, in MiB unless a suffix says otherwise (default 128)")
                    .takes("[size=]SIZE[M|G]", Value::Text),
                OptionSpec::new(&["smp"], "number of virtual CPUs (default 1)").takes("[cpus=]N", Value::Text),
                OptionSpec::new(&["cpu"], "the processor model: always the host's own")
                    .takes("host|max", Value::Choice(&["host", "max"])),
                OptionSpec::new(&["M"], "the machine type: pc, q35 and microvm all name the one machine there is")
                    .takes("TYPE", Value::Choice(&["pc", "q35", "microvm"])),
                OptionSpec::new(&["machine"], "the same")
                    .takes("TYPE[,accel=kvm]", Value::Choice(&["pc", "q35", "microvm"])),
                OptionSpec::new(&["accel"], "the accelerator: KVM is the only one")
                    .takes("kvm", Value::Choice(&["kvm"])),
                OptionSpec::new(&["enable-kvm"], "the same, as a switch"),
                OptionSpec::new(&["name"], "the guest's name, shown in messages").takes("[guest=]NAME", Value::Text),
                OptionSpec::new(&["no-reboot"], "exit instead of starting again when the guest reboots"),
            ],
        },
        Topic {
            title: "Boot",
            options: &[
                OptionSpec::new(&["kernel"], "boot this bzImage or ELF vmlinux").takes("FILE", Value::File),
                OptionSpec::new(&["initrd"], "with this initial RAM disk").takes("FILE", Value::File),
                OptionSpec::new(&["append"], "and this kernel command line").takes("TEXT", Value::Text),
            ],
        },
        Topic {
            title: "Console",
            options: &[
                OptionSpec::new(
                    &["nographic"],
                    "first serial port on this terminal; Ctrl-A x ends the machine, Ctrl-A h lists more",
                ),
                OptionSpec::new(&["serial"], "where the first serial port goes (default stdio; none with -daemonize)")
                    .takes("stdio|none", Value::Choice(&["stdio", "none"])),
                OptionSpec::new(&["display"], "there is no display; accepted for the sake of existing scripts")
                    .takes("none", Value::Choice(&["none"])),
                OptionSpec::new(&["vga"], "likewise").takes("none", Value::Choice(&["none"])),
                OptionSpec::new(&["monitor"], "likewise").takes("none", Value::Choice(&["none"])),
                OptionSpec::new(&["nodefaults"], "no network card unless one is asked for"),
            ],
        },
        Topic {
            title: "Network",
            options: &[
                OptionSpec::new(&["net"], "a network card, on the hub that all -net parts share (or on a netdev)")
                    .takes(
                        "nic[,model=M][,macaddr=MAC][,netdev=ID][,addr=SLOT]",
                        Value::Choice(&["nic,model=", "nic,macaddr=", "nic,netdev="]),
                    )
                    .repeatable(),
                OptionSpec::new(&["net"], "put a backend on that hub; the backends are those of -netdev")
                    .takes(
                        "user[,hostfwd=RULE]...|tap[,ifname=NAME]|...",
                        Value::Choice(&["user", "user,", "tap,ifname=", "vde,sock=", "pcap,file="]),
                    )
                    .repeatable(),
                OptionSpec::new(
                    &["net"],
                    "write what passes the hub to a pcap file (default vmm-net.pcap, 65536 bytes of each frame)",
                )
                .takes("dump[,file=FILE][,len=N]", Value::Choice(&["dump,file="]))
                .repeatable(),
                OptionSpec::new(&["net"], "no network card at all").takes("none", Value::Choice(&["none"])),
                OptionSpec::new(&["nic"], "a network card and its backend in one")
                    .takes(
                        "BACKEND[,model=M][,mac=MAC]...|none",
                        Value::Choice(&["user", "user,", "tap,ifname=", "vde,sock=", "pcap,file=", "null", "none"]),
                    )
                    .repeatable(),
                OptionSpec::new(
                    &["netdev"],
                    "a backend, for a -device to name. \
                     user: net, host, dns, dhcpstart, hostname, domainname, dnssearch, restrict, host-loopback, mtu, \
                     hostfwd=[tcp|udp]:[ADDR]:PORT-[ADDR]:PORT, tftp, bootfile, tftp-server-name, \
                     guestfwd=[tcp]:[ADDR]:PORT-TARGET, smb, smbserver; \
                     tap: ifname, fd, mtu, up, persist; vde: sock, port, group, mode, mtu, description; \
                     pcap: file, len, time; null",
                )
                .takes(
                    "BACKEND,id=ID[,KEY=VALUE]...",
                    Value::Choice(&["user,id=", "tap,ifname=", "vde,sock=", "pcap,file=", "null,id="]),
                )
                .repeatable(),
                OptionSpec::new(&["device"], "a network card (virtio-net-pci), or virtio-rng-pci")
                    .takes(
                        "MODEL,netdev=ID[,mac=MAC][,addr=SLOT][,host_mtu=N]",
                        Value::Choice(&["virtio-net-pci,netdev=", "virtio-rng-pci"]),
                    )
                    .repeatable(),
                OptionSpec::new(&["object"], "write what passes a backend to a pcap file")
                    .takes("filter-dump,id=ID,netdev=ID,file=FILE[,maxlen=N]", Value::Choice(&["filter-dump,id="]))
                    .repeatable(),
            ],
        },
        Topic {
            title: "Process",
            options: &[
                OptionSpec::new(&["pidfile"], "write the process id to this file, and remove it at the end")
                    .takes("FILE", Value::File),
                OptionSpec::new(&["daemonize"], "go to the background once the machine is set up"),
                OptionSpec::new(&["version"], "print the version"),
                OptionSpec::new(&["help", "h"], "print this"),
            ],
        },
    ],
    commands: &[],
    operands: &[],
    schemes: &[],
    sections: &[
        Section {
            title: "NETWORK BACKENDS",
            entries: Entries::Fixed(&[
                (
                    "user",
                    "The user-mode NAT, which needs no privileges: ARP, DHCP, a name server that asks the host's, ICMP \
                     echo, TCP and UDP. Addresses are QEMU's: network 10.0.2.0/24, gateway 10.0.2.2, name server \
                     10.0.2.3, leases from 10.0.2.15; net=ADDRESS/PREFIX, host=, dns= and dhcpstart= change them. \
                     hostfwd= opens a port of the host that leads to the guest. The guest reaches services on the \
                     host's loopback through the gateway's address: host-loopback=off shuts that way, and restrict=on \
                     every way out but the answers to hostfwd, and what guestfwd= and smb= lead to. tftp=DIR serves \
                     the files of a folder by TFTP at the gateway's address; bootfile=FILE and tftp-server-name=NAME tell \
                     a boot ROM what to fetch, and from whom. guestfwd= leads connections to a port of an address of the \
                     guests' network (10.0.2.4) to tcp:ADDR:PORT, unix:PATH, or cmd:COMMAND, which is started for each \
                     of them. smb=DIR shares a folder, by Samba's smbd, as //10.0.2.4/qemu; smbserver= is another address \
                     for it.",
                ),
                (
                    "tap,ifname=NAME",
                    "A TAP of this host, made if it does not exist: mtu=BYTES sets its MTU, up=on brings it up, \
                     persist=on keeps it. fd=N takes one that was left open instead.",
                ),
                (
                    "vde,sock=DIR",
                    "A port of the VDE switch that has this directory: port=N asks for a certain one, group=NAME and \
                     mode=OCTAL say who may read our socket, mtu=BYTES sets what passes, description=TEXT what the \
                     switch shows.",
                ),
                (
                    "pcap,file=FILE",
                    "A capture and nothing else: len=BYTES keeps so much of each frame, time=nano is finer.",
                ),
                ("null", "Nothing: what is sent there is gone."),
            ]),
        },
        Section {
            title: "KEYS",
            entries: Entries::Fixed(&[
                ("Ctrl-A x", "End the machine."),
                ("Ctrl-A h", "List these keys."),
                ("Ctrl-A Ctrl-A", "Send Ctrl-A to the guest."),
            ]),
        },
    ],
    exit_statuses: &[
        ("0", "The guest powered off, or was told to end."),
        ("1", "Something failed; one line on standard error says what."),
        ("2", "The command line makes no sense; one line on standard error says why."),
    ],
    files: &[
        ("/dev/kvm", "The processor's virtualization; the user must be able to read and write it."),
        ("/dev/net/tun", "TAPs."),
    ],
    environment: &[(
        "ETHERLOOM_LOG",
        "How much is said on standard error: error, warn (the default), info, debug or trace.",
    )],
    examples: &[
        (
            "A guest on this terminal, with a card on the user-mode NAT and its port 22 at 2222 of this host:",
            "vmm -m 512 -smp 2 -kernel /boot/vmlinuz -initrd initrd.img -append console=ttyS0 -nographic \
             -net nic,model=virtio -net user,hostfwd=tcp::2222-:22",
        ),
        (
            "The same card on a TAP, and a capture of what passes:",
            "vmm -kernel vmlinuz -netdev tap,id=n0,ifname=tap0 -device virtio-net-pci,netdev=n0 \
             -object filter-dump,id=f0,netdev=n0,file=guest.pcap",
        ),
    ],
    see_also: &["vswitch(1)", "qemu-system-x86_64(1)"],
};

/// The text of `-help`.
#[must_use]
pub fn help() -> String {
    program::help::program(&PROGRAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_every_option() {
        let text = help();
        for option in PROGRAM.options() {
            let head = program::help::head(option, Style::Qemu);
            assert!(text.contains(&format!("\n  {head}\n")), "{head}");
        }
    }
}

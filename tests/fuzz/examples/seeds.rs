//! Writes a few well-formed inputs of each target to `corpus`, for the fuzzers to begin with.
//!
//!     cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds

use std::path::{Path, PathBuf};
use std::{fs, io};

use link::stream::wire::{self, Framing, Hello};
use link::vde::wire::{Address, Reply, Request};
use link::{Offloads, VnetHeader};

fn main() -> io::Result<()> {
    let targets = [
        ("request", requests()),
        ("console", consoles()),
        ("bpdu", bpdus()),
        ("vlan", vlans()),
        ("igmp", groups()),
        ("stream", streams()),
        ("vxlan", stations()),
        ("l2tpv3", sessions()),
        ("cable", cables()),
        ("nat", guests()),
    ];
    for (target, seeds) in targets {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (1..).zip(seeds) {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// As libvdeplug, vde-2's first version, User-mode Linux, our link and our switch write them.
fn requests() -> Vec<Vec<u8>> {
    let address = |path: &str| Address::of_path(Path::new(path)).expect("a short path");
    let all = Offloads { checksum: true, tso4: true, tso6: true, uso: true };
    let client = address("/tmp/sw/.13160-00000");
    let words = b"vdeplug: user=root pid=13160".to_vec();
    let request = Request { port: 7, client, offer: None, description: words.clone() };
    let mut first = vec![0xce, 0xfa, 0xed, 0xfe, 0, 0, 0, 0, 2, 0, 0, 0, 0, 7];
    first.extend(client.as_bytes());
    first.extend(&words);
    let mut uml = vec![0xce, 0xfa, 0xed, 0xfe, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    uml.extend(b"05b6e");
    uml.resize(124, 0);
    let reply = Reply { switch: address("/tmp/sw/003.23"), offer: Some(all) };
    vec![
        request.encode(),
        Request { offer: Some(all), description: "Käse\u{202e}\u{1b}[2J".into(), ..request }.encode(),
        first,
        uml,
        reply.encode().to_vec(),
    ]
}

/// A frame in each framing, and an agreement.
fn streams() -> Vec<Vec<u8>> {
    let framed = |framing: Framing| {
        let mut record = Vec::new();
        framing.prefix(&VnetHeader::WHOLE, 60, &mut record);
        record.resize(record.len() + 60, 7);
        record
    };
    let hello = Hello { receives: Offloads::ALL, confirms: true, data: Some("quic,127.0.0.1:4433,SHA256:x") };
    let agreement = [&wire::GREETING[..], &hello.line(), &wire::turn(), &framed(Framing::Etherloom)];
    vec![
        [&[0, 3][..], &framed(Framing::Vde), &agreement.concat()].concat(),
        [&[1, 9][..], &framed(Framing::Qemu)].concat(),
        [&[2, 100][..], &framed(Framing::Etherloom)].concat(),
    ]
}

/// Every command with arguments that it takes, and sessions that belong together.
fn consoles() -> Vec<Vec<u8>> {
    let sessions = [
        "help\nhelp port\nshowinfo\nds/showinfo\n# nothing\n\nlogout\n",
        "debug/list\ndebug/add port\ndebug/add fstp\nport/create 5\nport/remove 5\nport/epclose 1 0\ndebug/del fstp\n\
         plugin/list\nplugin/add x.so\nplugin/del x\nshutdown\n",
        "hash/add 2:0:0:0:0:5 1 5\nhash/add 02:00:00:00:00:06 2\nhash/print\nhash/find 2:0:0:0:0:5 5\nhash/showinfo\n\
         explain 2:0:0:0:0:5 2:0:0:0:0:6\nexplain 2:0:0:0:0:5 2:0:0:0:0:6 1 5\nhash/del 2:0:0:0:0:5 5\n\
         hash/setsize 256\nhash/setgcint 4\nhash/setexpire 50\nhash/setminper 2\n",
        "fstp/setfstp 1\nfstp/showinfo\nfstp/print\nfstp/setedge 0 1 1\nfstp/bonus 0 2 100\nfstp/print 0\n\
         fstp/setprio 4096\nport/edge 1 auto\nport/cost 1 19\nport/guard 1 1\nport/guardreset 1\nfstp/setfstp 0\n",
        "port/showinfo\nport/setnumports 16\nport/sethub 1\nport/sethub 0\nport/createauto\nport/allocatable 4 1\n\
         port/setuser 4 0\nport/setgroup 4 NONE\nport/print\nport/allprint\nport/print 1\nport/drops\n\
         port/settings 1\nport/resetcounter\nport/del 2\n",
        "vlan/create 7\nport/setvlan 1 7\nvlan/addport 7 2\nvlan/addport 6 2\nvlan/print\nvlan/allprint 7\n\
         vlan/delport 7 2\nport/setvlan 1 4095\nport/transparent 1\nvlan/remove 7\nport/storm 1 broadcast 10\n\
         port/storm 1 unknown off\nport/maclimit 1 3\nport/learning 1 0\nport/settings\n",
        "mirror/addport 1,2 3 both\nmirror/addvlan 5 3\nmirror/ingress 3 1\nmirror/print\nmirror/del 3\n\
         mcast/setsnooping 1\nmcast/setflood 1\nmcast/showinfo\nmcast/print\n",
    ];
    let mut seeds = sessions.map(|session| session.as_bytes().to_vec()).to_vec();
    // A line that is too long, and one more.
    seeds.push(format!("help {}\nshowinfo\n", "x".repeat(9000)).into_bytes());
    seeds
}

/// A better root is heard, agreed with and lost; STP; a guarded port; a loop; links and settings.
fn bpdus() -> Vec<Vec<u8>> {
    // Flags, root, cost, bridge, port, times in quarters of a second.
    let root = [0x3c, 1, 0x10, 0, 1, 0x10, 3, 0, 80, 8, 60];
    let worse = [0x7c, 9, 0xf0, 2, 9, 0xf0, 3, 4, 80, 8, 60];
    let rst = |port: u8, fields: &[u8]| [&[port << 4], fields].concat();
    let config = |port: u8, fields: &[u8]| [&[port << 4 | 1], fields].concat();
    let wait = [6, 50];
    vec![
        [&rst(0, &root)[..], &wait, &rst(0, &root), &rst(1, &worse), &wait, &wait, &[6, 255], &[6, 255]].concat(),
        [&config(0, &root)[..], &wait, &[0x02], &[6, 255], &[6, 255], &[6, 255], &[0x12], &config(0, &root)].concat(),
        [&[0x19, 8, 2, 128][..], &rst(1, &root), &wait, &[0x1f, 1], &wait, &[0x08, 0], &[0x08, 1], &wait].concat(),
        [&[0x15, 2][..], &[0x35, 0], &wait, &[0x25, 1], &wait, &[0x2a], &[0x2b, 4, 1, 16], &[0x28, 1], &wait].concat(),
        [&[12, 0][..], &[13, 0x10, 7], &[12, 1], &[14, 10, 100, 75], &[7, 90], &[0x0f, 0], &wait].concat(),
        [&[3, 39, 0x42, 0x42, 3, 0, 0, 2, 2, 0x7c][..], &[0; 34], &[4, 16, 1, 0x80, 0xc2, 0, 0, 0], &[0; 10]].concat(),
    ]
}

/// VLANs, mirrors, limits, a hub, spanning tree's states, tags of every kind.
fn vlans() -> Vec<Vec<u8>> {
    const FRAME: u8 = 17;
    // From station 1 to 2, to everybody, with one tag of VLAN 5 and a priority, with two tags, cut short.
    let known = [FRAME, 0, 2, 1, 0];
    let back = [FRAME, 1, 1, 2, 0];
    let flooded = [FRAME, 2, 200, 3, 0];
    let tagged = [FRAME, 3, 200, 4, 1, 0, 0x60, 1];
    let double = [FRAME, 3, 1, 4, 2, 0, 0, 1, 0, 0, 2];
    let cut = [FRAME, 0, 200, 1, 0x39, 0, 0, 1, 15];
    let members = [[0, 1, 1], [0, 2, 2], [2, 3, 1], [2, 4, 2]].concat();
    vec![
        [&known[..], &back, &known, &flooded, &tagged, &double, &cut].concat(),
        [&members[..], &known, &back, &flooded, &tagged, &double, &[1, 3], &tagged, &[3, 3, 1], &[4, 1], &known]
            .concat(),
        [&members[..], &[10, 5, 6, 6, 0, 1, 2, 1], &flooded, &tagged, &cut, &[FRAME, 5, 200, 3, 0]].concat(),
        [&[7, 0, 5, 5, 5][..], &[8, 1, 3], &[9, 2, 0], &flooded, &known, &back, &[14, 0, 0, 200], &known].concat(),
        [&[13, 0, 0, 1][..], &known, &flooded, &[13, 0, 1, 1], &[FRAME, 0, 202, 1, 0], &[12, 1, 1], &known].concat(),
        [&[11, 1, 0, 2][..], &known, &[13, 1, 3], &known, &[13, 1, 4], &[13, 1, 2, 1], &known, &[16, 0, 14], &[2; 14]]
            .concat(),
    ]
}

/// A querier, then reports and leaves of each version, routers, data, time, and more groups than there is room for.
fn groups() -> Vec<Vec<u8>> {
    let query = [2, 0, 1, 0, 100, 0];
    let settle = [0, 0, 2, 88];
    let data = [10, 2, 1];
    let mld_query = [6, 0, 0, 1, 3, 232, 0, 0, 0];
    let mld_report = [6, 1, 3, 1, 0, 0, 1, 20, 4, 0, 0, 0, 0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let leave_and_ask = [3, 1, 2, 1, 2, 0, 1, 1, 1, 10, 0];
    let too_many: Vec<_> = (0..17).flat_map(|block| [15, 1, block * 4, 0, 4, 0]).collect();
    let record = [4, 1, 1, 8, 4, 0, 0, 0, 239, 1, 0, 1];
    vec![
        [&query[..], &settle, &[3, 1, 1, 1], &data, &leave_and_ask, &data, &settle, &data].concat(),
        [&query[..], &settle, &record, &data, &[1, 0, 4, 1], &[10, 2, 7], &[1, 1, 5], &data].concat(),
        [&[2, 0, 1, 0, 20, 4, 2, 125, 0, 0][..], &settle, &[8, 3, 6, 0, 1, 0, 2, 0, 105], &data].concat(),
        [&mld_query[..], &settle, &mld_report, &[12, 2, 1], &[9, 4, 6, 0, 1, 0, 2, 0, 9], &[12, 2, 1]].concat(),
        [&[2, 0x20, 1, 0, 100, 0][..], &settle, &[3, 0x21, 1, 1], &[10, 0x22, 1], &[3, 0xc1, 1, 1], &data].concat(),
        [&query[..], &settle, &too_many, &data, &settle, &data].concat(),
        [
            &[13, 0, 24, 0x45, 0, 0, 24][..],
            &[0; 12],
            &[239, 1, 0, 1, 0, 0, 0, 0],
            &[0xf3, 1, 1, 1],
            &[5, 0, 1, 2, 0x11, 0],
        ]
        .concat(),
    ]
}

/// A header; stations that are heard, move, are looked for, age, and are too many.
fn stations() -> Vec<Vec<u8>> {
    let crowd: Vec<u8> = (0..16).flat_map(|station| [0, station]).collect();
    vec![
        vec![8, 0, 0, 0, 0x12, 0x34, 0x56, 0],
        vec![0, 1, 1, 1, 3, 1, 1, 1, 2, 99, 1, 1, 2, 1, 1, 1],
        [&crowd[..], &[2, 100], &crowd, &[1, 0, 1, 15, 0, 255, 0, 254]].concat(),
    ]
}

/// As QEMU writes them: a layout in front of each.
fn sessions() -> Vec<Vec<u8>> {
    vec![
        vec![1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0x22],
        vec![1, 1, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0x22, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1],
        vec![0, 2, 0, 2, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0],
        vec![1, 0, 0, 0, 0xc8, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
}

/// Messages of both kinds, whole, in parts and in a lane; a hello; parts that contradict each other, and too many.
fn cables() -> Vec<Vec<u8>> {
    let frame = [2; 40];
    let plain = [&[0][..], &frame].concat();
    let header = [1, 1, 0, 0, 100, 0, 34 - 20, 0, 16, 0, 1, 0];
    let long = [&[1][..], &header, &frame].concat();
    let lane = |message: &[u8]| [&[4, message.len() as u8 + 4, 0, 0, 0, message.len() as u8], message].concat();
    let part = |id: u8, index: u8, count: u8, body: &[u8]| [&[2, id, index, count, body.len() as u8], body].concat();
    let (first, second) = plain.split_at(20);
    vec![
        [&[5, plain.len() as u8][..], &plain, &[5, long.len() as u8], &long].concat(),
        [lane(&plain), lane(&long), vec![4, 4, 0xff, 0, 0, 0]].concat(),
        [part(1, 1, 2, second), part(1, 0, 2, first), part(2, 0, 3, first), part(2, 0, 2, first), vec![0, 200]]
            .concat(),
        [&[6][..], b"ELQ\0\x01\x07\x05\xdc", &[6], b"ELQ\0\x02\x07\x05\xdc"].concat(),
        (0..80).flat_map(|id| [3, id, 0, 0xf0, 0]).collect(),
    ]
}

/// Leases and names; connections with data, ends and losses; datagrams and errors; fragments; files; rules; storms.
fn guests() -> Vec<Vec<u8>> {
    // Settings: the default ones, with rules, without IPv4, restricted.
    let plain = [0, 0, 0];
    let ruled = [0, 15, 0];
    let v6_only = [2, 0, 3];
    let settled = 0;
    let arp = [4, settled, 1, 0, 0, 64, 0];
    let solicit = [13, settled, 0, 0, 64, 0, 2, 0, 1, 1, 0];
    let time = |high: u8| [0, settled, high, 0];
    let discover = [9, settled, 0, 1, 1, 1, 3, 0, 15];
    let request = [9, settled, 0, 1, 3, 2, 0, 0, 15, 1, 0, 2];
    let renew = [9, settled, 1, 1, 0, 3, 0];
    let bootp = [9, settled, 6, 7, 0];
    let information = [10, settled, 11, 1, 2, 0, 4, 0, 1, 0];
    let solicit_dhcp =
        [&[10, settled, 1, 1, 2, 0, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9][..], &[0, 3, 12], &[0; 12], &[0]].concat();
    let syn = |family: u8, to: u8, port: u8| [14, settled, family, 0, to, 1, port, 0, 100, 0, 0];
    let segment = |flags: u8, len: u8| [15, settled, 0, 0, 0, flags, 3, 0, 0, len];
    let data_in = |bytes: u8| [18, settled, 3, bytes, 0, 0];
    let end_in = [18, settled, 0, 0];
    let acknowledge = [16, settled, 0, 0xff, 0xff];
    let udp = |family: u8, port: u8| [7, settled, family, 0, 0, 1, port, 0, 3, 1, 2, 3];
    let answer = |kind: u8, len: u8| [19, settled, kind, 0, 0, 1, 1, len, 0, 0];
    let rejection = [21, settled, 0, 0, 0, 1, 1, 0, 0, 3, 3, 5, 220, 4, 1, 2, 3, 4, 0];
    let echo = |family: u8, to: u8| [12, settled, family, 0, to, 1, 0, 56];
    let question = [8, settled, 0, 1, 2, 1, 5, 1, 97, 0, 0, 1, 0];
    let answered = [20, settled, 0, 0x81, 0x80, 0, 0];
    let fragments = |bits: u8| [17, settled, 0, 0, 0, 1, 1, 16, 0, 5, 5, 200, bits, 1, 0, 8];
    let file = |name: u8, options: [u8; 4]| [&[11, settled, 0, 0, name, 0, 1][..], &options, &[0]].concat();
    let next = |block: u8| [11, settled, 0, 3, 0, block, 0];
    let offloads = [24, settled, 15];
    let storm = |kind: u8, count: u8| [25, settled, kind, 1, count, 0];
    vec![
        [&plain[..], &arp, &discover, &request, &renew, &bootp, &question, &answered, &time(200)].concat(),
        [&v6_only[..], &solicit, &information, &solicit_dhcp, &echo(1, 64), &echo(1, 0), &answer(1, 0)].concat(),
        [
            &plain[..],
            &arp,
            &syn(0, 0, 0),
            &acknowledge,
            &segment(1, 200),
            &data_in(64),
            &acknowledge,
            &offloads,
            &data_in(255),
            &acknowledge,
            &end_in,
            &segment(2, 0),
            &acknowledge,
            &time(10),
        ]
        .concat(),
        [&v6_only[..], &solicit, &offloads, &syn(1, 0, 0), &acknowledge, &data_in(255), &acknowledge, &segment(3, 0)]
            .concat(),
        [&plain[..], &udp(0, 1), &answer(0, 0), &answer(0, 30), &rejection, &udp(1, 1), &echo(0, 0), &time(255)]
            .concat(),
        [&plain[..], &fragments(0), &fragments(1), &fragments(2), &fragments(4), &fragments(8), &time(50)].concat(),
        [&plain[..], &file(0, [0, 2, 0, 0]), &next(0), &next(1), &next(2), &file(3, [1, 0, 8, 0]), &next(0)].concat(),
        [&ruled[..], &[22, settled, 0, 3, 0, 0], &acknowledge, &answer(2, 0), &[26, settled, 1, 0, 0], &time(60)]
            .concat(),
        [&ruled[..], &arp, &syn(0, 116, 0), &acknowledge, &syn(0, 124, 9), &syn(0, 0, 2), &syn(0, 0, 3), &syn(0, 0, 4)]
            .concat(),
        [&plain[..], &storm(0, 200), &storm(1, 40), &storm(2, 60), &time(3)].concat(),
        [&plain[..], &storm(3, 200), &storm(4, 40), &storm(5, 10), &storm(6, 60), &time(3)].concat(),
    ]
}

//! A world behind this host, in both families: a router, and a server behind it.
//!
//! ```text
//! here, out ── in, router, far ── near, server
//! ```

use std::fs;

use crate::world::{Host, run};

/// The hosts behind this one.
pub struct Routed {
    /// Has 198.51.100.2 and 2001:db8:1::2 on this side.
    pub router: Host,
    /// Has 203.0.113.1 and 2001:db8:2::1.
    pub server: Host,
}

impl Routed {
    /// Makes them, and sets this host up for them: root may ping as a user does.
    pub fn new() -> Self {
        let [router, server] = ["router", "server"].map(host);
        prepare(&Host::HERE);
        router
            .spawn(|| {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            })
            .join()
            .unwrap();
        run("ip link add out type veth peer name in netns router");
        run("ip -n router link add far type veth peer name near netns server");
        for (host, interface, v4, v6) in [
            (&Host::HERE, "out", "198.51.100.1/24", "2001:db8:1::1/64"),
            (&router, "in", "198.51.100.2/24", "2001:db8:1::2/64"),
            (&router, "far", "203.0.113.2/24", "2001:db8:2::2/64"),
            (&server, "near", "203.0.113.1/24", "2001:db8:2::1/64"),
        ] {
            host.set_address(interface, v4);
            host.set_address(interface, v6);
        }
        for (host, v4, v6) in
            [(&Host::HERE, "198.51.100.2", "2001:db8:1::2"), (&server, "203.0.113.2", "2001:db8:2::2")]
        {
            host.run(&format!("ip route add default via {v4}"));
            host.run(&format!("ip -6 route add default via {v6}"));
        }
        Self { router, server }
    }
}

impl Default for Routed {
    fn default() -> Self {
        Self::new()
    }
}

/// A host that has IPv6, without a wait for duplicate addresses.
pub fn host(name: &'static str) -> Host {
    let host = Host::new(name);
    prepare(&host);
    host
}

fn prepare(host: &Host) {
    host.spawn(|| {
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    })
    .join()
    .unwrap();
}

//! Where an address of the guest's leads: the one place that says which parts of the host a guest reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Config;

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the NAT's name server.
    Dns,
    /// To this address of the host's world.
    Host(IpAddr),
    /// To an address of the NAT's own that offers nothing.
    Refused,
    /// To the gateway, which does not lead to the host's loopback.
    Barred,
    /// Nowhere, and guests are not told: they are restricted, or there is no name server for them.
    Closed,
    /// Nowhere: no such host can be.
    Nowhere,
}

/// Decides.
///
/// The host's loopback network is reached through the gateway's address and by no other way: packets to 127.0.0.0/8
/// or ::1 go nowhere, as do those to addresses that are no single host's.
pub(crate) fn route(config: &Config, to: IpAddr) -> Route {
    if config.restrict {
        return Route::Closed;
    }
    match to {
        IpAddr::V4(to) => route_v4(config, to),
        IpAddr::V6(to) => route_v6(config, to),
    }
}

fn route_v4(config: &Config, to: Ipv4Addr) -> Route {
    if to == config.dns {
        return if config.dns_relay { Route::Dns } else { Route::Closed };
    }
    if to == config.gateway {
        return if config.host_loopback { Route::Host(Ipv4Addr::LOCALHOST.into()) } else { Route::Barred };
    }
    if config.is_own(to) {
        return Route::Refused;
    }
    let [first, ..] = to.octets();
    if config.network.contains(to) || first == 0 || to.is_loopback() || first >= 224 {
        return Route::Nowhere;
    }
    Route::Host(to.into())
}

fn route_v6(config: &Config, to: Ipv6Addr) -> Route {
    let Some(net) = &config.ipv6 else { return Route::Nowhere };
    if to == net.dns {
        return if config.dns_relay { Route::Dns } else { Route::Closed };
    }
    if to == net.gateway || to == net.link_local() {
        return if config.host_loopback { Route::Host(Ipv6Addr::LOCALHOST.into()) } else { Route::Barred };
    }
    // The first 96 bits 0: unspecified, loopback, and IPv4-compatible, which nobody may use (RFC 4291 §2.5.5.1).
    let embeds_v4 = to.to_bits() >> 32 == 0 || to.to_ipv4_mapped().is_some();
    if net.network.contains(to) || embeds_v4 || to.is_multicast() || to.is_unicast_link_local() {
        return Route::Nowhere;
    }
    Route::Host(to.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(config: &Config, to: &str) -> Route {
        route(config, to.parse().unwrap())
    }

    #[test]
    fn loopback_is_reached_through_the_gateway_only() {
        let mut config = Config::default();
        assert_eq!(lead(&config, "10.0.2.2"), Route::Host(Ipv4Addr::LOCALHOST.into()));
        for gateway in ["fec0::2", "fe80::2"] {
            assert_eq!(lead(&config, gateway), Route::Host(Ipv6Addr::LOCALHOST.into()));
        }
        for to in ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "::ffff:8.8.8.8"] {
            assert_eq!(lead(&config, to), Route::Nowhere, "{to}");
        }
        config.host_loopback = false;
        for gateway in ["10.0.2.2", "fec0::2", "fe80::2"] {
            assert_eq!(lead(&config, gateway), Route::Barred);
        }
        config.restrict = true;
        for to in ["192.0.2.1", "2001:db8::1", "fec0::3"] {
            assert_eq!(lead(&config, to), Route::Closed);
        }
    }

    #[test]
    fn addresses_of_no_single_host_lead_nowhere() {
        let config = Config::default();
        for to in ["10.0.2.77", "10.0.2.255", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
            assert_eq!(lead(&config, to), Route::Nowhere);
        }
        for to in ["fec0::77", "fec0::", "ff02::1", "ff0e::1", "fe80::77"] {
            assert_eq!(lead(&config, to), Route::Nowhere);
        }
        for to in ["8.8.8.8", "2001:db8::1", "fd00::1", "fec0:0:0:1::1"] {
            assert_eq!(lead(&config, to), Route::Host(to.parse().unwrap()));
        }
    }

    #[test]
    fn a_family_that_is_off_leads_nowhere() {
        let config = Config { ipv6: None, ..Config::default() };
        assert_eq!(lead(&config, "2001:db8::1"), Route::Nowhere);
    }
}

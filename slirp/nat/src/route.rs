//! Where an address of the guest's leads: the one place that says which parts of the host a guest reaches.

use std::net::Ipv4Addr;

use crate::config::Config;

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the NAT's name server.
    Dns,
    /// To this address of the host's world.
    Host(Ipv4Addr),
    /// To the gateway, which offers nothing itself.
    Refused,
    /// Nowhere, and guests are not told: they are restricted, or there is no name server for them.
    Closed,
    /// Nowhere: no such host can be.
    Nowhere,
}

/// Decides.
///
/// The host's loopback network is reached through the gateway's address and by no other way: packets to 127.0.0.0/8
/// go nowhere, as do those to addresses that are no single host's.
pub(crate) fn route(config: &Config, to: Ipv4Addr) -> Route {
    if config.restrict {
        return Route::Closed;
    }
    if to == config.dns {
        return if config.dns_relay { Route::Dns } else { Route::Closed };
    }
    if to == config.gateway {
        return if config.host_loopback { Route::Host(Ipv4Addr::LOCALHOST) } else { Route::Refused };
    }
    let [first, ..] = to.octets();
    if config.network.contains(to) || first == 0 || to.is_loopback() || first >= 224 {
        return Route::Nowhere;
    }
    Route::Host(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_through_the_gateway_only() {
        let mut config = Config::default();
        assert_eq!(route(&config, config.gateway), Route::Host(Ipv4Addr::LOCALHOST));
        assert_eq!(route(&config, Ipv4Addr::new(127, 0, 0, 1)), Route::Nowhere);
        assert_eq!(route(&config, Ipv4Addr::new(0, 0, 0, 0)), Route::Nowhere);
        config.host_loopback = false;
        assert_eq!(route(&config, config.gateway), Route::Refused);
        config.restrict = true;
        assert_eq!(route(&config, Ipv4Addr::new(192, 0, 2, 1)), Route::Closed);
    }

    #[test]
    fn addresses_of_no_single_host_lead_nowhere() {
        for to in [[10, 0, 2, 77], [10, 0, 2, 255], [224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1]] {
            assert_eq!(route(&Config::default(), to.into()), Route::Nowhere);
        }
        assert_eq!(route(&Config::default(), [8, 8, 8, 8].into()), Route::Host([8, 8, 8, 8].into()));
    }
}

//! The locators of links that carry one bare frame a datagram: `udp://`, `dgram://`, `mcast://`, and QEMU's `socket` with
//! `udp=` or `mcast=`. QEMU's spellings and ours become the same configurations; a group for a far end makes a member of
//! the group.
//!
//! Neighbours: `link::{UdpConfig, DgramConfig, McastConfig}`, which open the links; `spec`.

use std::net::{IpAddr, SocketAddrV4};

use link::outer::{Endpoint, Family};
use link::{DgramConfig, Locator, LocatorError, McastConfig, Options, UdpConfig};

use crate::Spec;
use crate::options::{take_mtu, take_ttl};

/// `udp://HOST:PORT?local=ADDR:PORT`, or vdeplug4's `udp://[SRC:]SPORT->HOST:DPORT`.
pub(crate) fn parse_udp(locator: &Locator) -> Result<Spec, LocatorError> {
    let (name, mut locator) = (locator.to_string(), locator.clone());
    let address = std::mem::take(&mut locator.address);
    let options = &mut locator.options;
    let local = options.take("local")?;
    let (local, remote) = match (address.split_once("->"), local) {
        (None, local) => (local, address.as_str()),
        (Some((source, remote)), None) if source.contains(':') => (Some(source.to_owned()), remote),
        (Some((port, remote)), None) => (Some(format!(":{port}")), remote),
        (Some((source, _)), Some(local)) => {
            return Err(options.bad_value("local", &local, &format!("'{source}' is given already")));
        }
    };
    let remote = far_end(options, "address", remote)?;
    if group(&remote).is_some() {
        return Err(options.bad_value("address", &remote.host, &"that is a group, and mcast:// is for groups"));
    }
    finish_udp(name, locator, remote, local.as_deref())
}

/// `dgram:///PATH?local=PATH`, `dgram://HOST:PORT?local=ADDR:PORT`, or QEMU's `local.type=…,remote.type=…`.
pub(crate) fn parse_dgram(locator: &Locator) -> Result<Spec, LocatorError> {
    let (name, mut locator) = (locator.to_string(), locator.clone());
    let address = std::mem::take(&mut locator.address);
    let options = &mut locator.options;
    if address.is_empty() {
        return parse_qemu_dgram(name, locator);
    }
    let local = options.take("local")?;
    if !address.starts_with(['/', '.']) {
        let remote = far_end(options, "address", &address)?;
        return finish_inet(name, locator, remote, local);
    }
    let local = local.ok_or_else(|| options.bad_value("local", "", &"expected the path of our own socket"))?;
    finish_unix(name, locator, local, address)
}

/// QEMU's keys.
fn parse_qemu_dgram(name: String, mut locator: Locator) -> Result<Spec, LocatorError> {
    let options = &mut locator.options;
    let (local, remote) = (options.take("local.type")?, options.take("remote.type")?);
    match (local.as_deref(), remote.as_deref()) {
        (Some("unix"), Some("unix")) => {
            let mut path = |key| {
                let path = options.take(key)?;
                path.filter(|path| !path.is_empty()).ok_or_else(|| options.bad_value(key, "", &"expected a path"))
            };
            let (local, remote) = (path("local.path")?, path("remote.path")?);
            finish_unix(name, locator, local, remote)
        }
        (None | Some("inet"), Some("inet")) => {
            let mut end = |host: &str, port: &str| -> Result<Option<Endpoint>, LocatorError> {
                let (given, number) = (options.take(host)?, options.take_parsed::<u16>(port)?);
                Ok(given.map(|given| Endpoint { host: given, port: number.unwrap_or(0) }))
            };
            let (local, remote) = (end("local.host", "local.port")?, end("remote.host", "remote.port")?);
            let remote = remote.filter(|remote| !remote.host.is_empty() && remote.port != 0);
            let remote =
                remote.ok_or_else(|| options.bad_value("remote.host", "", &"expected the far end's host and port"))?;
            if group(&remote).is_some() {
                return finish_mcast(name, locator, &remote, local.map(|local| local.host));
            }
            let family = take_family(options)?;
            let mtu = take_mtu(options)?;
            locator.options.finish()?;
            Ok(Spec::Udp(name, UdpConfig { remote, local, family, mtu }))
        }
        (local, remote) => {
            let given = format!("{} and {}", local.unwrap_or("nothing"), remote.unwrap_or("nothing"));
            let why = "expected inet for local.type and remote.type, or unix for both";
            Err(options.bad_value("remote.type", &given, &why))
        }
    }
}

/// `mcast://GROUP:PORT?local=IFADDR&ttl=N`.
pub(crate) fn parse_mcast(locator: &Locator) -> Result<Spec, LocatorError> {
    let (name, mut locator) = (locator.to_string(), locator.clone());
    let address = std::mem::take(&mut locator.address);
    let group = far_end(&locator.options, "address", &address)?;
    let local = locator.options.take("local")?;
    finish_mcast(name, locator, &group, local)
}

/// QEMU's `socket,udp=HOST:PORT,localaddr=HOST:PORT` and `socket,mcast=GROUP:PORT,localaddr=ADDR`.
pub(crate) fn parse_socket(locator: &Locator) -> Result<Spec, LocatorError> {
    let (name, mut locator) = (locator.to_string(), locator.clone());
    let options = &mut locator.options;
    let (udp, mcast, local) = (options.take("udp")?, options.take("mcast")?, options.take("localaddr")?);
    match (udp, mcast) {
        (Some(udp), None) => {
            let remote = far_end(options, "udp", &udp)?;
            let local = local.ok_or_else(|| options.bad_value("localaddr", "", &"expected our own HOST:PORT"))?;
            finish_udp(name, locator, remote, Some(&local))
        }
        (None, Some(mcast)) => {
            let group = far_end(options, "mcast", &mcast)?;
            finish_mcast(name, locator, &group, local)
        }
        _ => Err(options.bad_value("udp", "", &"expected one of udp, mcast, connect and listen")),
    }
}

/// The far end of an Internet address: a member of its group, or of two.
fn finish_inet(name: String, locator: Locator, remote: Endpoint, local: Option<String>) -> Result<Spec, LocatorError> {
    match group(&remote) {
        Some(_) => finish_mcast(name, locator, &remote, local),
        None => finish_udp(name, locator, remote, local.as_deref()),
    }
}

fn finish_udp(name: String, mut locator: Locator, remote: Endpoint, local: Option<&str>) -> Result<Spec, LocatorError> {
    let options = &mut locator.options;
    let parse = |text: &str| Endpoint::parse(text, None).map_err(|why| options.bad_value("local", text, &why));
    let local = local.map(parse).transpose()?;
    let mtu = take_mtu(options)?;
    locator.options.finish()?;
    Ok(Spec::Udp(name, UdpConfig { remote, local, family: Family::Any, mtu }))
}

fn finish_mcast(
    name: String,
    mut locator: Locator,
    remote: &Endpoint,
    local: Option<String>,
) -> Result<Spec, LocatorError> {
    let options = &mut locator.options;
    let why = "expected an IPv4 multicast group, 224.0.0.0 to 239.255.255.255";
    let group = group(remote).ok_or_else(|| options.bad_value("address", &remote.host, &why))?;
    let local = local.map(|host| Endpoint { host, port: 0 });
    let ttl = take_ttl(options, 0)?.unwrap_or(1);
    let mtu = take_mtu(options)?;
    locator.options.finish()?;
    Ok(Spec::Mcast(name, McastConfig { group, local, ttl, mtu }))
}

fn finish_unix(name: String, mut locator: Locator, local: String, remote: String) -> Result<Spec, LocatorError> {
    let options = &mut locator.options;
    let mode = options.take("mode")?.map(|mode| {
        let number = u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= 0o777);
        number.ok_or_else(|| options.bad_value("mode", &mode, &"expected permissions in octal, as in 660"))
    });
    let mode = mode.transpose()?;
    let mtu = take_mtu(options)?;
    locator.options.finish()?;
    Ok(Spec::Dgram(name, DgramConfig { remote: remote.into(), local: local.into(), mode, mtu }))
}

/// Takes QEMU's switches for the families of addresses.
fn take_family(options: &mut Options) -> Result<Family, LocatorError> {
    let mut wanted = [true, true];
    for side in ["local", "remote"] {
        let (v4, v6) = (options.take_switch(&format!("{side}.ipv4"))?, options.take_switch(&format!("{side}.ipv6"))?);
        wanted = match (v4, v6) {
            (Some(true), None) => [wanted[0], false],
            (None, Some(true)) => [false, wanted[1]],
            (v4, v6) => [wanted[0] && v4 != Some(false), wanted[1] && v6 != Some(false)],
        };
    }
    match wanted {
        [true, true] => Ok(Family::Any),
        [true, false] => Ok(Family::V4),
        [false, true] => Ok(Family::V6),
        [false, false] => Err(options.bad_value("remote.ipv4", "off", &"no family of addresses is left")),
    }
}

/// An address with a host and a port.
fn far_end(options: &Options, key: &str, text: &str) -> Result<Endpoint, LocatorError> {
    let parsed = Endpoint::parse(text, None).and_then(|end| match end {
        Endpoint { host, port } if host.is_empty() || port == 0 => Err("expected HOST:PORT of the far end"),
        end => Ok(end),
    });
    parsed.map_err(|why| options.bad_value(key, text, &why))
}

/// The group, if it is one of IPv4.
fn group(end: &Endpoint) -> Option<SocketAddrV4> {
    match end.host.parse() {
        Ok(IpAddr::V4(address)) if address.is_multicast() => Some(SocketAddrV4::new(address, end.port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(text: &str) -> Result<Spec, LocatorError> {
        Spec::parse(&text.parse()?)
    }

    fn qemu(text: &str) -> Result<Spec, LocatorError> {
        Spec::parse(&Locator::from_qemu(text))
    }

    fn udp(spec: Result<Spec, LocatorError>) -> UdpConfig {
        match spec.unwrap() {
            Spec::Udp(_, config) => config,
            other => panic!("{other:?}"),
        }
    }

    fn mcast(spec: Result<Spec, LocatorError>) -> McastConfig {
        match spec.unwrap() {
            Spec::Mcast(_, config) => config,
            other => panic!("{other:?}"),
        }
    }

    fn dgram(spec: Result<Spec, LocatorError>) -> DgramConfig {
        match spec.unwrap() {
            Spec::Dgram(_, config) => config,
            other => panic!("{other:?}"),
        }
    }

    fn end(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    #[test]
    fn every_spelling_of_two_addresses_means_the_same() {
        let (remote, local) = (end("10.0.0.2", 7002), Some(end("10.0.0.1", 7001)));
        let config = UdpConfig { remote, local, family: Family::Any, mtu: None };
        for text in [
            "udp://10.0.0.2:7002?local=10.0.0.1:7001",
            "udp://10.0.0.1:7001->10.0.0.2:7002",
            "dgram://10.0.0.2:7002?local=10.0.0.1:7001",
        ] {
            assert_eq!(udp(ours(text)), config, "{text}");
        }
        for text in [
            "socket,udp=10.0.0.2:7002,localaddr=10.0.0.1:7001",
            "dgram,local.type=inet,local.host=10.0.0.1,local.port=7001,\
             remote.type=inet,remote.host=10.0.0.2,remote.port=7002",
        ] {
            assert_eq!(udp(qemu(text)), config, "{text}");
        }
        let short = UdpConfig { local: Some(end("", 7001)), ..config.clone() };
        assert_eq!(udp(ours("udp://7001->10.0.0.2:7002")), short);
        assert_eq!(udp(ours("udp://10.0.0.2:7002?mtu=9000")), UdpConfig { local: None, mtu: Some(9000), ..config });
        let text = "dgram,remote.type=inet,remote.host=h,remote.port=7,remote.ipv6=on";
        assert_eq!(udp(qemu(text)).family, Family::V6);
        assert_eq!(udp(qemu(&text.replace("ipv6=on", "ipv6=off"))).family, Family::V4);
    }

    #[test]
    fn every_spelling_of_a_group_means_the_same() {
        let group = "230.0.0.1:1234".parse().unwrap();
        let config = McastConfig { group, local: Some(end("10.0.0.1", 0)), ttl: 1, mtu: None };
        assert_eq!(mcast(ours("mcast://230.0.0.1:1234?local=10.0.0.1")), config);
        assert_eq!(mcast(ours("dgram://230.0.0.1:1234?local=10.0.0.1")), config);
        assert_eq!(mcast(qemu("socket,mcast=230.0.0.1:1234,localaddr=10.0.0.1")), config);
        let remote = "remote.type=inet,remote.host=230.0.0.1,remote.port=1234";
        assert_eq!(mcast(qemu(&format!("dgram,{remote},local.type=inet,local.host=10.0.0.1"))), config);
        let plain = McastConfig { local: None, ..config };
        assert_eq!(mcast(qemu(&format!("dgram,{remote}"))), plain);
        assert_eq!(mcast(ours("mcast://230.0.0.1:1234?ttl=4")), McastConfig { ttl: 4, ..plain });
    }

    #[test]
    fn both_spellings_of_two_files_mean_the_same() {
        let config = DgramConfig { remote: "/run/b".into(), local: "/run/a".into(), mode: None, mtu: None };
        assert_eq!(dgram(ours("dgram:///run/b?local=/run/a")), config);
        let text = "dgram,local.type=unix,local.path=/run/a,remote.type=unix,remote.path=/run/b";
        assert_eq!(dgram(qemu(text)), config);
        let full = DgramConfig { mode: Some(0o660), mtu: Some(9000), ..config };
        assert_eq!(dgram(ours("dgram:///run/b?local=/run/a&mode=660&mtu=9000")), full);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let refused = |outcome: Result<Spec, LocatorError>, words: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        };
        refused(ours("udp://10.0.0.2"), "udp: address=10.0.0.2: expected HOST:PORT");
        refused(ours("udp://:7"), "udp: address=:7: expected HOST:PORT of the far end");
        refused(ours("udp://h:7?local=7"), "udp: local=7: expected HOST:PORT");
        refused(ours("udp://7->h:7?local=:7"), "udp: local=:7: '7' is given already");
        refused(ours("udp://230.0.0.1:7"), "that is a group, and mcast:// is for groups");
        refused(ours("udp://h:7?mtu=9217"), "udp: mtu=9217: expected 68 to 9216 bytes");
        refused(ours("udp://h:7?ttl=7"), "unknown option 'ttl'");
        refused(ours("mcast://10.0.0.1:7"), "mcast: address=10.0.0.1: expected an IPv4 multicast group");
        refused(ours("mcast://230.0.0.1:7?ttl=256"), "mcast: ttl=256: ");
        refused(ours("dgram:///run/b"), "dgram: local=: expected the path of our own socket");
        refused(ours("dgram:///run/b?local=/run/a&mode=8"), "dgram: mode=8: expected permissions in octal");
        refused(qemu("dgram,local.type=fd,local.str=3"), "remote.type=fd and nothing: expected inet");
        refused(qemu("dgram,local.type=unix,local.path=a,remote.type=unix"), "remote.path=: expected a path");
        refused(qemu("dgram,remote.type=inet,remote.host=h"), "remote.host=: expected the far end's host and port");
        refused(qemu("socket,udp=h:7"), "socket: localaddr=: expected our own HOST:PORT");
        refused(qemu("socket,udp=h:7,mcast=230.0.0.1:7"), "expected one of udp, mcast, connect and listen");
    }
}

//! The locators of links over connections: `stream://`, `listen://`, and QEMU's spellings.
//!
//! Neighbours: `link::stream` for the link; `bare` for QEMU's sockets of datagrams.

use std::time::Duration;

use link::stream::{Role, StreamAddress};
use link::{Locator, LocatorError, Options, StreamConfig};

use crate::options::take_seconds;
use crate::{Spec, bare};

/// `stream://` and `listen://`, and QEMU's `stream,server=on,addr.type=inet,addr.host=…,addr.port=…`.
pub(crate) fn parse(locator: &Locator) -> Result<Spec, LocatorError> {
    let (name, mut locator) = (locator.to_string(), locator.clone());
    let address = std::mem::take(&mut locator.address);
    let options = &mut locator.options;
    let is_server = options.take_switch("server")?.unwrap_or(locator.scheme == "listen");
    let kind = options.take("addr.type")?;
    let (host, port, path) = (options.take("addr.host")?, options.take("addr.port")?, options.take("addr.path")?);
    let address = match (kind.as_deref(), address.as_str()) {
        (None, "") => return Err(options.bad_value("address", "", &"expected HOST:PORT, or a path")),
        (None, path) if path.starts_with('/') => StreamAddress::Unix(path.into()),
        (None, inet) => StreamAddress::Inet(inet.to_owned()),
        (Some("unix"), "") => match path {
            Some(path) if !path.is_empty() => StreamAddress::Unix(path.into()),
            _ => return Err(options.bad_value("addr.path", "", &"expected a path")),
        },
        (Some("inet"), "") => match (host, port) {
            (host, Some(port)) => StreamAddress::Inet(format!("{}:{port}", host.unwrap_or_default())),
            _ => return Err(options.bad_value("addr.port", "", &"expected a port")),
        },
        (Some(other), _) => return Err(options.bad_value("addr.type", other, &"expected inet or unix")),
    };
    let pause = match (take_seconds(options, "reconnect")?, options.take_parsed::<u64>("reconnect-ms")?) {
        (Some(_), Some(_)) => return Err(options.bad_value("reconnect-ms", "", &"reconnect is given already")),
        (seconds, milliseconds) => seconds.or(milliseconds.map(Duration::from_millis)),
    };
    let role = if is_server { Role::Listen } else { Role::Connect(pause.filter(|pause| !pause.is_zero())) };
    checked_inet(options, &address)?;
    locator.options.finish()?;
    Ok(Spec::Stream(StreamConfig { name, address, role }))
}

/// QEMU's `socket,connect=HOST:PORT` and `socket,listen=[HOST]:PORT`; without either key it is a socket of datagrams.
pub(crate) fn parse_socket(locator: &Locator) -> Result<Spec, LocatorError> {
    let name = locator.to_string();
    let mut stream = locator.clone();
    let options = &mut stream.options;
    let (address, role) = match (options.take("connect")?, options.take("listen")?) {
        (Some(address), None) => (address, Role::Connect(None)),
        (None, Some(address)) => (address, Role::Listen),
        (None, None) => return bare::parse_socket(locator),
        (Some(_), Some(address)) => return Err(options.bad_value("listen", &address, &"connect is given already")),
    };
    let address = StreamAddress::Inet(address);
    checked_inet(options, &address)?;
    stream.options.finish()?;
    Ok(Spec::Stream(StreamConfig { name, address, role }))
}

/// Holds `HOST:PORT` against its form; who the host is, is found out when the link is opened.
fn checked_inet(options: &Options, address: &StreamAddress) -> Result<(), LocatorError> {
    match address {
        StreamAddress::Inet(text) if text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) => {
            Err(options.bad_value("address", text, &"expected HOST:PORT"))
        }
        _ => Ok(()),
    }
}

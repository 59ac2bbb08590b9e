//! Options that several kinds have in common.

use std::time::Duration;

use link::datagram::JUMBO_MTU;
use link::outer::MIN_MTU;
use link::{LocatorError, Options};

/// Takes the MTU that a link is to state, in bytes.
pub(crate) fn take_mtu(options: &mut Options) -> Result<Option<u16>, LocatorError> {
    match options.take_parsed::<u16>("mtu")? {
        Some(mtu) if !(MIN_MTU..=JUMBO_MTU).contains(&mtu) => {
            Err(options.bad_value("mtu", &mtu.to_string(), &format!("expected {MIN_MTU} to {JUMBO_MTU} bytes")))
        }
        mtu => Ok(mtu),
    }
}

/// Takes how many routers a datagram may pass, and at least so many.
pub(crate) fn take_ttl(options: &mut Options, least: u8) -> Result<Option<u8>, LocatorError> {
    match options.take_parsed::<u8>("ttl")? {
        Some(ttl) if ttl < least => {
            Err(options.bad_value("ttl", &ttl.to_string(), &format!("expected {least} to 255")))
        }
        ttl => Ok(ttl),
    }
}

/// A time, in seconds and parts of them, of at most a day.
pub(crate) fn take_seconds(options: &mut Options, key: &str) -> Result<Option<Duration>, LocatorError> {
    let Some(text) = options.take(key)? else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86400.0).contains(seconds));
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.map(Some).ok_or_else(|| options.bad_value(key, &text, &"expected seconds, 0 to 86400"))
}

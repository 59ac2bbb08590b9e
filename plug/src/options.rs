//! Options that several kinds have in common.

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

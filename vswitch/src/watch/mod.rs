//! Watching a switch: the socket that `vswitch show` and its like ask, and the metrics endpoint.

use mio::Registry;

use crate::Event;
use crate::about::About;
use crate::options::{Config, WatchRequest};
use crate::switch::Switch;
use crate::vde::Listener;

/// Why a switch cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {}

/// Asks a switch that runs, and prints what it says.
///
/// # Errors
/// There is no such switch, or it does not answer.
pub fn ask(_request: &WatchRequest) -> Result<(), WatchError> {
    Ok(())
}

/// Everybody who watches.
#[derive(Debug, Default)]
pub struct Watchers {}

impl Watchers {
    /// Opens the socket of the watching commands beside the control socket, and the metrics endpoint.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn open(_config: &Config, _door: &Listener, _registry: &Registry) -> Result<Self, WatchError> {
        Ok(Self::default())
    }

    /// Somebody is at the socket of the watching commands.
    pub fn accept(&mut self, _registry: &Registry) {}

    /// A watching command has asked something, or has room for more of its answer.
    pub fn serve(&mut self, _key: u32, _switch: &mut Switch, _about: &About, _registry: &Registry) {}

    /// Somebody is at the metrics endpoint.
    pub fn accept_metrics(&mut self, _registry: &Registry) {}

    /// A request for metrics.
    pub fn serve_metrics(&mut self, _key: u32, _switch: &Switch, _about: &About, _registry: &Registry) {}

    /// Tells those who follow the events.
    pub fn publish(&mut self, _events: &[Event], _registry: &Registry) {}

    /// Whether somebody can be served who has no readiness to come.
    #[must_use]
    pub fn has_work(&self) -> bool {
        false
    }

    /// Passes on what captures have caught, and more of the answers under way.
    pub fn pump(&mut self, _switch: &mut Switch, _about: &About, _registry: &Registry) {}
}

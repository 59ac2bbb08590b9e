//! Watching a switch: the socket that `vswitch show` and its like ask, and the metrics endpoint.

use mio::Registry;

use crate::Event;
use crate::about::About;
use crate::switch::Switch;

/// Everybody who watches.
#[derive(Debug, Default)]
pub struct Watchers {}

impl Watchers {
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

    /// Passes on what captures have caught.
    pub fn pump(&mut self, _switch: &mut Switch, _registry: &Registry) {}
}

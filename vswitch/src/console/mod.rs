//! VDE's console: the same commands on standard input, on the management socket and in the rc file.

use std::path::Path;

use mio::Registry;

use crate::Event;
use crate::about::About;
use crate::options::Config;
use crate::switch::Switch;

/// What follows from a command for the switch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It goes on.
    Continue,
    /// It ends.
    End,
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {}

/// Everybody who talks to the console.
#[derive(Debug, Default)]
pub struct Consoles {}

impl Consoles {
    /// Opens the management socket, and standard input unless it is to be left alone.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(_config: &Config, _mgmt_group: Option<u32>, _registry: &Registry) -> Result<Self, ConsoleError> {
        Ok(Self::default())
    }

    /// Carries out the commands of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn run_file(&mut self, _path: &Path, _switch: &mut Switch, _about: &About) -> Result<(), ConsoleError> {
        Ok(())
    }

    /// Somebody is at the management socket.
    pub fn accept(&mut self, _registry: &Registry) {}

    /// A console has something to read, or room for more of an answer.
    pub fn serve(&mut self, _key: u32, _switch: &mut Switch, _about: &About, _registry: &Registry) -> Order {
        Order::Continue
    }

    /// Tells those who asked with `debug/add`.
    pub fn publish(&mut self, _events: &[Event], _switch: &Switch, _registry: &Registry) {}
}

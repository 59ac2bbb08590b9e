//! What a switch says of itself beside its ports.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// Facts about a running switch that do not change.
#[derive(Clone, Debug)]
pub struct About {
    /// The name it was run under: `vswitch` or `vde_switch`.
    pub name: String,
    /// The directory of its control socket.
    pub dir: PathBuf,
    /// The management socket.
    pub mgmt: Option<PathBuf>,
    /// When it began, by the calendar.
    pub started: SystemTime,
    /// When it began, by the clock that counts.
    pub begun: Instant,
}

impl About {
    /// The program's version.
    pub const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

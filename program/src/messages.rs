//! Messages on standard error: each is one line that begins with the program's name, and with the name it was given.

use std::io::Write;
use std::sync::OnceLock;

/// What messages begin with.
static SPEAKER: OnceLock<String> = OnceLock::new();

/// Sends what the suite logs to standard error; `ETHERLOOM_LOG` says how much: error, warn (the default), info, debug or
/// trace.
pub fn start_log() {
    let filter = env_logger::Env::new().filter_or("ETHERLOOM_LOG", "warn");
    env_logger::Builder::from_env(filter)
        .format(|out, record| {
            writeln!(out, "{}: {}: {}", speaker(), record.level().as_str().to_lowercase(), record.args())
        })
        .init();
}

/// Says how the program calls itself from now on; only the first call counts.
pub fn set_speaker(name: String) {
    SPEAKER.get_or_init(|| name);
}

/// How the program calls itself: as told, or by the name it was run under.
#[must_use]
pub fn speaker() -> String {
    SPEAKER.get().cloned().unwrap_or_else(invocation_name)
}

/// The last component of the name that the program was run under.
#[must_use]
pub fn invocation_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

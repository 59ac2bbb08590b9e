//! What every program of the suite has in common, so that they behave alike.
//!
//! | file | what it holds |
//! |---|---|
//! | `process` | the background, and the pid file |
//! | `signals` | the signals that end a program, as a descriptor for its event loop |
//! | `messages` | what is said on standard error, and by whom |

pub mod messages;
pub mod process;
pub mod signals;

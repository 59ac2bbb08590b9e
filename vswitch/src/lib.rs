//! The switch.
//!
//! | file | what it holds |
//! |---|---|
//! | `id` `event` `about` | names of ports and VLANs; what happens; what a switch says of itself |
//! | `bridge` | the forwarding decision, pure |
//! | `stp` | spanning tree, pure |
//! | `switch` | ports, what is plugged into them, and the data path |
//! | `server` `setup` | the event loop, and how it comes to be |
//! | `vde` | the control socket that VDE's clients join by |
//! | `console` | VDE's console, on standard input and on the management socket |
//! | `watch` | the table, the events, the captures, the metrics |
//! | `options` | the command line |
//! | `main` | the program |

mod about;
pub mod bridge;
pub mod console;
mod event;
mod id;
pub mod options;
mod server;
mod setup;
pub mod stp;
pub mod switch;
pub mod vde;
pub mod watch;

pub use about::About;
pub use event::Event;
pub use id::{IdError, PortId, VlanId};
pub use link::socket_file::SocketError;
pub use server::Server;
pub use setup::{SetupError, set_up};

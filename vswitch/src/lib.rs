//! The switch.
//!
//! | file | what it holds |
//! |---|---|
//! | `id` `event` | names of ports and VLANs; what happens |
//! | `bridge` | the forwarding decision, pure |
//! | `stp` | spanning tree, pure |
//! | `switch` | ports and what is plugged into them; the event loop |
//! | `vde` | the control socket that VDE's clients join by |
//! | `console` | VDE's console, on standard input and on the management socket |
//! | `watch` | the table, the events, the captures, the metrics |
//! | `options` | the command line |
//! | `main` | the program |

pub mod bridge;
mod event;
mod id;
pub mod options;
pub mod stp;
pub mod vde;

pub use event::Event;
pub use id::{IdError, PortId, VlanId};

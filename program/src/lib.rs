//! What every program of the suite has in common, so that they behave alike.
//!
//! | file | what it holds |
//! |---|---|
//! | `process` | the background, and the pid file |
//! | `signals` | the signals that end a program, as a descriptor for its event loop |
//! | `confine` | what a program gives up once everything is open |
//! | `messages` | what is said on standard error, and by whom |
//! | `options` | the model of a command line: one static table for each program |
//! | `links` | the kinds of links that command lines name |
//! | `parser` `help` `manual` `completion` | what is made of it: a parser, `--help`, a man page, completions |

pub mod completion;
pub mod confine;
pub mod help;
pub mod links;
pub mod manual;
pub mod messages;
pub mod options;
mod parser;
pub mod process;
pub mod signals;

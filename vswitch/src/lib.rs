//! The switch: joins links and learns which station is behind which.
//!
//! | file | what it holds |
//! |---|---|
//! | `fdb` | the forwarding database, pure |
//! | `learning` | the forwarding decision made from it, for [`plug::Hub`] |
//! | `main` | the program: ports from the command line |

pub mod fdb;
mod learning;

pub use learning::Learning;

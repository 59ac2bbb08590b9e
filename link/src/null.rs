//! `null://`: a link whose far end is nobody. It takes every frame and delivers none.

use std::io;

use mio::{Registry, Token};

use crate::{Capabilities, Counters, DEFAULT_MTU, Link, Offloads, RxBatch, TxBatch};

/// A link to nobody.
#[derive(Debug, Default)]
pub struct Null {
    counters: Counters,
}

impl Link for Null {
    fn name(&self) -> &str {
        "null://"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: Offloads::ALL, mtu: DEFAULT_MTU }
    }

    fn accept(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        for frame in batch.frames() {
            self.counters.sent(frame.len());
        }
        Ok(batch.len())
    }

    fn receive(&mut self, _: &mut RxBatch<'_>) -> io::Result<usize> {
        Ok(0)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

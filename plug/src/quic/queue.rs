//! What waits to be sent: bounded in bytes and in time, and the oldest goes first.
//!
//! A frame that has waited too long is worth less than the one behind it, and the loss of it tells the sender's congestion
//! control sooner. Invariant: no frame that comes out has waited longer than the bound; time is an argument.
//!
//! Neighbours: `session` takes out what the connection has room for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A queue of byte strings with something to each.
#[derive(Debug)]
pub struct Queue<T> {
    items: VecDeque<(Instant, T, Vec<u8>)>,
    bytes: usize,
    max_bytes: usize,
    max_age: Duration,
}

impl<T> Queue<T> {
    /// An empty one. Of a longer backlog than `max_bytes` the head is dropped; so is what has waited longer than `max_age`.
    pub fn new(max_bytes: usize, max_age: Duration) -> Self {
        Self { items: VecDeque::new(), bytes: 0, max_bytes, max_age }
    }

    /// Adds one; returns how many were dropped for it.
    pub fn push(&mut self, now: Instant, key: T, bytes: Vec<u8>) -> u64 {
        self.bytes += bytes.len();
        self.items.push_back((now, key, bytes));
        let mut dropped = self.expire(now);
        while self.bytes > self.max_bytes && self.items.len() > 1 {
            self.drop_head();
            dropped += 1;
        }
        dropped
    }

    /// Drops what has waited too long; returns how many that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while self.items.front().is_some_and(|(since, ..)| now.saturating_duration_since(*since) > self.max_age) {
            self.drop_head();
            dropped += 1;
        }
        dropped
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<(T, Vec<u8>)> {
        let (_, key, bytes) = self.items.pop_front()?;
        self.bytes -= bytes.len();
        Some((key, bytes))
    }

    /// Empties it; returns how many there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.items.len() as u64;
        self.items.clear();
        self.bytes = 0;
        count
    }

    fn drop_head(&mut self) {
        self.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let now = Instant::now();
        let mut queue = Queue::new(100, Duration::from_millis(50));
        assert_eq!((0..4).map(|key| queue.push(now, key, vec![0; 40])).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(queue.pop().map(|(key, _)| key), Some(2));
        // One that is too long for the queue is in it alone.
        assert_eq!(queue.push(now, 4, vec![0; 200]), 1);
        let later = now + Duration::from_millis(51);
        assert_eq!(queue.push(later, 5, vec![0; 40]), 1);
        assert_eq!(queue.expire(later), 0);
        assert_eq!(queue.pop().map(|(key, _)| key), Some(5));
        assert!(queue.pop().is_none());
        queue.push(later, 6, vec![0; 40]);
        assert_eq!((queue.clear(), queue.push(later, 7, vec![0; 100])), (1, 0));
    }
}

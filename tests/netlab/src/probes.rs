//! UDP datagrams that tell how long they were on their way. Neighbours: `world`, for the hosts at both ends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::world::Host;

/// Bytes of a datagram.
const LEN: usize = 200;

/// Datagrams of 200 bytes, a hundred in a second, until they are stopped.
pub struct Probes {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<usize>,
    receiver: JoinHandle<Vec<Duration>>,
}

impl Probes {
    /// Begins to send from one host to another, which has this address.
    pub fn start(from: &Host, to: &Host, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let epoch = Instant::now();
        let receiver = to.spawn({
            let stop = stop.clone();
            move || {
                let socket = UdpSocket::bind(address).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let (mut delays, mut buffer) = (Vec::new(), [0; 2000]);
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(LEN) = socket.recv(&mut buffer) {
                        let sent = Duration::from_nanos(u64::from_be_bytes(*buffer.first_chunk().unwrap()));
                        delays.push(epoch.elapsed() - sent);
                    }
                }
                delays
            }
        });
        let sender = from.spawn({
            let stop = stop.clone();
            move || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let (mut count, mut packet) = (0, [0; LEN]);
                while !stop.load(Ordering::Relaxed) {
                    packet[..8].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
                    // The first may come before the receiver is there.
                    count += usize::from(socket.send_to(&packet, address).is_ok());
                    sleep(Duration::from_millis(10));
                }
                count
            }
        });
        Self { stop, sender, receiver }
    }

    /// The delay that 99 of 100 stayed below, and which part of all came; nothing if none did.
    pub fn stop(self) -> Option<(Duration, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let mut delays = self.receiver.join().unwrap();
        delays.sort();
        Some((*delays.get(delays.len() * 99 / 100)?, delays.len() as f64 / sent as f64))
    }
}

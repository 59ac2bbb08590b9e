//! `pcap://file`: a capture of everything that crosses a link, in both directions, in the classic pcap format
//! (draft-ietf-opsawg-pcap).
//!
//! [`Pcap`] is a link around another. Each call of `send` or `receive` appends whole records with one `write`, so a
//! killed process leaves a readable file. A file that can no longer be written ends the capture with one log line, and
//! its last whole record; the traffic goes on.
//!
//! What the file shows is what the link carries: a frame still to be segmented is one long frame. Only its partial
//! checksum is filled in, in the captured copy, by [`crate::soft`]: a reader of the file would otherwise see nothing but
//! checksum errors. A frame cut at the snap length keeps its partial checksum, since that cannot be summed.
//!
//! Neighbours: the pcap-file crate writes the format; `Pcap<Null>` is a capture that is a link of its own.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Registry, Token};
use pcap_file::pcap::{PcapHeader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError as FormatError, TsResolution};

use crate::soft::finish_checksum;
use crate::{Capabilities, Checksum, Counters, Link, LinkState, Offloads, RxBatch, TxBatch, VnetHeader, Way};

/// Bytes of the file's header.
const FILE_HEADER_LEN: usize = 24;

/// Where and how to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcapConfig {
    /// The file, which is made anew.
    pub path: PathBuf,
    /// Bytes kept of each frame, at least 1.
    pub snap_len: u32,
    /// The unit of time stamps.
    pub resolution: Resolution,
}

/// The unit of a capture's time stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// Microseconds, which every reader understands.
    #[default]
    Micro,
    /// Nanoseconds.
    Nano,
}

impl PcapConfig {
    /// Bytes kept of each frame unless told otherwise: as QEMU's `filter-dump` has it.
    pub const DEFAULT_SNAP_LEN: u32 = 65536;

    /// A capture of whole frames with microseconds.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), snap_len: Self::DEFAULT_SNAP_LEN, resolution: Resolution::Micro }
    }
}

/// Why a capture cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file cannot be made or written.
    #[error("{}: {}", .path.display(), crate::reason(.source))]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A snap length of 0.
    #[error("{}: a capture keeps at least 1 byte of each frame", .0.display())]
    SnapLen(PathBuf),
}

/// A link that records what crosses the link inside it.
pub struct Pcap<L> {
    inner: L,
    /// `None` after a write error.
    capture: Option<Capture>,
}

impl<L: Link> Pcap<L> {
    /// Makes the file, writes its header and wraps the link.
    ///
    /// # Errors
    /// The file cannot be made, or the snap length is 0.
    pub fn create(inner: L, config: &PcapConfig) -> Result<Self, PcapError> {
        Ok(Self { inner, capture: Some(Capture::create(config)?) })
    }

    /// Runs `record` on the capture if there is one, and ends the capture if that fails.
    fn capture(&mut self, record: impl FnOnce(&mut Capture) -> io::Result<()>) {
        let Some(capture) = &mut self.capture else { return };
        if let Err(error) = record(capture) {
            log::error!("{}: {}: {error}: the capture ends here", self.inner.name(), capture.path.display());
            self.capture = None;
        }
    }
}

impl<L: Link> Link for Pcap<L> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn native_offloads(&self) -> Offloads {
        self.inner.native_offloads()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.inner.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }

    fn tell_while_ready(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        self.inner.tell_while_ready(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.inner.service(now)
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn answers(&self) -> bool {
        self.inner.answers()
    }

    /// Frames that the inner link takes are recorded, those it drops included.
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let taken = self.inner.send(batch)?;
        self.capture(|capture| {
            let now = since_epoch();
            for frame in batch.frames().take(taken) {
                capture.append(now, frame.header, frame.len(), |out| frame.copy_to(0, out))?;
            }
            capture.write()
        });
        Ok(taken)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let before = batch.filled();
        let received = self.inner.receive(batch)?;
        self.capture(|capture| {
            let now = since_epoch();
            for (slot, (header, len)) in batch.frames().enumerate().skip(before) {
                capture.append(now, header, len, |out| batch.copy_to(slot, 0, out))?;
            }
            capture.write()
        });
        Ok(received)
    }

    fn state(&self) -> LinkState {
        self.inner.state()
    }

    fn look_again(&mut self) {
        self.inner.look_again();
    }

    fn show_carrier(&mut self, carrier: LinkState) {
        self.inner.show_carrier(carrier);
    }

    fn way(&self) -> Option<Way> {
        self.inner.way()
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

/// The file, and the records on their way to it.
struct Capture {
    path: PathBuf,
    file: File,
    /// Bytes of whole records in the file; what a failed write left behind them is cut off.
    written: u64,
    format: PcapHeader,
    /// A file in memory. Its header is in the real file already, and left out when the records go there.
    records: PcapWriter<Vec<u8>>,
    has_records: bool,
    /// Memory for the next `records`, and for one frame.
    spare: Vec<u8>,
    frame: Vec<u8>,
}

impl Capture {
    fn create(config: &PcapConfig) -> Result<Self, PcapError> {
        if config.snap_len == 0 {
            return Err(PcapError::SnapLen(config.path.clone()));
        }
        let format = PcapHeader {
            snaplen: config.snap_len,
            datalink: DataLink::ETHERNET,
            ts_resolution: match config.resolution {
                Resolution::Micro => TsResolution::MicroSecond,
                Resolution::Nano => TsResolution::NanoSecond,
            },
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        Self::open(&config.path, format).map_err(|source| PcapError::File { path: config.path.clone(), source })
    }

    fn open(path: &Path, format: PcapHeader) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let header = PcapWriter::with_header(Vec::new(), format).map_err(into_io)?.into_writer();
        file.write_all(&header)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            written: header.len() as u64,
            format,
            records: PcapWriter::with_header(Vec::new(), format).map_err(into_io)?,
            has_records: false,
            spare: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// Appends a record of a frame of `len` bytes, of which `copy` fetches the first.
    fn append(
        &mut self,
        now: Duration,
        header: VnetHeader,
        len: usize,
        copy: impl FnOnce(&mut [u8]) -> usize,
    ) -> io::Result<()> {
        let kept = len.min(self.format.snaplen as usize);
        self.frame.resize(kept, 0);
        let copied = copy(&mut self.frame);
        self.frame.truncate(copied);
        if let Checksum::Partial { start, offset } = header.checksum
            && copied == len
        {
            // A checksum outside the frame is the inner link's to count; the record shows the frame as it is.
            let _ = finish_checksum(&mut self.frame, start, offset);
        }
        self.has_records = true;
        let record = record(now, self.format.ts_resolution, len, &self.frame);
        self.records.write_raw_packet(&record).map(drop).map_err(into_io)
    }

    /// Hands all records to the operating system.
    fn write(&mut self) -> io::Result<()> {
        if !mem::take(&mut self.has_records) {
            return Ok(());
        }
        let next = PcapWriter::with_header(mem::take(&mut self.spare), self.format).map_err(into_io)?;
        let mut batch = mem::replace(&mut self.records, next).into_writer();
        let records = &batch[FILE_HEADER_LEN..];
        if let Err(error) = self.file.write_all(records) {
            self.cut_off();
            return Err(error);
        }
        self.written += records.len() as u64;
        batch.clear();
        self.spare = batch;
        Ok(())
    }

    /// Leaves the file with whole records.
    fn cut_off(&self) {
        // A pipe cannot be cut, and there is nobody else to tell.
        let _ = self.file.set_len(self.written);
    }
}

/// The record of a frame of `len` bytes of which these were kept. The format's seconds end in 2106.
#[allow(clippy::cast_possible_truncation, reason = "the format has 32 bits for each")]
fn record(now: Duration, resolution: TsResolution, len: usize, kept: &[u8]) -> RawPcapPacket<'_> {
    let nanoseconds = now.subsec_nanos();
    RawPcapPacket {
        ts_sec: now.as_secs() as u32,
        ts_frac: if resolution == TsResolution::NanoSecond { nanoseconds } else { nanoseconds / 1000 },
        incl_len: kept.len() as u32,
        orig_len: len as u32,
        data: Cow::Borrowed(kept),
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn into_io(error: FormatError) -> io::Error {
    match error {
        FormatError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
#[path = "pcap_test.rs"]
mod tests;

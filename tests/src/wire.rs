//! What the harness and its agent say to each other: frames of `kind, id, length, payload` over one byte stream.
//!
//! The stream is the agent's standard input and output, which is a virtio-serial port in the outer host and a pair of pipes on
//! the machine itself. `id` names a process; the harness chooses it. Invariant: after `Exit` or `Failed` nothing more is said
//! about an id. Neighbours: `host.rs` (the harness' end) and `bin/lab-agent.rs` (the other).

use std::io::{self, Read, Write};

/// The largest payload either end sends; a longer one means the stream is out of step.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the agent: run the [`Spawn`] in the payload.
    Spawn = 1,
    /// To the agent: bytes for the process' standard input.
    Stdin = 2,
    /// To the agent: the process' standard input ends here.
    CloseStdin = 3,
    /// To the agent: send the process a signal (payload: its number, i32).
    Signal = 4,
    /// To the agent: kill every process group it ever started, so that the next test finds a quiet host.
    Sweep = 5,
    /// From the agent, once: it is there.
    Hello = 16,
    /// From the agent: the process runs (payload: its pid, i32).
    Started = 17,
    /// From the agent: bytes from standard output, or from the terminal.
    Stdout = 18,
    /// From the agent: bytes from standard error.
    Stderr = 19,
    /// From the agent: the process ended (payload: its wait status, i32).
    Exit = 20,
    /// From the agent: the process could not be started (payload: why).
    Failed = 21,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Spawn, Stdin, CloseStdin, Signal, Sweep, Hello, Started, Stdout, Stderr, Exit, Failed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Which process.
    pub id: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number in the payload of `Signal`, `Started` and `Exit`.
    pub fn number(&self) -> i32 {
        let mut bytes = [0; 4];
        let len = self.payload.len().min(4);
        bytes[..len].copy_from_slice(&self.payload[..len]);
        i32::from_le_bytes(bytes)
    }
}

/// A process to start: the payload of [`Kind::Spawn`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spawn {
    /// Run with `sh -c`.
    pub command: String,
    /// Run as the user with these uid and gid.
    pub user: Option<(u32, u32)>,
    /// Give it a terminal of its own instead of pipes.
    pub tty: bool,
}

impl Spawn {
    /// The payload that says this.
    pub fn to_bytes(&self) -> Vec<u8> {
        let user = self.user.map(|(uid, gid)| format!("{uid}:{gid}")).unwrap_or_default();
        format!("{}\0{user}\0{}", u8::from(self.tty), self.command).into_bytes()
    }

    /// What a payload says, if it is one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Spawn> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = text.splitn(3, '\0');
        let tty = fields.next()? == "1";
        let user = match fields.next()? {
            "" => None,
            user => {
                let (uid, gid) = user.split_once(':')?;
                Some((uid.parse().ok()?, gid.parse().ok()?))
            }
        };
        Some(Spawn { command: fields.next()?.to_owned(), user, tty })
    }
}

/// Writes one frame in one call.
pub fn write_frame(to: &mut impl Write, kind: Kind, id: u32, payload: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.push(kind as u8);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one frame; `None` at the end of the stream.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; 9];
    match from.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [kind, i0, i1, i2, i3, l0, l1, l2, l3] = header;
    let out_of_step =
        || io::Error::new(io::ErrorKind::InvalidData, format!("agent stream: no frame starts with {header:?}"));
    let kind = Kind::from_byte(kind).ok_or_else(out_of_step)?;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_PAYLOAD {
        return Err(out_of_step());
    }
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, id: u32::from_le_bytes([i0, i1, i2, i3]), payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_written() {
        let spawn = Spawn { command: "echo a\0b".into(), user: Some((65534, 65534)), tty: true };
        let mut stream = Vec::new();
        write_frame(&mut stream, Kind::Spawn, 7, &spawn.to_bytes()).unwrap();
        write_frame(&mut stream, Kind::Exit, 7, &256i32.to_le_bytes()).unwrap();
        let mut stream = stream.as_slice();
        let first = read_frame(&mut stream).unwrap().unwrap();
        assert_eq!((first.kind, first.id), (Kind::Spawn, 7));
        assert_eq!(Spawn::from_bytes(&first.payload), Some(spawn));
        assert_eq!(read_frame(&mut stream).unwrap().unwrap().number(), 256);
        assert_eq!(read_frame(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_stream_out_of_step_is_an_error_not_an_allocation() {
        assert!(read_frame(&mut [1u8, 0, 0, 0, 0, 255, 255, 255, 255].as_slice()).is_err());
        assert!(read_frame(&mut b"Booting from ROM..".as_slice()).is_err());
    }
}

//! The end of a process that makes a system call which is not allowed: one line on standard error, and status 1.
//!
//! The filter traps (`SECCOMP_RET_TRAP` of seccomp(2)): the call is not made, and `SIGSYS` is sent to the thread. A
//! thread that has it blocked, as the C library has while it starts another, is killed by the kernel without a line.
//!
//! Invariant: the handler does nothing that is not async-signal-safe (signal-safety(7)): what it writes is made before.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::OnceLock;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::messages::speaker;

/// The line up to the number of the call.
static HEAD: OnceLock<String> = OnceLock::new();
const TAIL: &[u8] = b" is not allowed\n";

/// Takes over `SIGSYS`.
pub(super) fn report() -> io::Result<()> {
    HEAD.get_or_init(|| format!("{}: error: confinement: system call ", speaker()));
    let action =
        SigAction::new(SigHandler::SigAction(handle), SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK, SigSet::all());
    // SAFETY: the handler is async-signal-safe.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop).map_err(Into::into)
}

/// The part of `siginfo_t` that `SIGSYS` fills (sigaction(2)), as 64-bit systems have it.
#[repr(C)]
struct SystemCall {
    signal: c_int,
    error: c_int,
    code: c_int,
    address: *const c_void,
    number: c_int,
    architecture: u32,
}

extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives a whole siginfo_t, which is larger, and this signal has these fields.
    let number = unsafe { (*info.cast::<SystemCall>()).number };
    let mut digits = [0; 10];
    if let Some(head) = HEAD.get() {
        write(head.as_bytes());
    }
    write(decimal(number.unsigned_abs(), &mut digits));
    write(TAIL);
    // SAFETY: it ends the process, and is async-signal-safe.
    unsafe { libc::_exit(1) };
}

fn write(bytes: &[u8]) {
    // SAFETY: the bytes are as many as stated.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

/// A number without the help of the allocator.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(first..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_memory() {
        let text = |number| String::from_utf8(decimal(number, &mut [0; 10]).to_vec()).unwrap();
        assert_eq!([text(0), text(59), text(u32::MAX)], ["0", "59", "4294967295"]);
    }

    #[test]
    fn a_signals_fields_are_where_the_kernel_puts_them() {
        assert_eq!(std::mem::offset_of!(SystemCall, address), 16);
        assert_eq!(std::mem::offset_of!(SystemCall, number), 24);
        assert!(size_of::<SystemCall>() <= size_of::<libc::siginfo_t>());
    }
}

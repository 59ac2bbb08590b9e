//! Memory for a flow's rings: mapped on its own, so that an idle flow costs the pages it has touched and no more, and
//! so that what a busy flow has touched goes back to the system at once.

use std::io;
use std::ptr::NonNull;

/// A private anonymous mapping, zeroed and untouched at first.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory that belongs to this value alone.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes, a multiple of the page size.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, len }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    /// The memory, for a user whose lifetime the compiler cannot follow.
    ///
    /// # Safety
    /// The slice must be gone before the mapping is, and no two slices of it may live at once.
    pub(crate) unsafe fn slice(&mut self) -> &'static mut [u8] {
        // SAFETY: `len` bytes from `start` are mapped, readable, writable and initialised; the caller sees to the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Gives the pages back; they read as zeroes from now on.
    pub(crate) fn release(&self) {
        // SAFETY: the range is our own mapping; its content has no meaning to anyone when this is called.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping, and by the contract of `slice` nobody uses it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_memory_reads_as_zeroes() {
        let mut mapping = Mapping::new(1 << 16).unwrap();
        // SAFETY: the only slice, and it does not outlive the mapping.
        let slice = unsafe { mapping.slice() };
        slice[100] = 7;
        mapping.release();
        assert_eq!(slice[100], 0);
    }
}

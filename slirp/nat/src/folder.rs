//! The folder whose files are served by TFTP, and the files that are open.
//!
//! Invariant: nothing outside of the folder is opened, whatever its name and whatever symbolic links say: the kernel
//! resolves names beneath the folder's descriptor (openat2(2), `RESOLVE_BENEATH`), which is opened once, before a change
//! of root. A symbolic link that stays inside is followed. Only regular files are opened: a name is looked up without
//! opening it (`O_PATH`) first, for opening a device can do things; and `O_NONBLOCK` keeps a FIFO that took the file's
//! place meanwhile from blocking.
//!
//! Neighbour: `sockets`, which owns it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// The folder cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("tftp={}: {}{}", .path.display(), link::reason(.source), hint(.source))]
pub struct FolderError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The folder.
pub(crate) struct Folder {
    fd: OwnedFd,
    files: Vec<Option<File>>,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map(|fd| Self { fd, files: Vec::new() });
        // Asked for once now, so that a kernel without openat2 (before Linux 5.6) is told of at once.
        let folder = folder.and_then(|folder| folder.beneath(b".", OFlag::O_PATH).map(|_| folder));
        folder.map_err(|error| FolderError { path: path.to_owned(), source: error.into() })
    }

    pub(crate) fn open_file(&mut self, file: u32, name: &[u8]) -> io::Result<u64> {
        let found = File::from(self.beneath(name, OFlag::O_PATH)?);
        if !found.metadata()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let opened = File::from(self.beneath(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?);
        let metadata = opened.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let place = file as usize;
        if self.files.len() <= place {
            self.files.resize_with(place + 1, || None);
        }
        self.files[place] = Some(opened);
        Ok(metadata.len())
    }

    pub(crate) fn read_file(&self, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.files.get(file as usize).and_then(Option::as_ref);
        let file = file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        loop {
            match file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub(crate) fn close_file(&mut self, file: u32) {
        if let Some(place) = self.files.get_mut(file as usize) {
            *place = None;
        }
    }

    fn beneath(&self, name: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.fd, OsStr::from_bytes(name), how)
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => " (openat2 is needed: Linux 5.6 or later)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A folder of the test's own, and one beside it.
    struct World(PathBuf);

    impl World {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nat-folder-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("in/sub")).unwrap();
            fs::write(path.join("secret"), "secret").unwrap();
            fs::write(path.join("in/file"), "0123456789").unwrap();
            fs::write(path.join("in/sub/deep"), "deep").unwrap();
            Self(path)
        }

        fn link(&self, to: &str, name: &str) {
            symlink(to, self.0.join("in").join(name)).unwrap();
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn files_inside_are_read_at_any_offset_also_through_links() {
        let world = World::new("inside");
        world.link("sub/deep", "link");
        world.link("../file", "sub/up");
        let mut folder = Folder::open(&world.0.join("in")).unwrap();
        assert_eq!(folder.open_file(0, b"file").unwrap(), 10);
        assert_eq!(folder.open_file(3, b"link").unwrap(), 4);
        assert_eq!(folder.open_file(1, b"sub/up").unwrap(), 10);
        let mut buffer = [0; 4];
        assert_eq!(folder.read_file(0, 8, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"89");
        assert_eq!(folder.read_file(3, 0, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"deep");
        folder.close_file(0);
        folder.close_file(77);
        assert!(folder.read_file(0, 0, &mut buffer).is_err());
    }

    #[test]
    fn nothing_outside_is_opened_and_nothing_but_files() {
        let world = World::new("outside");
        let absolute = world.0.join("secret");
        world.link("../secret", "out");
        world.link(absolute.to_str().unwrap(), "absolute");
        world.link("..", "parent");
        world.link("loop", "loop");
        world.link("/proc/self/root", "magic");
        let fifo = world.0.join("in/fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let mut folder = Folder::open(&world.0.join("in")).unwrap();
        for name in [
            "../secret",
            "sub/../../secret",
            "out",
            "absolute",
            "parent/secret",
            "/etc/passwd",
            "magic/etc/passwd",
            "loop",
        ] {
            assert!(folder.open_file(0, name.as_bytes()).is_err(), "{name}");
        }
        assert!(folder.open_file(0, absolute.as_os_str().as_bytes()).is_err());
        for name in ["sub", ".", "fifo"] {
            let error = folder.open_file(0, name.as_bytes()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{name}");
        }
        assert_eq!(folder.open_file(0, b"missing").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_folder_that_is_none_is_named() {
        for (path, why) in [("/nowhere", "No such file"), ("/etc/passwd", "Not a directory")] {
            let error = Folder::open(Path::new(path)).err().unwrap().to_string();
            assert!(error.starts_with(&format!("tftp={path}: {why}")), "{error}");
        }
    }
}

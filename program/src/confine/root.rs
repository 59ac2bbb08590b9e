//! The file system, IPC and the host's name: namespaces of our own, with a root that holds nothing but the paths that are
//! still needed (mount_namespaces(7), user_namespaces(7), pivot_root(2)).
//!
//! Who may not make such namespaces makes a user namespace first, in which this user and group are all there is. The
//! network namespace stays the old user namespace's, so that capabilities over it are lost; where some are to be kept,
//! there is no user namespace, and then perhaps no empty root.
//!
//! The new root is a read-only tmpfs; on it each path is mounted where it was, so that names stay the same. Whole directories
//! are mounted, because a mount of a file keeps showing what has been replaced by renaming.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

use super::{Confinement, Unavailable};

/// Where the new root is put together, out of sight of everybody else.
const STAGE: &str = "/tmp";
/// Symbolic links that are followed one after another, as the kernel does at most (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A path that stays.
pub(super) struct Place {
    /// Absolute.
    pub(super) path: PathBuf,
    pub(super) is_directory: bool,
    pub(super) is_writable: bool,
}

/// Everything that stays of the file system.
#[derive(Default)]
pub(super) struct Places {
    places: Vec<Place>,
    /// Symbolic links, each with where it leads.
    links: Vec<(PathBuf, PathBuf)>,
    missing: Vec<String>,
}

impl Places {
    /// Looks for what a program needs. `stays_root` says that files of root's can be read wherever they are seen.
    pub(super) fn find(confinement: &Confinement, stays_root: bool) -> Self {
        let mut places = Self::default();
        confinement.read.iter().for_each(|path| places.add(path, false));
        confinement.follow.iter().for_each(|path| places.follow(path, stays_root));
        confinement.write.iter().for_each(|path| places.add(path, true));
        // What is inside another comes behind it.
        places.places.sort_by(|one, other| one.path.cmp(&other.path));
        places
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// What is not there.
    pub(super) fn missing(&self) -> impl Iterator<Item = String> {
        self.missing.iter().cloned()
    }

    fn add(&mut self, path: &Path, is_writable: bool) {
        let found = std::path::absolute(path).and_then(|path| Ok((fs::metadata(&path)?.is_dir(), path)));
        match found {
            Ok((is_directory, path)) => match self.places.iter_mut().find(|place| place.path == path) {
                Some(place) => place.is_writable |= is_writable,
                None => self.places.push(Place { path, is_directory, is_writable }),
            },
            Err(error) => self.missing.push(format!("{} ({})", path.display(), link::reason(&error))),
        }
    }

    fn follow(&mut self, path: &Path, stays_root: bool) {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Some(directory) = path.parent().map(Path::to_owned) else { return };
            let Ok(target) = fs::read_link(&path) else {
                if stays_root && has_secrets(&directory) {
                    let why = format!("root would read all of {}", directory.display());
                    self.missing.push(format!("another file in the place of {} ({why})", path.display()));
                    return self.add(&path, false);
                }
                return self.add(&directory, false);
            };
            let next = directory.join(&target);
            self.links.push((path, target));
            path = next;
        }
    }
}

/// Whether a directory has something that not everybody may read.
fn has_secrets(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    let is_secret = |file: fs::Metadata| !file.is_symlink() && file.permissions().mode() & 0o004 == 0;
    entries.flatten().any(|entry| entry.metadata().is_ok_and(is_secret))
}

/// Goes there. `keeps_capabilities` says that a user namespace would cost some.
pub(super) fn enter(places: &Places, keeps_capabilities: bool) -> Result<(), Unavailable> {
    leave(keeps_capabilities)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(Unavailable::new("mounts stay shared"))?;
    // Before the stage hides what may be below it.
    let trees: Vec<OwnedFd> = places.iter().map(copy).collect::<Result<_, _>>()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("etherloom"), STAGE, Some("tmpfs"), flags, Some("mode=755,size=64k,nr_inodes=1k"))
        .map_err(Unavailable::new(STAGE))?;
    fill(places, trees).and_then(|()| change_root()).inspect_err(|_| {
        // What the stage hides is needed again.
        let _ = umount2(STAGE, MntFlags::MNT_DETACH);
    })
}

/// Makes the stage the root.
fn change_root() -> Result<(), Unavailable> {
    let working_directory = std::env::current_dir();
    chdir(STAGE).map_err(Unavailable::new("cannot enter it"))?;
    pivot_root(".", ".").map_err(Unavailable::new("pivot_root"))?;
    // The old root is on top of the new one now, at the same place.
    umount2(".", MntFlags::MNT_DETACH).map_err(Unavailable::new("cannot let go of the old root"))?;
    chdir("/").map_err(Unavailable::new("cannot enter it"))?;
    if let Ok(directory) = working_directory {
        // If it is not there, names that begin there are not needed.
        let _ = chdir(&directory);
    }
    Ok(())
}

/// Leaves the namespaces of the host.
fn leave(keeps_capabilities: bool) -> Result<(), Unavailable> {
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    match unshare(namespaces) {
        Err(Errno::EPERM) if !keeps_capabilities => {}
        outcome => return outcome.map_err(Unavailable::new("no namespaces")),
    }
    let (user, group) = (geteuid(), getegid());
    unshare(namespaces | CloneFlags::CLONE_NEWUSER).map_err(Unavailable::new("no user namespace"))?;
    let write = |file: &str, text: String| {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(Unavailable::new(path))
    };
    write("uid_map", format!("{user} {user} 1"))?;
    write("setgroups", "deny".to_owned())?;
    write("gid_map", format!("{group} {group} 1"))
}

/// The mounts of a place, with what may be done there.
fn copy(place: &Place) -> Result<OwnedFd, Unavailable> {
    let tree = open_tree(&place.path).map_err(Unavailable::new(place.path.display()))?;
    set_attributes(&tree, place.is_writable, true).map_err(Unavailable::new(place.path.display()))?;
    Ok(tree)
}

/// Puts the new root together.
fn fill(places: &Places, trees: Vec<OwnedFd>) -> Result<(), Unavailable> {
    for (tree, place) in trees.into_iter().zip(places.iter()) {
        let at = staged(&place.path);
        make_place(&at, place.is_directory).map_err(Unavailable::new(place.path.display()))?;
        attach(&tree, &at).map_err(Unavailable::new(place.path.display()))?;
    }
    for (path, target) in &places.links {
        let at = staged(path);
        if fs::symlink_metadata(&at).is_err() {
            let made = make_parent(&at).and_then(|()| symlink(target, &at));
            made.map_err(Unavailable::new(path.display()))?;
        }
    }
    let stage = File::open(STAGE).map_err(Unavailable::new(STAGE))?;
    set_attributes(&stage.into(), false, false).map_err(Unavailable::new(STAGE))
}

fn staged(path: &Path) -> PathBuf {
    Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(path))
}

/// Makes something to mount on.
fn make_place(at: &Path, is_directory: bool) -> io::Result<()> {
    if is_directory {
        return fs::create_dir_all(at);
    }
    make_parent(at)?;
    match File::create_new(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn make_parent(at: &Path) -> io::Result<()> {
    at.parent().map_or(Ok(()), fs::create_dir_all)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A copy of the mounts at and below a path, which are nowhere yet (open_tree(2)).
fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_RECURSIVE as u32;
    // SAFETY: the path ends with a NUL.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Mounts such a copy (move_mount(2)).
fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    let at = c_path(at)?;
    let (fd, none, flags) = (tree.as_raw_fd(), c"".as_ptr(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both paths end with a NUL.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, fd, none, libc::AT_FDCWD, at.as_ptr(), flags) };
    Ok(Errno::result(moved).map(drop)?)
}

/// Makes a mount inert, and read-only unless it is to be written (mount_setattr(2)); `all` means those below it, too.
fn set_attributes(tree: &OwnedFd, is_writable: bool, all: bool) -> io::Result<()> {
    let inert = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let attr_set = if is_writable { inert } else { inert | libc::MOUNT_ATTR_RDONLY };
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if all { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    let (fd, none, size) = (tree.as_raw_fd(), c"".as_ptr(), size_of_val(&attributes));
    // SAFETY: the path ends with a NUL, and the attributes are as long as stated.
    let set = unsafe { libc::syscall(libc::SYS_mount_setattr, fd, none, flags, &raw const attributes, size) };
    Ok(Errno::result(set).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_link_stays_and_the_directory_behind_it_is_kept() {
        let dir = std::env::temp_dir().join(format!("etherloom-places-{}", std::process::id()));
        fs::create_dir_all(dir.join("run")).unwrap();
        fs::write(dir.join("run/resolv.conf"), "").unwrap();
        symlink("run/resolv.conf", dir.join("link")).unwrap();
        let follow = vec![dir.join("link"), dir.join("nowhere/file")];
        let places = Places::find(&Confinement { follow, ..Confinement::default() }, false);
        let kept: Vec<_> = places.iter().map(|place| (place.path.clone(), place.is_directory)).collect();
        assert_eq!(kept, [(dir.join("run"), true)]);
        assert_eq!(places.links, [(dir.join("link"), PathBuf::from("run/resolv.conf"))]);
        assert_eq!(places.missing.len(), 1, "{:?}", places.missing);
        fs::remove_dir_all(&dir).unwrap();
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that the user named for reading or creating: never waits for a FIFO, follows a link, or uses rights that the
//! user does not have.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{
    AccessFlags, Gid, Uid, UnlinkatFlags, faccessat, getgid, getuid, setfsgid, setfsuid, unlinkat,
};

use crate::error::Usage;
use crate::kernel::privileges::{self, Rights};

/// A name in a directory, for a file to be created.
pub struct Place {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    /// What it takes to write there later.
    rights: Rights,
}

/// A file that this run created.
pub struct Made {
    place: Place,
    /// Kept open so that its inode number is not reused.
    file: OwnedFd,
}

impl Place {
    /// `flag` is what named it. A regular file may be there.
    ///
    /// # Errors
    /// A sentence: something else is there, the directory is not, or the user may not write to it.
    pub fn new(flag: &str, path: &Path) -> Result<Self> {
        let named = path.display();
        let name = path.file_name().filter(|_| !ends_in_slash(path));
        let name = name.ok_or_else(|| Usage(format!("{flag}: '{named}' is not a file name")))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let cannot = |error: Errno| anyhow!("{flag}: cannot write {named}: {}", error.desc());
        let place = as_the_user(|| -> Result<_, Errno> {
            let directory = open(parent, flags, Mode::empty())?;
            faccessat(&directory, ".", AccessFlags::W_OK, AtFlags::empty())?;
            let rights = rights(&fstat(&directory)?);
            Ok(Self {
                path: path.to_owned(),
                directory,
                name: name.to_owned(),
                rights,
            })
        });
        let place = place.map_err(cannot)?;
        match place.there().map_err(cannot)? {
            Some(stat) if !is(&stat, SFlag::S_IFREG) => {
                let what = what(&stat);
                Err(Usage(format!(
                    "{flag}: {named} is {what}: name a file that does not exist"
                ))
                .into())
            }
            _ => Ok(place),
        }
    }

    /// What it takes to write there later.
    pub(crate) fn rights(&self) -> Rights {
        self.rights
    }

    fn there(&self) -> Result<Option<FileStat>, Errno> {
        let stat = self.allowed(|| {
            fstatat(
                &self.directory,
                self.name.as_os_str(),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )
        });
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an empty file, as left by an earlier run.
    ///
    /// # Errors
    /// A sentence: it is not empty, or may not be removed.
    pub fn clear(&self, flag: &str) -> Result<()> {
        let named = self.path.display();
        let cannot = |error: Errno| anyhow!("{flag}: cannot remove {named}: {}", error.desc());
        match self.there().map_err(cannot)? {
            None => Ok(()),
            Some(stat) if stat.st_size != 0 => Err(Usage(format!(
                "{flag}: {named} exists and is not empty: name another file, or remove it"
            ))
            .into()),
            Some(_) => self.remove().map_err(cannot),
        }
    }

    fn remove(&self) -> Result<(), Errno> {
        self.allowed(|| {
            unlinkat(
                &self.directory,
                self.name.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            )
        })
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// If the file exists by now, and as open(2).
    pub fn make(self) -> Result<Made> {
        let named = self.path.display();
        let file = self
            .create(&self.name)
            .with_context(|| format!("cannot create {named}"))?;
        Ok(Made { place: self, file })
    }

    /// Writes a file with this content, replacing an existing one.
    ///
    /// # Errors
    /// As write(2) and rename(2); an existing file is then unchanged.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        self.put(|file| file.write_all(content)).map(drop)
    }

    /// An empty file in place of an existing one, to be written as long as the run lasts.
    ///
    /// # Errors
    /// As open(2) and rename(2); an existing file is then unchanged.
    pub fn replace(&self) -> io::Result<File> {
        self.put(|_| Ok(()))
    }

    /// A new file, that others see once `fill` has filled it.
    ///
    /// # Errors
    /// As `fill` and rename(2); an existing file is then unchanged.
    pub fn put(&self, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
        let mut beside = OsString::from(".");
        beside.push(&self.name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let mut file = File::from(self.create(&beside)?);
        let write = || {
            fill(&mut file)?;
            let rename = || {
                renameat(
                    &self.directory,
                    beside.as_os_str(),
                    &self.directory,
                    self.name.as_os_str(),
                )
            };
            Ok(self.allowed(rename)?)
        };
        let result: io::Result<()> = write();
        if result.is_err() {
            // Only a name that nobody asked for.
            let _ = self.allowed(|| {
                unlinkat(
                    &self.directory,
                    beside.as_os_str(),
                    UnlinkatFlags::NoRemoveDir,
                )
            });
        }
        result.map(|()| file)
    }

    fn create(&self, name: &OsString) -> Result<OwnedFd, Errno> {
        let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let flags = new | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        self.allowed(|| openat(&self.directory, name.as_os_str(), flags, mode))
    }

    /// Runs `body` with the user's rights; as root, may have to raise CAP_DAC_OVERRIDE again.
    fn allowed<T>(&self, body: impl FnOnce() -> T) -> T {
        if self.rights == Rights::User && !getuid().is_root() {
            return as_the_user(body);
        }
        let before = caps::read(None, CapSet::Effective).unwrap_or_default();
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        let (old_uid, old_gid) = (setfsuid(root.0), setfsgid(root.1));
        // Where it is not permitted, `body` fails and says so.
        let _ = caps::raise(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE);
        let result = body();
        setfsgid(old_gid);
        setfsuid(old_uid);
        let _ = caps::set(None, CapSet::Effective, &before);
        result
    }
}

impl Made {
    /// Removes the file, if it is still the same one.
    ///
    /// # Errors
    /// A message for the user.
    pub fn remove(self) -> Result<()> {
        let made = fstat(&self.file).map(|made| (made.st_dev, made.st_ino));
        let is = |stat: &FileStat| Ok((stat.st_dev, stat.st_ino)) == made;
        match self.place.there() {
            Ok(stat) if !stat.as_ref().is_some_and(is) => Ok(()),
            _ => self.place.remove().map_err(|error| {
                anyhow!(
                    "cannot remove {}: {}",
                    self.place.path.display(),
                    error.desc()
                )
            }),
        }
    }
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn what(stat: &FileStat) -> &'static str {
    let kinds = [
        (SFlag::S_IFLNK, "a symbolic link"),
        (SFlag::S_IFDIR, "a directory"),
        (SFlag::S_IFIFO, "a FIFO"),
        (SFlag::S_IFSOCK, "a socket"),
    ];
    let kind = kinds.iter().find(|(kind, _)| is(stat, *kind));
    kind.map_or("a device", |(_, what)| what)
}

/// What it takes to write to a directory later: by its owner and mode alone, as access(2) counts what root may take up.
fn rights(directory: &FileStat) -> Rights {
    let owner = |user: Uid| directory.st_uid == user.as_raw() && directory.st_mode & 0o300 == 0o300;
    let root = Uid::from_raw(0);
    if !getuid().is_root() || owner(privileges::user().0) {
        Rights::User
    } else if owner(root) || directory.st_mode & 0o003 == 0o003 {
        // Where anyone may write, what root has made is often root's alone to remove (`/tmp`).
        Rights::Root
    } else {
        Rights::Override
    }
}

/// Runs `body` with the file access rights of the user who started the command, if its privileges are file
/// capabilities.
pub fn as_the_user<T>(body: impl FnOnce() -> T) -> T {
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() {
        return body();
    }
    let before = caps::read(None, CapSet::Effective).unwrap_or_default();
    let (old_uid, old_gid): (Uid, Gid) = (setfsuid(uid), setfsgid(gid));
    let _ = caps::clear(None, CapSet::Effective);
    let result = body();
    let _ = caps::set(None, CapSet::Effective, &before);
    setfsgid(old_gid);
    setfsuid(old_uid);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn directory(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("tcptools-files-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn only_own_files_are_replaced_or_removed() {
        let dir = directory("place");
        let path = dir.join("file");
        let made = Place::new("--flag", &path).unwrap().make().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        made.remove().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"another's");

        let place = Place::new("--flag", &path).unwrap();
        let error = place.clear("--flag").unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        assert!(place.make().is_err());
        fs::hard_link(&path, dir.join("link")).unwrap();
        Place::new("--flag", &path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(dir.join("link")).unwrap(), b"another's");
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            2,
            "nothing is left beside it"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn links_directories_and_devices_are_rejected() {
        let dir = directory("kinds");
        fs::write(dir.join("victim"), "root:x").unwrap();
        std::os::unix::fs::symlink("victim", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        for (name, what) in [
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("fifo", "a FIFO"),
            (".", "a directory"),
            ("none/", "is not a file name"),
            ("/dev/null", "a device"),
            ("/dev", "a directory"),
            ("none/file", "No such file"),
            ("", "is not a file name"),
        ] {
            let path = if name.is_empty() {
                PathBuf::new()
            } else {
                dir.join(name)
            };
            let error = Place::new("--flag", &path).err().map(|e| e.to_string());
            assert!(
                error.as_ref().is_some_and(|e| e.contains(what)),
                "{name}: {error:?}"
            );
        }
        assert_eq!(fs::read(dir.join("victim")).unwrap(), b"root:x");
        fs::remove_dir_all(&dir).unwrap();
    }
}

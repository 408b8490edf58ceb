// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that a command reads or makes because the user named them: never a FIFO to wait for, never a link to follow, and
//! never with rights that the user does not have.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{
    AccessFlags, Gid, Uid, UnlinkatFlags, faccessat, geteuid, getgid, getuid, setfsgid, setfsuid,
    unlinkat,
};

use crate::cli::Usage;

/// Opens a regular file of at most so many bytes, without waiting for anything.
///
/// # Errors
/// A sentence.
pub fn regular(path: &Path, most: u64) -> Result<File, String> {
    let named = path.display();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map(File::from);
    let file = file.map_err(|error| format!("{named}: {}", error.desc()))?;
    let meta = file
        .metadata()
        .map_err(|error| format!("{named}: {error}"))?;
    if !meta.is_file() {
        return Err(format!("{named} is {}, not a file", kind_of(&meta)));
    }
    bounded(path, &file, most)?;
    Ok(file)
}

/// That an open file has no more bytes than `most`.
///
/// # Errors
/// A sentence that names it.
pub fn bounded(path: &Path, file: &File, most: u64) -> Result<(), String> {
    let (named, mib) = (path.display(), most >> 20);
    match file.metadata() {
        Ok(meta) if meta.size() > most => Err(format!("{named} is larger than {mib} MiB")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{named}: {error}")),
    }
}

fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a device"
    }
}

/// A name in a directory where a file is to be made.
pub struct Place {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    /// Root may write there only by CAP_DAC_OVERRIDE.
    overrides: bool,
}

/// A file that this run has made.
pub struct Made {
    place: Place,
    /// Open, so that its inode number is no other file's.
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
        let name =
            name.ok_or_else(|| Usage(format!("{flag}: '{named}' is not the name of a file")))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let cannot = |error: Errno| anyhow!("{flag}: cannot write {named}: {}", error.desc());
        let place = as_the_user(|| -> Result<_, Errno> {
            let directory = open(parent, flags, Mode::empty())?;
            faccessat(&directory, ".", AccessFlags::W_OK, AtFlags::empty())?;
            let overrides = needs_override(&fstat(&directory)?);
            Ok(Self {
                path: path.to_owned(),
                directory,
                name: name.to_owned(),
                overrides,
            })
        });
        let place = place.map_err(cannot)?;
        match place.there().map_err(cannot)? {
            Some(stat) if !is(&stat, SFlag::S_IFREG) => {
                let what = what(&stat);
                Err(Usage(format!(
                    "{flag}: {named} is {what}: name a file that is not there yet"
                ))
                .into())
            }
            _ => Ok(place),
        }
    }

    /// Whether root needs CAP_DAC_OVERRIDE to write there.
    pub fn overrides(&self) -> bool {
        self.overrides
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

    /// Removes an empty file, as a run before has left it.
    ///
    /// # Errors
    /// A sentence: it is not empty, or may not be removed.
    pub fn clear(&self, flag: &str) -> Result<()> {
        let named = self.path.display();
        let cannot = |error: Errno| anyhow!("{flag}: cannot remove {named}: {}", error.desc());
        match self.there().map_err(cannot)? {
            None => Ok(()),
            Some(stat) if stat.st_size != 0 => Err(Usage(format!(
                "{flag}: {named} is there and is not empty: name another file, or remove it"
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
    /// When something has come there meanwhile, and as open(2).
    pub fn make(self) -> Result<Made> {
        let named = self.path.display();
        let file = self
            .create(&self.name)
            .with_context(|| format!("cannot create {named}"))?;
        Ok(Made { place: self, file })
    }

    /// Makes a file with this content, which replaces one that is there.
    ///
    /// # Errors
    /// As write(2) and rename(2); then what was there is as before.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        let mut beside = OsString::from(".");
        beside.push(&self.name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let file = self.create(&beside)?;
        let write = || {
            File::from(file).write_all(content)?;
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
        let result = write();
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
        result
    }

    fn create(&self, name: &OsString) -> Result<OwnedFd, Errno> {
        let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let flags = new | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        self.allowed(|| openat(&self.directory, name.as_os_str(), flags, mode))
    }

    /// With the user's rights; root's may have to be taken up again.
    fn allowed<T>(&self, body: impl FnOnce() -> T) -> T {
        if !self.overrides {
            return as_the_user(body);
        }
        let before = caps::read(None, CapSet::Effective).unwrap_or_default();
        // Where it is not permitted, `body` fails and says so.
        let _ = caps::raise(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE);
        let result = body();
        let _ = caps::set(None, CapSet::Effective, &before);
        result
    }
}

impl Made {
    /// Removes the file, if it still is the one.
    ///
    /// # Errors
    /// A sentence.
    pub fn remove(self) -> Result<()> {
        let made = fstat(&self.file).map(|made| (made.st_dev, made.st_ino));
        let is = |stat: &FileStat| Ok((stat.st_dev, stat.st_ino)) == made;
        match self.place.there() {
            Ok(stat) if !stat.as_ref().is_some_and(is) => Ok(()),
            _ => self
                .place
                .remove()
                .map_err(|error| anyhow!("{} stays: {}", self.place.path.display(), error.desc())),
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

/// Of a directory, for the user root: by its mode alone, as access(2) counts what root may take up.
fn needs_override(directory: &FileStat) -> bool {
    let root = geteuid().is_root() && getuid().is_root();
    let owner = directory.st_uid == 0 && directory.st_mode & 0o300 == 0o300;
    root && !owner && directory.st_mode & 0o003 != 0o003
}

/// Does something with files as the user who started the command, where its privileges come from the file that it is in.
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
    fn only_what_this_run_has_made_is_replaced_or_removed() {
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
    fn links_directories_and_devices_are_refused() {
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
            ("none/", "is not the name"),
            ("/dev/null", "a device"),
            ("/dev", "a directory"),
            ("none/file", "No such file"),
            ("", "is not the name"),
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

    #[test]
    fn what_is_read_is_a_regular_file_of_some_size() {
        let dir = directory("regular");
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        File::create(dir.join("huge"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::write(dir.join("small"), "x").unwrap();
        for (name, what) in [
            ("fifo", "a FIFO"),
            ("huge", "larger than 1 MiB"),
            ("/dev/zero", "a device"),
            ("none", "No such file"),
        ] {
            let error = regular(&dir.join(name), 1 << 20).err();
            assert!(
                error.as_ref().is_some_and(|e| e.contains(what)),
                "{name}: {error:?}"
            );
        }
        assert!(regular(&dir.join("small"), 1 << 20).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files and directories that go with the test.

use std::{
    env, fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A unique path; whatever is there is removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Nothing is there yet.
    pub fn path(stem: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("tcptools-live-{}-{n}-{stem}", process::id())))
    }

    /// As an argument.
    pub fn text(&self) -> &str {
        self.0
            .to_str()
            .expect("the temporary directory has a plain name")
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may never have been made; a cgroup directory is removed as an empty directory.
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir(&self.0));
    }
}

/// A directory of that kind, with all that is in it.
pub struct Folder(Scratch);

impl Folder {
    pub fn new(stem: &str) -> io::Result<Self> {
        let path = Scratch::path(stem);
        fs::create_dir(&*path)?;
        Ok(Self(path))
    }

    /// As an argument.
    pub fn text(&self) -> &str {
        self.0.text()
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Leftovers do no harm.
        let _ = fs::remove_dir_all(&*self.0);
    }
}

//! A file that is replaced atomically: its old content stays until all of the new one is on disk.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock::Clock;

#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    target: PathBuf,
    /// Renamed to the target at the end; `None` where the target is written to directly.
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Begins to write. A device or a pipe can't be replaced and is written to directly.
    ///
    /// # Errors
    /// Where no file can be made in the target's folder.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        // A symbolic link stays, and what it points to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = fs::metadata(&target).ok();
        if old.as_ref().is_some_and(|old| !old.is_file()) {
            let file = File::options().write(true).open(&target)?;
            return Ok(AtomicFile { file, target, temporary: None });
        }
        let temporary = temporary_beside(&target)?;
        let file = File::create_new(&temporary)?;
        let created = AtomicFile { file, target, temporary: Some(temporary) };
        if let Some(old) = old {
            created.file.set_permissions(old.permissions())?;
        }
        Ok(created)
    }

    /// Whether a file of its own is written first, which an end of the process would leave behind.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Makes what was written durable, and the target's content.
    ///
    /// # Errors
    /// Where it can't be; the target is then as it was.
    pub fn commit(mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return self.file.flush() };
        self.file.sync_all()?;
        fs::rename(temporary, &self.target)?;
        self.temporary = None;
        File::open(folder_of(&self.target))?.sync_all()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// A rename works within one file system only.
fn temporary_beside(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", Clock::system().uuid().simple()));
    Ok(target.with_file_name(hidden))
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_at_the_end_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("sets");
        std::os::unix::fs::symlink(&file, &link).expect("links");

        let mut given_up = AtomicFile::create(&file).expect("creates");
        given_up.write_all(b"half").expect("writes");
        drop(given_up);
        let after_half = fs::read_to_string(&file).expect("reads");
        let mut whole = AtomicFile::create(&link).expect("creates");
        whole.write_all(b"new").expect("writes");
        whole.commit().expect("commits");

        assert_eq!(after_half, "old");
        assert_eq!(fs::read_to_string(&file).expect("reads"), "new");
        assert!(fs::symlink_metadata(&link).expect("is there").is_symlink());
        assert_eq!(fs::metadata(&file).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_device_is_written_to() {
        let mut device = AtomicFile::create(Path::new("/dev/null")).expect("opens");
        device.write_all(b"text").expect("writes");
        device.commit().expect("commits");

        assert!(!fs::metadata("/dev/null").expect("is there").is_file());
        assert!(AtomicFile::create(Path::new("/")).is_err());
    }
}

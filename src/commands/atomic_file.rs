//! A file that is replaced atomically: its old content stays until all of the new one is on disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

#[derive(Debug)]
pub enum AtomicFile {
    /// Written beside the target, which it replaces at the end; removed where it is dropped before.
    Replacing { temporary: NamedTempFile, target: PathBuf },
    /// A device or a pipe, which can't be replaced.
    Direct(File),
}

impl AtomicFile {
    /// Begins to write.
    ///
    /// # Errors
    /// Where no file can be made in the target's folder.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        // A symbolic link stays, and what it points to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let old = fs::metadata(&target).ok();
        if old.as_ref().is_some_and(|old| !old.is_file()) {
            return Ok(AtomicFile::Direct(File::options().write(true).open(&target)?));
        }
        let mut name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&name).suffix(".tmp").permissions(match &old {
            Some(old) => old.permissions(),
            None => new_files_permissions(),
        });
        // A rename works within one file system only.
        let temporary = builder.tempfile_in(folder_of(&target))?;
        if let Some(old) = old {
            // What the process masks of a new file is not masked of this one.
            temporary.as_file().set_permissions(old.permissions())?;
        }
        Ok(AtomicFile::Replacing { temporary, target })
    }

    /// Whether a file of its own is written first, which a killed process would leave behind.
    pub fn is_temporary(&self) -> bool {
        matches!(self, AtomicFile::Replacing { .. })
    }

    /// Makes what was written durable, and the target's content.
    ///
    /// # Errors
    /// Where it can't be; the target is then as it was.
    pub fn commit(self) -> io::Result<()> {
        match self {
            AtomicFile::Direct(mut file) => file.flush(),
            AtomicFile::Replacing { temporary, target } => {
                temporary.as_file().sync_all()?;
                temporary.persist(&target)?;
                File::open(folder_of(&target))?.sync_all()
            }
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            AtomicFile::Replacing { temporary, .. } => temporary.write(bytes),
            AtomicFile::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            AtomicFile::Replacing { temporary, .. } => temporary.flush(),
            AtomicFile::Direct(file) => file.flush(),
        }
    }
}

/// As the process masks them, where a temporary file would be its owner's alone.
fn new_files_permissions() -> fs::Permissions {
    PermissionsExt::from_mode(0o666)
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
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

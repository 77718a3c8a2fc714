//! A copy of the workspace, for the mutants.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use xtask::cargo;

/// The copy, and its build folder. Both stay for the next run, which then has little to build.
pub struct Copy {
    folder: PathBuf,
    /// Locked while this process uses the copy.
    _lock: File,
}

impl Copy {
    /// Brings the copy up to date, from any state.
    ///
    /// # Errors
    /// When another process uses it, or the workspace can't be read.
    pub fn make() -> Result<Self> {
        let folder = cargo::root().join("target/mutants");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_err() {
            bail!("another `cargo xtask mutants` runs in {}", folder.display());
        }
        let copy = Self {
            folder,
            _lock: lock,
        };
        copy.update()?;
        Ok(copy)
    }

    /// The copied workspace.
    pub fn workspace(&self) -> PathBuf {
        self.folder.join("workspace")
    }

    /// Cargo's target folder for the copy.
    pub fn target(&self) -> PathBuf {
        self.folder.join("build")
    }

    /// A file for the output of tests.
    pub fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// The text of a file in the copy.
    pub fn read(&self, file: &Path) -> Result<String> {
        let path = self.workspace().join(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes a file in the copy.
    pub fn write(&self, file: &Path, text: &str) -> Result<()> {
        let path = self.workspace().join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Unchanged files are not written: cargo rebuilds what was touched.
    fn update(&self) -> Result<()> {
        let wanted = files(cargo::root())?;
        for file in &wanted {
            let text = fs::read(cargo::root().join(file))?;
            let path = self.workspace().join(file);
            if fs::read(&path).is_ok_and(|there| there == text) {
                continue;
            }
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        fs::create_dir_all(self.workspace())?;
        for file in files(&self.workspace())?.difference(&wanted) {
            fs::remove_file(self.workspace().join(file))?;
        }
        Ok(())
    }
}

/// All files under `folder` that are not generated.
fn files(folder: &Path) -> Result<HashSet<PathBuf>> {
    let made = [OsStr::new("target"), OsStr::new(".git")];
    let entries = WalkDir::new(folder)
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !made.contains(&entry.file_name()));
    let mut files = HashSet::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.insert(entry.path().strip_prefix(folder)?.to_path_buf());
        }
    }
    Ok(files)
}

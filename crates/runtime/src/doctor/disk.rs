//! Room on file systems.

use std::path::{Path, PathBuf};

use super::{Finding, fault, fine, warning};

/// Space below which writes will soon fail, and space below which somebody should look, in bytes.
const FEW_BYTES: u64 = 64 << 20;
const SCARCE_BYTES: u64 = 512 << 20;

/// A file system.
#[derive(Debug, Clone)]
pub struct DiskFacts {
    /// What lies on it.
    pub path: PathBuf,
    /// Bytes that may be written.
    pub free_bytes: u64,
    /// Files that may be made.
    pub free_inodes: u64,
    /// Files that it can hold; some file systems have no fixed number and say 0.
    pub inodes: u64,
}

/// Looks at the file system of `path`, which need not be there yet: then it will be made on its parent's.
#[must_use]
pub fn gather(path: &Path) -> Option<DiskFacts> {
    let there = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = nix::sys::statvfs::statvfs(there).ok()?;
    Some(DiskFacts {
        path: path.to_owned(),
        free_bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        free_inodes: stat.files_available(),
        inodes: stat.files(),
    })
}

/// What it means.
#[must_use]
pub fn judge(facts: &DiskFacts) -> Vec<Finding> {
    let text = format!("{} MiB are free at {}", facts.free_bytes >> 20, facts.path.display());
    let mut found = vec![match facts.free_bytes {
        ..FEW_BYTES => fault("disk", text, "make room: soon nothing can be stored"),
        FEW_BYTES..SCARCE_BYTES => warning("disk", text, "make room before it gets tight"),
        _ => fine("disk", text),
    }];
    if facts.inodes > 0 && facts.free_inodes < facts.inodes / 100 {
        let text = format!("{} inodes are free at {}", facts.free_inodes, facts.path.display());
        found.push(fault("disk", text, "remove small files"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::judged;
    use super::*;

    #[test]
    fn space_and_inodes() {
        let good =
            DiskFacts { path: PathBuf::from("/d"), free_bytes: 8 << 30, free_inodes: 500, inodes: 1000 };
        judged(&judge(&good), Level::Fine);
        judged(&judge(&DiskFacts { inodes: 0, free_inodes: 0, ..good.clone() }), Level::Fine);
        judged(&judge(&DiskFacts { free_bytes: 100 << 20, ..good.clone() }), Level::Warning);
        judged(&judge(&DiskFacts { free_bytes: 1 << 20, ..good.clone() }), Level::Fault);
        judged(&judge(&DiskFacts { free_inodes: 9, ..good }), Level::Fault);
        assert!(gather(Path::new("/no/such/place")).is_some_and(|facts| facts.free_bytes > 0));
    }
}

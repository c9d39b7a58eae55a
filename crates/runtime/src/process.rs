//! What a daemon does to itself before anything else.

/// The file mode creation mask.
pub mod umask {
    use nix::sys::stat::{Mode, umask};

    /// Makes the mask at least 027: no write for the group, nothing for others. Stricter masks stay as they are.
    pub fn restrict() {
        // The mask can only be read by setting it, so it is strictest in between.
        let old = umask(Mode::from_bits_truncate(0o077));
        umask(old | Mode::from_bits_truncate(0o027));
    }
}

/// Forbids core dumps, and reading of this process' memory by others of the same user: both could hold keys.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_core_dumps() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one and returns it.
///
/// # Errors
/// The kernel refuses.
pub fn raise_open_files() -> std::io::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, umask};

    #[test]
    fn the_umask_only_gets_stricter() {
        for (before, after) in [(0o000, 0o027), (0o022, 0o027), (0o077, 0o077), (0o002, 0o027)] {
            umask(Mode::from_bits_truncate(before));
            super::umask::restrict();
            assert_eq!(umask(Mode::from_bits_truncate(0o022)).bits(), after);
        }
    }
}

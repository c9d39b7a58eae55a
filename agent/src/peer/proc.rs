//! `/proc/PID/stat` and `/proc/PID/status`, as proc(5) describes them. A process chooses its own name, so nothing before the last
//! `)` of stat is looked at, and status is read by whole lines (the kernel escapes newlines in names).

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProc {
    /// No `)` that ends the name.
    #[error("the process name has no end")]
    NoName,
    /// A field or line that must be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that is no number of its size.
    #[error("{0} is not a number")]
    NotANumber(&'static str),
}

/// What is used of stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Field 3: one letter, such as `S`.
    pub state: u8,
    /// Field 22: clock ticks after boot.
    pub start_time: u64,
}

impl Stat {
    /// Whether the process has ended and is not reaped.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Parses `/proc/PID/stat`.
///
/// # Errors
/// The text is not one.
pub fn parse_stat(bytes: &[u8]) -> Result<Stat, BadProc> {
    let end = bytes.iter().rposition(|b| *b == b')').ok_or(BadProc::NoName)?;
    let rest = bytes.get(end + 1..).unwrap_or_default();
    let mut fields = rest.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let state = match fields.next() {
        Some([state]) => *state,
        _ => return Err(BadProc::Missing("the state")),
    };
    // The state is field 3; the start time is field 22.
    let start = fields.nth(18).ok_or(BadProc::Missing("the start time"))?;
    Ok(Stat { state, start_time: number(start).ok_or(BadProc::NotANumber("the start time"))? })
}

/// What is used of status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved and file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and file system group id.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Status {
    /// The effective user id.
    #[must_use]
    pub fn effective_uid(&self) -> u32 {
        let [_, effective, _, _] = self.uids;
        effective
    }

    /// The effective group id.
    #[must_use]
    pub fn effective_gid(&self) -> u32 {
        let [_, effective, _, _] = self.gids;
        effective
    }

    /// The real user id.
    #[must_use]
    pub fn real_uid(&self) -> u32 {
        let [real, _, _, _] = self.uids;
        real
    }
}

/// Parses `/proc/PID/status`. Each line is taken where it stands first.
///
/// # Errors
/// `Uid:`, `Gid:` or `Groups:` is missing or holds something else than ids.
pub fn parse_status(bytes: &[u8]) -> Result<Status, BadProc> {
    let line = |key: &'static str| {
        let mut lines = bytes.split(|b| *b == b'\n');
        lines
            .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b":"))
            .ok_or(BadProc::Missing(key))
    };
    let four = |key: &'static str| -> Result<[u32; 4], BadProc> {
        let ids = ids(line(key)?, key)?;
        <[u32; 4]>::try_from(ids.as_slice()).map_err(|_length| BadProc::NotANumber(key))
    };
    Ok(Status { uids: four("Uid")?, gids: four("Gid")?, groups: ids(line("Groups")?, "Groups")? })
}

fn ids(line: &[u8], key: &'static str) -> Result<Vec<u32>, BadProc> {
    let words = || line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    // Counted first: a list that grows costs several times what it holds.
    let mut ids = Vec::with_capacity(words().count());
    for word in words() {
        let id = number(word).and_then(|n| u32::try_from(n).ok()).ok_or(BadProc::NotANumber(key))?;
        ids.push(id);
    }
    Ok(ids)
}

/// Digits only: no sign, no space.
fn number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAIL: &str = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n";

    #[test]
    fn a_name_cannot_forge_a_field() {
        for name in ["sh", "a) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1 1", "x\ny", ")", "((", "é"] {
            let text = format!("42 ({name}){TAIL}");
            assert_eq!(parse_stat(text.as_bytes()), Ok(Stat { state: b'S', start_time: 4711 }), "{name}");
        }
        let status = b"Name:\tUid:\\n Uid: 0\nUmask:\t0022\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nGroups:\t4 24 27 \nx:\t1\n";
        let parsed = parse_status(status).unwrap();
        assert_eq!((parsed.real_uid(), parsed.effective_uid(), parsed.effective_gid()), (1000, 1001, 6));
        assert_eq!(parsed.groups, [4, 24, 27]);
    }

    #[test]
    fn broken_files_are_refused() {
        for text in [
            "",
            "1 (a",
            "1 (a)",
            "1 (a) SS 1",
            "1 (a) S 1 2 3",
            &format!("1 (a){TAIL}").replace("4711", "-1"),
        ] {
            assert!(parse_stat(text.as_bytes()).is_err(), "{text}");
        }
        for text in [
            "",
            "Uid:\t1 1 1 1\nGid:\t1 1 1 1\n",
            "Uid:\t1 1 1\nGid:\t1 1 1 1\nGroups:\n",
            "Uid:\t1 1 1 x\nGid:\t1 1 1 1\nGroups:\n",
            "Uid:\t1 1 1 4294967296\nGid:\t1 1 1 1\nGroups:\n",
            "Uid:\t1 1 1 1\nGid:\t1 1 1 1\nGroups:\t+4\n",
        ] {
            assert!(parse_status(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn our_own_files_are_read() {
        let stat = parse_stat(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        assert!(stat.start_time > 0 && !stat.is_ended());
        let status = parse_status(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        assert_eq!(status.effective_uid(), nix::unistd::geteuid().as_raw());
    }

    proptest! {
        #[test]
        fn any_name_leaves_the_fields_alone(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut text = b"42 (".to_vec();
            text.extend(&name);
            text.extend(b")");
            text.extend(TAIL.as_bytes());
            prop_assert_eq!(parse_stat(&text), Ok(Stat { state: b'S', start_time: 4711 }));
        }
        #[test]
        fn any_bytes_end_well(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop((parse_stat(&bytes).is_ok(), parse_status(&bytes)));
        }
    }
}

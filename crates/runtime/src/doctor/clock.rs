//! The clock: certificates are judged by it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use super::{Finding, fault, fine, warning};

const CHECK: &str = "clock";
const ADVICE: &str = "set the clock and keep it set by NTP; certificates are judged by it";

/// No clock that is right shows less: 1 November 2026, before this program was made.
const MADE_AFTER: Duration = Duration::from_secs(1_793_491_200);
/// The hardware clock may differ by this much.
const RTC_SLACK: Duration = Duration::from_secs(120);
/// A file may be this much newer than now: network file systems have clocks of their own.
const FILE_SLACK: Duration = Duration::from_secs(60);
/// While the doctor looks, the clock may gain or lose this much against time that passes.
const JUMP: Duration = Duration::from_secs(1);
/// Another machine's clock may differ by this much, besides what the question took.
const PEER_SLACK: Duration = Duration::from_secs(5);
/// How long the system's own tools may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The clock at one moment, beside one that nobody sets.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    wall: SystemTime,
    passed: Instant,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), passed: Instant::now() }
    }
}

/// What is known of the clock.
#[derive(Debug, Clone)]
pub struct ClockFacts {
    /// What it shows.
    pub now: SystemTime,
    /// The hardware clock, where there is one.
    pub rtc: Option<SystemTime>,
    /// Whether the kernel's clock is kept by a time service; `None` when nobody says.
    pub synchronised: Option<bool>,
    /// A file of the daemon's, or the program, that was written later than anything else.
    pub newest: Option<(PathBuf, SystemTime)>,
    /// How far the clock moved while the doctor looked, and how much time passed meanwhile.
    pub moved: (Duration, Duration),
}

/// Looks at the clock. `since` is a moment some time ago, `files` are what the daemon writes.
pub async fn gather(since: Moment, files: &[PathBuf]) -> ClockFacts {
    let rtc = std::fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").ok();
    let rtc = rtc.and_then(|text| text.trim().parse().ok());
    let synchronised = synchronised().await;
    let written = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    let own = std::env::current_exe().ok();
    let newest = own.iter().chain(files).filter_map(|path| Some((path.clone(), written(path)?)));
    let newest = newest.max_by_key(|(_, at)| *at);
    let now = SystemTime::now();
    // A clock that was set back has not moved at all.
    let moved = now.duration_since(since.wall).unwrap_or_default();
    ClockFacts {
        now,
        rtc: rtc.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        synchronised,
        newest,
        moved: (moved, since.passed.elapsed()),
    }
}

/// What the kernel says (adjtimex(2), through systemd's timedated), else what systemd-timesyncd left behind.
async fn synchronised() -> Option<bool> {
    let mut command = tokio::process::Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    if let Ok(Ok(output)) = tokio::time::timeout(PATIENCE, command.output()).await
        && output.status.success()
    {
        match output.stdout.trim_ascii() {
            b"yes" => return Some(true),
            b"no" => return Some(false),
            _ => {}
        }
    }
    let service = Path::new("/run/systemd/timesync");
    service.exists().then(|| service.join("synchronized").exists())
}

/// What it means.
#[must_use]
pub fn judge(facts: &ClockFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let made = SystemTime::UNIX_EPOCH + MADE_AFTER;
    if facts.now < made {
        found.push(fault(CHECK, "the clock shows a time before this program was made", ADVICE));
    } else {
        found.push(fine(CHECK, "the clock shows a possible time"));
    }
    if let Some((path, at)) = &facts.newest
        && at.duration_since(facts.now).is_ok_and(|ahead| ahead > FILE_SLACK)
    {
        let text =
            format!("{} was written at a later time than it is now: the clock was set back", path.display());
        found.push(warning(CHECK, text, ADVICE));
    }
    let (moved, passed) = facts.moved;
    if moved.abs_diff(passed) > JUMP {
        let text = format!(
            "the clock moved by {:.1} s while {:.1} s passed: something sets it",
            moved.as_secs_f64(),
            passed.as_secs_f64()
        );
        found.push(warning(CHECK, text, "let one time service keep it, and let it slew, not step"));
    }
    if let Some(rtc) = facts.rtc {
        let apart = apart(facts.now, rtc);
        if rtc < made {
            found.push(warning(
                CHECK,
                "the hardware clock has lost its time",
                "replace its battery; after a power cut the machine starts with a wrong time",
            ));
        } else if apart > RTC_SLACK {
            found.push(warning(
                CHECK,
                format!("the hardware clock is {} s apart from the system's", apart.as_secs()),
                "write the right time to it: hwclock --systohc",
            ));
        }
    }
    match facts.synchronised {
        Some(true) => found.push(fine(CHECK, "a time service keeps it")),
        Some(false) => found.push(warning(CHECK, "no time service keeps it, or none has set it yet", ADVICE)),
        None => {}
    }
    found
}

/// Another machine's clock: what it showed, and between which two moments of ours.
#[derive(Debug, Clone, Copy)]
pub struct PeerClock {
    /// Before it was asked.
    pub asked: SystemTime,
    /// What it said.
    pub showed: SystemTime,
    /// When its answer was here.
    pub answered: SystemTime,
}

/// Whether `whose` clock is ours.
#[must_use]
pub fn judge_peer(whose: &str, clock: PeerClock) -> Finding {
    let early = clock.asked.duration_since(clock.showed).unwrap_or_default();
    let late = clock.showed.duration_since(clock.answered).unwrap_or_default();
    let (by, which) = if early > late { (early, "behind") } else { (late, "ahead of") };
    if by > PEER_SLACK {
        warning(
            CHECK,
            format!("{whose} clock is {} s {which} this machine's", by.as_secs()),
            "one of the two is wrong: have both set by NTP",
        )
    } else {
        fine(CHECK, format!("{whose} clock agrees with this machine's"))
    }
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::judged;
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn good() -> ClockFacts {
        ClockFacts {
            now: at(NOW),
            rtc: Some(at(NOW + 1)),
            synchronised: Some(true),
            newest: Some((PathBuf::from("/d"), at(NOW + 5))),
            moved: (Duration::from_secs(3), Duration::from_millis(3100)),
        }
    }

    #[test]
    fn each_thing_can_be_wrong() {
        judged(&judge(&good()), Level::Fine);
        judged(&judge(&ClockFacts { rtc: None, synchronised: None, newest: None, ..good() }), Level::Fine);
        for odd in [
            ClockFacts { rtc: Some(at(5)), ..good() },
            ClockFacts { rtc: Some(at(NOW - 500)), ..good() },
            ClockFacts { synchronised: Some(false), ..good() },
            ClockFacts { newest: Some((PathBuf::from("/d"), at(NOW + 3600))), ..good() },
            ClockFacts { moved: (Duration::from_secs(60), Duration::from_secs(2)), ..good() },
            ClockFacts { moved: (Duration::ZERO, Duration::from_secs(2)), ..good() },
        ] {
            judged(&judge(&odd), Level::Warning);
        }
        judged(&judge(&ClockFacts { now: at(100), rtc: None, newest: None, ..good() }), Level::Fault);
    }

    #[test]
    fn another_machines_clock_may_be_wrong_either_way() {
        let clock = |showed| PeerClock { asked: at(NOW), showed: at(showed), answered: at(NOW + 2) };
        for (showed, expected) in [
            (NOW - 5, Level::Fine),
            (NOW + 1, Level::Fine),
            (NOW + 7, Level::Fine),
            (NOW - 6, Level::Warning),
            (NOW + 8, Level::Warning),
        ] {
            judged(&[judge_peer("the database server's", clock(showed))], expected);
        }
        assert!(judge_peer("its", clock(NOW - 90)).text.contains("90 s behind"));
        assert!(judge_peer("its", clock(NOW + 92)).text.contains("90 s ahead"));
    }

    #[tokio::test]
    async fn what_is_written_later_than_now_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(7200)).unwrap();
        let facts = gather(Moment::now(), std::slice::from_ref(&path)).await;
        assert_eq!(facts.newest.as_ref().map(|(path, _)| path), Some(&path));
        assert!(judge(&facts).iter().any(|finding| finding.text.contains("set back")));
    }
}

//! What the kernel says of this process, under the names that Prometheus's own libraries use.

use std::fmt::Write as _;
use std::fs;

/// The lines, empty where the kernel does not tell.
pub(crate) fn render() -> String {
    let mut out = String::new();
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text)) {
        let seconds = stat.ticks / ticks_per_second();
        gauge(
            &mut out,
            "process_resident_memory_bytes",
            "memory in use, bytes",
            stat.resident_pages * page(),
        );
        gauge(&mut out, "process_virtual_memory_bytes", "address space in use, bytes", stat.virtual_bytes);
        gauge(&mut out, "process_threads", "threads", stat.threads);
        // Writing into a String cannot fail, here and below.
        let _ok = writeln!(
            out,
            "# HELP process_cpu_seconds_total processor time spent, seconds\n\
             # TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {seconds}"
        );
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the directory itself.
        let open = u32::try_from(files.count().saturating_sub(1)).unwrap_or(u32::MAX);
        gauge(&mut out, "process_open_fds", "open files", f64::from(open));
    }
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    if let Ok((soft, _)) = limit {
        #[expect(clippy::cast_precision_loss, reason = "what Prometheus reads is a double anyway")]
        gauge(&mut out, "process_max_fds", "most open files", soft as f64);
    }
    out
}

fn gauge(out: &mut String, name: &str, help: &str, value: f64) {
    let _ok = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

struct Stat {
    ticks: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    /// Fields as proc(5) numbers them, from 1; the second is a name in parentheses that may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks.ok().flatten().filter(|ticks| *ticks > 0).unwrap_or(100) as f64
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn page() -> f64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    page.ok().flatten().unwrap_or(4096) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "1 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 7 0 99 4096000 250 184";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.ticks, stat.threads, stat.virtual_bytes, stat.resident_pages),
            (200.0, 7.0, 4_096_000.0, 250.0)
        );
        assert!(Stat::parse("1 (a").is_none());
    }

    #[test]
    fn this_process_is_told() {
        let text = render();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{text}");
        }
    }
}

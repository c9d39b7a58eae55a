//! Flags as SPIRE's commands take them (Go's package `flag`), for commands declared with clap.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::ExitCode;

use clap::{Arg, Command, Parser};

/// Parses a command line, the program's name first, as Go would:
/// - one dash or two, the value after `=` or as the next argument, whatever that looks like (`-hint -x`);
/// - a flag that is given twice counts once, with the last value, if it is not one that may be repeated;
/// - numbers also as `0x10`, `0o20`, `020`, `0b1`, `1_000`; booleans as `-downstream`, `-downstream=false`, `=1`, `=T`;
/// - `-h` and `-help` explain the command, wherever they stand; `-v` behind the program's name is its version.
///
/// Two things that Go does are mistakes here, because they hide a mistake of the caller: an argument that
/// belongs to no flag (Go ignores it and every flag behind it), and a flag of another command.
///
/// Boolean flags are declared with `num_args(0..=1)`, `require_equals(true)`, `default_missing_value("true")`.
///
/// # Errors
/// A command line that is not to be run: help and version are answers, everything else is a mistake.
pub fn parse<C: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<C, Refused> {
    let mut command = C::command().args_override_self(true);
    let (args, no_command) = long_flags(&command, args);
    command
        .try_get_matches_from_mut(args)
        .and_then(|matches| C::from_arg_matches(&matches).map_err(|error| error.format(&mut command)))
        .map_err(|error| {
            let code = match (error.use_stderr(), no_command) {
                (false, _) => 0,
                (true, false) => 1,
                (true, true) => 127,
            };
            Refused { error, code }
        })
}

/// A command line that is not to be run, and what to say instead.
#[derive(Debug)]
pub struct Refused {
    error: clap::Error,
    code: u8,
}

impl Refused {
    /// The exit code, as SPIRE's programs have it: 0 after help and version, 1 after a mistake, 127 where there
    /// is no such command.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Help and version go to standard output, everything else to standard error.
    #[must_use]
    pub fn print(&self) -> ExitCode {
        // Where neither can be written, the exit code has to do.
        drop(self.error.print());
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// The arguments with every flag written as clap wants it: `--name` or `--name=value`. Also whether no command is
/// among them.
fn long_flags(root: &Command, args: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, bool) {
    let mut command = root;
    let mut out = Vec::new();
    let mut args = args.into_iter();
    out.extend(args.next());
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let Some((name, value)) = flag(&arg) else {
            if let Some(below) = arg.to_str().and_then(|name| command.find_subcommand(name)) {
                command = below;
            }
            out.push(arg);
            continue;
        };
        match name {
            "h" | "help" => out.push("--help".into()),
            "v" if std::ptr::eq(command, root) => out.push("--version".into()),
            _ => {
                let known = command.get_arguments().find(|known| known.get_long() == Some(name));
                let value = match (value, known) {
                    (Some(value), known) => Some(known.map_or(value.into(), |known| spelled(known, value))),
                    (None, Some(known)) if wants_value(known) => {
                        args.next().map(|value| spelled(known, &value))
                    }
                    (None, _) => None,
                };
                let mut long = OsString::from("--");
                long.push(name);
                if let Some(value) = value {
                    long.push("=");
                    long.push(value);
                }
                out.push(long);
            }
        }
    }
    (out, std::ptr::eq(command, root))
}

/// Name and value of `-name`, `--name`, `-name=value`, `--name=value`; none for anything else, `-` and `-5` among it.
fn flag(arg: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = arg.as_bytes();
    let bytes = bytes.strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut parts = bytes.splitn(2, |byte| *byte == b'=');
    let name = std::str::from_utf8(parts.next()?).ok()?;
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    Some((name, parts.next().map(OsStr::from_bytes)))
}

/// Whether the value may be the next argument: every flag but the booleans.
fn wants_value(known: &Arg) -> bool {
    known.get_action().takes_values() && known.get_num_args().is_none_or(|range| range.min_values() > 0)
}

/// The value as Rust's parsers read it, where Go's reads more; what neither reads stays for clap to judge.
fn spelled(known: &Arg, value: &OsStr) -> OsString {
    let kind = known.get_value_parser().type_id();
    let is = |id: TypeId| kind == id;
    let Some(text) = value.to_str() else { return value.to_owned() };
    if is(TypeId::of::<bool>()) {
        return match text {
            "1" | "t" | "T" | "TRUE" | "True" => "true".into(),
            "0" | "f" | "F" | "FALSE" | "False" => "false".into(),
            _ => value.to_owned(),
        };
    }
    let numbers = [
        TypeId::of::<i64>(),
        TypeId::of::<i32>(),
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<u16>(),
    ];
    match integer(text) {
        Some(number) if numbers.into_iter().any(is) => number.to_string().into(),
        _ => value.to_owned(),
    }
}

/// An integer as Go's `strconv.ParseInt` with base 0 reads it.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (if text.starts_with('-') { -1 } else { 1 }, digits),
        None => (1, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if digits.is_empty() || digits.starts_with(['-', '+']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    i128::from_str_radix(&digits.replace('_', ""), base).ok().map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use clap::Subcommand;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "p", version)]
    struct Cli {
        #[command(subcommand)]
        command: Top,
    }

    #[derive(Debug, Subcommand)]
    enum Top {
        /// About entries
        Entry {
            #[arg(long = "spiffeID")]
            id: Option<String>,
            #[arg(long = "selector")]
            selectors: Vec<String>,
            #[arg(long, default_value_t = 600)]
            ttl: i64,
            #[arg(long, num_args(0..=1), require_equals(true), default_missing_value("true"))]
            downstream: Option<bool>,
        },
    }

    type Entry = (Option<String>, Vec<String>, i64, Option<bool>);

    fn entry(line: &str) -> Result<Entry, clap::error::ErrorKind> {
        let args = ["p", "entry"].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let Top::Entry { id, selectors, ttl, downstream } =
            parse::<Cli>(args).map_err(|refused| refused.error.kind())?.command;
        Ok((id, selectors, ttl, downstream))
    }

    #[test]
    fn one_dash_two_dashes_and_both_ways_to_give_a_value() {
        for line in ["-spiffeID x", "--spiffeID x", "-spiffeID=x", "--spiffeID=x", "-spiffeID y -spiffeID x"]
        {
            assert_eq!(entry(line).unwrap(), (Some("x".into()), vec![], 600, None), "{line}");
        }
        for value in ["-x", "--spiffeID", "-selector=a", "=", "-", "-5"] {
            assert_eq!(entry(&format!("-spiffeID {value}")).unwrap().0.as_deref(), Some(value));
            assert_eq!(entry(&format!("-spiffeID={value}")).unwrap().0.as_deref(), Some(value));
        }
        assert_eq!(entry("-spiffeID=").unwrap().0.as_deref(), Some(""));
        assert_eq!(entry("-selector a -selector b").unwrap().1, ["a", "b"]);
    }

    #[test]
    fn numbers_and_booleans_as_go_spells_them() {
        for (text, number) in
            [("5", 5), ("-5", -5), ("+5", 5), ("0x10", 16), ("-0x1", -1), ("010", 8), ("0o7", 7), ("0b11", 3)]
        {
            assert_eq!(entry(&format!("-ttl {text}")).unwrap().2, number, "{text}");
        }
        assert_eq!(entry("-ttl 1_000").unwrap().2, 1000);
        for bad in ["x", "", "1__0", "_1_", "0x", "1.5", "--5", "0x_", "9223372036854775808"] {
            assert!(entry(&format!("-ttl={bad}")).is_err(), "{bad}");
        }
        for (text, on) in
            [("", true), ("=true", true), ("=1", true), ("=T", true), ("=0", false), ("=False", false)]
        {
            assert_eq!(entry(&format!("-downstream{text} -ttl 1")).unwrap(), (None, vec![], 1, Some(on)));
        }
        assert_eq!(entry("-downstream -downstream=false").unwrap().3, Some(false));
        assert!(entry("-downstream=yes").is_err());
    }

    #[test]
    fn mistakes_are_told() {
        use clap::error::ErrorKind;
        assert_eq!(entry("-spiffeID").unwrap_err(), ErrorKind::InvalidValue);
        assert_eq!(entry("-nope x").unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(
            entry("-downstream true").unwrap_err(),
            ErrorKind::UnknownArgument,
            "Go would ignore the rest"
        );
        assert_eq!(entry("x -ttl 5").unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(entry("-x").unwrap_err(), ErrorKind::UnknownArgument);
        assert_eq!(entry("-- -ttl").unwrap_err(), ErrorKind::UnknownArgument);
        for help in ["-h", "-help", "--help", "-ttl 5 -h"] {
            assert_eq!(entry(help).unwrap_err(), ErrorKind::DisplayHelp, "{help}");
        }
        for version in ["-v", "-version", "--version"] {
            let refused = parse::<Cli>(["p", version].map(OsString::from)).unwrap_err();
            assert_eq!(refused.error.kind(), ErrorKind::DisplayVersion);
        }
        assert!(parse::<Cli>([]).is_err());
        let code = |line: &str| parse::<Cli>(line.split(' ').map(OsString::from)).unwrap_err().code();
        for (line, expected) in [
            ("p", 127),
            ("p nope", 127),
            ("p -h", 0),
            ("p -v", 0),
            ("p entry -h", 0),
            ("p entry -nope", 1),
            ("p entry x", 1),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }
}

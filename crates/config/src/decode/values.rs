//! Getters of single values and of lists and maps of strings.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Block;
use crate::duration;
use crate::lexer::{float, integer};
use crate::value::Kind;

impl Block<'_> {
    /// A string; a number is taken as written, as HCL 1 does.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => Some(text.clone()),
            _ => self.wrong(key, value, "a string"),
        }
    }

    /// A string that must be there and not empty; the empty text after a fault.
    #[must_use]
    pub fn required_string(&self, key: &str) -> String {
        match self.string(key) {
            Some(text) if !text.is_empty() => text,
            Some(_) => {
                self.fault(key, "must not be empty");
                String::new()
            }
            None if self.has(key) => String::new(),
            None => {
                self.missing(key);
                String::new()
            }
        }
    }

    /// A string, or `default`.
    #[must_use]
    pub fn string_or(&self, key: &str, default: &str) -> String {
        self.string(key).unwrap_or_else(|| default.to_owned())
    }

    /// A string that is wiped when dropped. The document still holds its copy until it is dropped.
    #[must_use]
    pub fn secret(&self, key: &str) -> Option<Zeroizing<String>> {
        self.string(key).map(Zeroizing::new)
    }

    /// A path; it is a fault when it is empty or holds a NUL.
    #[must_use]
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        let text = self.string(key)?;
        if text.is_empty() || text.contains('\0') {
            self.fault(key, "must be a path");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// A path that must be there; the empty path after a fault.
    #[must_use]
    pub fn required_path(&self, key: &str) -> PathBuf {
        if !self.has(key) {
            self.missing(key);
        }
        self.path(key).unwrap_or_default()
    }

    /// A string parsed by its type. The error's text must not hold the value.
    #[must_use]
    pub fn parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Option<T> {
        self.parsed_by(key, str::parse)
    }

    /// A string parsed by a function. The error's text must not hold the value.
    #[must_use]
    pub fn parsed_by<T, E: Display>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => match parse(text) {
                Ok(parsed) => Some(parsed),
                Err(why) => self.bad(key, value, why),
            },
            _ => self.wrong(key, value, "a string"),
        }
    }

    /// As [`Block::parsed`], for a key that must be there.
    #[must_use]
    pub fn required_parsed<T: FromStr<Err: Display>>(&self, key: &str) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.parsed(key)
    }

    /// One of some words, matched without regard to letter case.
    #[must_use]
    pub fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.parsed_by(key, |text| {
            words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
                .ok_or_else(|| {
                    let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                    format!("must be one of {}", words.join(", "))
                })
        })
    }

    /// A boolean: `true` or `false` without quotes.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        match value.kind {
            Kind::Bool(value) => Some(value),
            _ => self.wrong(key, value, "true or false, without quotes"),
        }
    }

    /// A boolean, or `default`.
    #[must_use]
    pub fn bool_or(&self, key: &str, default: bool) -> bool {
        self.bool(key).unwrap_or(default)
    }

    /// An integer; quotes around it are accepted, as HCL 1 does.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Number(text) | Kind::Text(text) => match integer(text) {
                Some(number) => Some(number),
                None => self.bad(key, value, "must be an integer"),
            },
            _ => self.wrong(key, value, "an integer"),
        }
    }

    /// An integer within bounds.
    #[must_use]
    pub fn int_in(&self, key: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.int(key)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.fault(key, format_args!("must be between {} and {}", range.start(), range.end()));
        None
    }

    /// A TCP port, 1 to 65535.
    #[must_use]
    pub fn port(&self, key: &str) -> Option<u16> {
        self.int_in(key, 1..=i64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
    }

    /// A number with or without a fraction.
    #[must_use]
    pub fn float(&self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        match &value.kind {
            #[expect(clippy::cast_precision_loss, reason = "a configured integer is far below 2^53")]
            Kind::Number(text) => match float(text).or_else(|| integer(text).map(|n| n as f64)) {
                Some(number) => Some(number),
                None => self.bad(key, value, "must be a number"),
            },
            _ => self.wrong(key, value, "a number"),
        }
    }

    /// A Go duration in a string (`"1h30m"`).
    #[must_use]
    pub fn duration(&self, key: &str) -> Option<Duration> {
        let value = self.value(key)?;
        match &value.kind {
            Kind::Text(text) | Kind::Number(text) => match duration::parse(text) {
                Ok(duration) => Some(duration),
                Err(why) => self.bad(key, value, why),
            },
            _ => self.wrong(key, value, "a duration such as \"1h30m\""),
        }
    }

    /// A list of strings.
    #[must_use]
    pub fn string_list(&self, key: &str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let Kind::List(list) = &value.kind else { return self.wrong(key, value, "a list of strings") };
        let mut strings = Vec::with_capacity(list.len());
        let mut good = true;
        for element in list {
            match &element.kind {
                Kind::Text(text) | Kind::Number(text) => strings.push(text.clone()),
                _ => {
                    let why = format_args!("a list of strings contains {}", element.kind.name());
                    let _none: Option<()> = self.bad(key, element, why);
                    good = false;
                }
            }
        }
        good.then_some(strings)
    }
}

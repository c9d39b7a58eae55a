//! `-expandEnv`: variables in the text of a configuration file, replaced before it is parsed.

/// Replaces `$NAME` and `${NAME}` by what `lookup` says (nothing: the empty text) and `$$` by `$`.
///
/// The rules are those of the POSIX-like expansion that SPIRE's `-expandEnv` uses: a name is a run of letters, digits and `_`,
/// or one of the special characters `* # $ @ ! ? -` and a digit, or anything between braces; a `$` before anything else stays;
/// `${` without an end and `${}` vanish. Replaced text is not looked at again.
#[must_use]
pub fn expand_env(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let after = after.strip_prefix('$').unwrap_or(after);
        let (name, tail) = name(after);
        rest = tail;
        match name {
            Found::Name("$") => out.push('$'),
            Found::Name(name) => out.push_str(&lookup(name).unwrap_or_default()),
            Found::Nothing => out.push('$'),
            Found::Dropped => {}
        }
    }
    out.push_str(rest);
    out
}

enum Found<'a> {
    Name(&'a str),
    /// No name follows: the dollar sign stays.
    Nothing,
    /// Bad syntax that is eaten.
    Dropped,
}

fn name(text: &str) -> (Found<'_>, &str) {
    if let Some(inner) = text.strip_prefix('{') {
        return match inner.split_once('}') {
            Some(("", tail)) => (Found::Dropped, tail),
            Some((name, tail)) => (Found::Name(name), tail),
            None => (Found::Dropped, inner),
        };
    }
    let special = |c: char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9');
    let end = if text.starts_with(special) {
        1
    } else {
        text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len())
    };
    let (name, tail) = text.split_at(end);
    (if name.is_empty() { Found::Nothing } else { Found::Name(name) }, tail)
}

#[cfg(test)]
mod tests {
    use super::expand_env;

    #[test]
    fn variables_are_replaced_by_the_shells_rules() {
        let lookup = |name: &str| match name {
            "HOME_DIR" => Some("/srv".to_owned()),
            "A" => Some("$A".to_owned()),
            "1" => Some("one".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("d = \"$HOME_DIR/x\"", "d = \"/srv/x\""),
            ("d = \"${HOME_DIR}x\"", "d = \"/srvx\""),
            ("$NOT_SET|${NOT_SET}|", "||"),
            ("price $$5 and $${A}", "price $5 and ${A}"),
            ("$A$A", "$A$A"),
            ("${}", ""),
            ("${A", "A"),
            ("100$ and $%", "100$ and $%"),
            ("$12", "one2"),
            ("é$A", "é$A"),
            ("$", "$"),
        ] {
            assert_eq!(expand_env(text, lookup), expected, "{text}");
        }
    }
}

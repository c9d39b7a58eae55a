//! Statements: a text with `$1` placeholders and the values for them.

use std::borrow::Cow;

use super::Engine;

/// A value to bind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A text.
    Text(Option<String>),
    /// A number; flags are 0 and 1.
    Int(Option<i64>),
    /// Bytes.
    Blob(Option<Vec<u8>>),
}

macro_rules! from {
    ($($type:ty, $value:ident => $made:expr;)*) => { $(
        impl From<$type> for Value {
            fn from($value: $type) -> Self { $made }
        }
    )* };
}
from! {
    &str, text => Self::Text(Some(text.to_owned()));
    &String, text => Self::Text(Some(text.clone()));
    String, text => Self::Text(Some(text));
    Option<&str>, text => Self::Text(text.map(str::to_owned));
    Option<String>, text => Self::Text(text);
    i64, number => Self::Int(Some(number));
    i32, number => Self::Int(Some(number.into()));
    bool, flag => Self::Int(Some(flag.into()));
    Option<i64>, number => Self::Int(number);
    &[u8], bytes => Self::Blob(Some(bytes.to_owned()));
    Vec<u8>, bytes => Self::Blob(Some(bytes));
    &Vec<u8>, bytes => Self::Blob(Some(bytes.clone()));
    Option<&[u8]>, bytes => Self::Blob(bytes.map(<[u8]>::to_owned));
}

/// One statement. Values never become part of the text.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
    locking: bool,
}

/// Begins a statement.
pub(crate) fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    Statement { text: text.into(), values: Vec::new(), locking: false }
}

impl Statement {
    /// The next value, `$1` first.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// More text.
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// The same with a text before it.
    pub(super) fn prefixed(mut self, text: &str) -> Self {
        self.text.to_mut().insert_str(0, text);
        self
    }

    /// A placeholder and its value.
    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        let number = self.values.len();
        self.text.to_mut().push_str(&format!("${number}"));
        self
    }

    /// ` VALUES (..), (..)`: what an `INSERT` of several rows ends with.
    pub(crate) fn push_rows(&mut self, rows: impl IntoIterator<Item = Vec<Value>>) -> &mut Self {
        for (n, row) in rows.into_iter().enumerate() {
            self.push(if n == 0 { " VALUES (" } else { ", (" });
            for (m, value) in row.into_iter().enumerate() {
                self.push(if m == 0 { "" } else { ", " }).push_bind(value);
            }
            self.push(")");
        }
        self
    }

    /// Locks the rows it reads until the transaction ends. SQLite's writer has the whole file locked.
    pub(crate) fn for_update(mut self) -> Self {
        self.locking = true;
        self
    }

    /// The text and the values as the engine wants them: MySQL's placeholders have no numbers.
    pub(super) fn render(self, engine: Engine) -> (String, Vec<Value>) {
        let mut text = self.text.into_owned();
        if self.locking && engine != Engine::Sqlite {
            text.push_str(" FOR UPDATE");
        }
        if engine != Engine::MySql {
            return (text, self.values);
        }
        let (mut rendered, mut values) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            rendered.push_str(before);
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let (number, behind) = after.split_at(digits);
            let value = number.parse::<usize>().ok().and_then(|n| self.values.get(n.checked_sub(1)?));
            if let Some(value) = value {
                rendered.push('?');
                values.push(value.clone());
            } else {
                rendered.push('$');
                rendered.push_str(number);
            }
            rest = behind;
        }
        rendered.push_str(rest);
        (rendered, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_question_marks_with_a_value_each() {
        let statement =
            || sql("UPDATE t SET a = $2 WHERE k = $1 AND a <> $2").bind("k").bind(7_i64).for_update();
        let (text, values) = statement().render(Engine::MySql);
        assert_eq!(text, "UPDATE t SET a = ? WHERE k = ? AND a <> ? FOR UPDATE");
        assert_eq!(values, [7_i64.into(), "k".into(), 7_i64.into()] as [Value; 3]);
        let (text, values) = statement().render(Engine::Sqlite);
        assert_eq!((text.as_str(), values.len()), ("UPDATE t SET a = $2 WHERE k = $1 AND a <> $2", 2));
        let mut built = sql("SELECT 1 WHERE 1 = 1");
        for n in 0..11_i64 {
            built.push(" AND n = ").push_bind(n);
        }
        let (text, values) = built.render(Engine::MySql);
        assert_eq!((text.matches('?').count(), values.len()), (11, 11));
        assert_eq!(values.last(), Some(&Value::Int(Some(10))));
    }
}

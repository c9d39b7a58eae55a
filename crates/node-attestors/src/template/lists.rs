//! Template functions on lists and maps.

use super::functions::{Args, count};
use super::value::Value;
use super::{MAX_OUTPUT, RenderError};

/// Longest list a function may make.
const MAX_ITEMS: usize = 1_024;

/// Calls the function if it is one of these.
pub(super) fn call(args: &mut Args<'_>) -> Result<Option<Value>, RenderError> {
    let name = args.function.strip_prefix("must").map_or(args.function.to_owned(), lower_first);
    let result = match name.as_str() {
        "index" => index(args)?,
        "slice" => slice(args)?,
        "list" => Value::List(args.rest()),
        "first" => args.list()?.into_iter().next().unwrap_or(Value::Nil),
        "last" => args.list()?.pop().unwrap_or(Value::Nil),
        "rest" => Value::List(args.list()?.into_iter().skip(1).collect()),
        "initial" => {
            let mut list = args.list()?;
            list.pop();
            Value::List(list)
        }
        "reverse" => Value::List(args.list()?.into_iter().rev().collect()),
        "uniq" => {
            let mut seen: Vec<Value> = Vec::new();
            for item in args.list()? {
                if !seen.contains(&item) {
                    seen.push(item);
                }
            }
            Value::List(seen)
        }
        "compact" => Value::List(args.list()?.into_iter().filter(Value::is_true).collect()),
        "has" => {
            let needle = args.value()?;
            Value::Bool(args.list()?.contains(&needle))
        }
        "without" => {
            let list = args.list()?;
            let unwanted = args.rest();
            Value::List(list.into_iter().filter(|item| !unwanted.contains(item)).collect())
        }
        "append" | "prepend" => {
            let mut list = args.list()?;
            let item = args.value()?;
            let at = if name == "append" { list.len() } else { 0 };
            list.insert(at, item);
            Value::List(list)
        }
        "concat" => {
            let mut all = Vec::new();
            for value in args.rest() {
                match value {
                    Value::List(list) => all.extend(list),
                    other => return args.fault(format!("expected lists, found {}", other.kind())),
                }
            }
            Value::List(all)
        }
        "sortAlpha" => {
            let mut texts = texts(args.list()?);
            texts.sort();
            texts.into()
        }
        "toStrings" => texts(args.list()?).into(),
        "join" => {
            let separator = args.text()?;
            let joined = match args.value()? {
                Value::List(list) => texts(list).join(&separator),
                other => other.text(),
            };
            Value::Str(joined)
        }
        "splitList" => {
            let (separator, text) = (args.text()?, args.text()?);
            if separator.is_empty() {
                text.chars().map(String::from).collect::<Vec<_>>().into()
            } else {
                text.split(&separator).map(str::to_owned).collect::<Vec<_>>().into()
            }
        }
        "keys" | "values" | "get" | "hasKey" => map(args)?,
        _ => return Ok(None),
    };
    match &result {
        Value::List(list) if list.len() > MAX_ITEMS.max(MAX_OUTPUT) => Err(RenderError::TooMuch),
        _ => Ok(Some(result)),
    }
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

fn texts(list: Vec<Value>) -> Vec<String> {
    list.iter().filter(|item| **item != Value::Nil).map(Value::text).collect()
}

fn map(args: &mut Args<'_>) -> Result<Value, RenderError> {
    let map = match args.value()? {
        Value::Map(map) => map,
        other => return args.fault(format!("expected a map, found {}", other.kind())),
    };
    Ok(match args.function {
        // Sorted, where sprig gives them in any order.
        "keys" => map.into_keys().collect::<Vec<_>>().into(),
        "values" => Value::List(map.into_values().collect()),
        "get" => map.get(&args.text()?).cloned().unwrap_or_else(|| Value::Str(String::new())),
        _ => Value::Bool(map.contains_key(&args.text()?)),
    })
}

/// `index x i j` is x[i][j]. A missing key of a map gives an empty text, an index out of range an error.
fn index(args: &mut Args<'_>) -> Result<Value, RenderError> {
    let mut value = args.value()?;
    for at in args.rest() {
        value = match (value, at) {
            (Value::Map(mut map), Value::Str(key)) => {
                map.remove(&key).unwrap_or_else(|| Value::Str(String::new()))
            }
            (Value::List(list), Value::Int(at)) => match usize::try_from(at).ok().and_then(|at| list.get(at))
            {
                Some(item) => item.clone(),
                None => return args.fault(format!("index {at} is out of range, there are {}", list.len())),
            },
            (Value::Str(text), Value::Int(at)) => byte(args, text.as_bytes(), at)?,
            (Value::Bytes(bytes), Value::Int(at)) => byte(args, &bytes, at)?,
            (value, at) => return args.fault(format!("cannot index {} with {}", value.kind(), at.kind())),
        };
    }
    Ok(value)
}

fn byte(args: &Args<'_>, bytes: &[u8], at: i64) -> Result<Value, RenderError> {
    match usize::try_from(at).ok().and_then(|at| bytes.get(at)) {
        Some(byte) => Ok(Value::Int((*byte).into())),
        None => args.fault(format!("index {at} is out of range, there are {}", bytes.len())),
    }
}

/// `slice x 1 2` is x[1:2].
fn slice(args: &mut Args<'_>) -> Result<Value, RenderError> {
    let value = args.value()?;
    let bounds = args.rest();
    let length = match &value {
        Value::Str(text) => text.len(),
        Value::List(list) => list.len(),
        other => return args.fault(format!("cannot slice {}", other.kind())),
    };
    let (from, to) = match bounds.as_slice() {
        [] => (Value::Int(0), count(length)),
        [from] => (from.clone(), count(length)),
        [from, to] => (from.clone(), to.clone()),
        _ => return args.fault("too many arguments"),
    };
    let (Value::Int(from), Value::Int(to)) = (from, to) else {
        return args.fault("the bounds must be numbers");
    };
    let range = match (usize::try_from(from), usize::try_from(to)) {
        (Ok(from), Ok(to)) => from..to,
        _ => return args.fault("a bound is negative"),
    };
    let part = match value {
        Value::Str(text) => text.get(range).map(Value::from),
        Value::List(list) => list.get(range).map(|part| Value::List(part.to_vec())),
        _ => None,
    };
    match part {
        Some(part) => Ok(part),
        None => args.fault(format!("the range does not lie within the {length} there are")),
    }
}

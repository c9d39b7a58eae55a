//! Claims of a token as the protobuf structure that ValidateJWTSVID answers with.

use std::collections::BTreeSet;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// How deep claims may nest; deeper ones are left out. Protobuf clients refuse more than 100 levels.
const MAX_DEPTH: usize = 32;

/// Claims of a token of another trust domain: sub, exp and aud, and those that are allowed by name.
pub(super) fn foreign(claims: Map<String, Json>, allowed: &BTreeSet<String>) -> Map<String, Json> {
    let keep = |name: &String| matches!(name.as_str(), "sub" | "exp" | "aud") || allowed.contains(name);
    claims.into_iter().filter(|(name, _)| keep(name)).collect()
}

/// The structure; `aud` is always a list.
pub(super) fn to_struct(mut claims: Map<String, Json>) -> Struct {
    if let Some(Json::String(audience)) = claims.get("aud") {
        let list = Json::Array(vec![Json::String(audience.clone())]);
        claims.insert("aud".to_owned(), list);
    }
    object(claims, 0)
}

fn object(map: Map<String, Json>, depth: usize) -> Struct {
    let fields = map.into_iter().filter_map(|(name, json)| Some((name, value(json, depth + 1)?))).collect();
    Struct { fields }
}

fn value(json: Json, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64()?),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(list) => {
            let values = list.into_iter().filter_map(|json| value(json, depth + 1)).collect();
            Kind::ListValue(ListValue { values })
        }
        Json::Object(map) => Kind::StructValue(object(map, depth)),
    };
    Some(Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Map<String, Json> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn claims_keep_their_kinds_and_audiences_are_lists() {
        let made = to_struct(claims(r#"{"aud":"a","exp":5,"x":[true,null,{"y":"z"}]}"#));
        let Some(Kind::ListValue(audience)) = &made.fields["aud"].kind else { panic!("a list") };
        assert_eq!(audience.values[0].kind, Some(Kind::StringValue("a".into())));
        assert_eq!(made.fields["exp"].kind, Some(Kind::NumberValue(5.0)));
        let Some(Kind::ListValue(list)) = &made.fields["x"].kind else { panic!("a list") };
        assert_eq!(list.values.len(), 3);
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        to_struct(claims(&format!("{{\"deep\":{deep}}}")));
    }

    #[test]
    fn foreign_tokens_show_only_what_is_allowed() {
        let all = claims(r#"{"sub":"s","exp":1,"aud":["a"],"iss":"i","mail":"m"}"#);
        let allowed = BTreeSet::from(["mail".to_owned()]);
        let names: Vec<String> = foreign(all, &allowed).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["aud", "exp", "mail", "sub"]);
    }
}

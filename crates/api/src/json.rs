//! Protobuf JSON as SPIRE's commands print it: snake_case names, unpopulated fields included, 64-bit
//! integers as text, bytes as base64 (ProtoJSON).

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::FILE_DESCRIPTOR_SET;

/// Why a message could not be shown as JSON.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The compiled-in descriptors do not know the message.
    #[error("no message {name} in the compiled-in descriptors")]
    Unknown {
        /// Full name that was asked for.
        name: String,
    },
    /// The descriptors themselves do not load.
    #[error("the compiled-in descriptors do not load: {reason}")]
    Descriptors {
        /// What the loader said.
        reason: String,
    },
    /// The bytes are not such a message.
    #[error("decoding {name}")]
    Decode {
        /// Full name of the message.
        name: String,
        /// The decoder's error.
        #[source]
        cause: prost::DecodeError,
    },
    /// The JSON writer failed.
    #[error("writing {name} as JSON")]
    Write {
        /// Full name of the message.
        name: String,
        /// The writer's error.
        #[source]
        cause: serde_json::Error,
    },
}

fn pool() -> Result<&'static DescriptorPool, JsonError> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|reason| JsonError::Descriptors { reason: reason.clone() })
}

/// Shows `message`, whose full protobuf name is `name` (`spire.api.types.Entry`), as JSON.
///
/// # Errors
/// `name` is unknown, or `message` is not of that type.
pub fn to_json<M: Message>(name: &str, message: &M) -> Result<serde_json::Value, JsonError> {
    let descriptor =
        pool()?.get_message_by_name(name).ok_or_else(|| JsonError::Unknown { name: name.to_owned() })?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|cause| JsonError::Decode { name: name.to_owned(), cause })?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|cause| JsonError::Write { name: name.to_owned(), cause })
}

/// Reads JSON into the message whose full name is `name`; both snake_case and camelCase names are taken.
///
/// # Errors
/// `name` is unknown, or the JSON does not fit it (unknown fields included).
pub fn from_json<M: Message + Default>(name: &str, json: &serde_json::Value) -> Result<M, JsonError> {
    let descriptor =
        pool()?.get_message_by_name(name).ok_or_else(|| JsonError::Unknown { name: name.to_owned() })?;
    let dynamic = DynamicMessage::deserialize(descriptor, json)
        .map_err(|cause| JsonError::Write { name: name.to_owned(), cause })?;
    M::decode(dynamic.encode_to_vec().as_slice())
        .map_err(|cause| JsonError::Decode { name: name.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spire::api::types::{Entry, Selector, Spiffeid};

    #[test]
    fn names_are_snake_case_and_unset_fields_are_shown() {
        let entry = Entry {
            id: "e1".into(),
            spiffe_id: Some(Spiffeid { trust_domain: "example.org".into(), path: "/a".into() }),
            selectors: vec![Selector { r#type: "unix".into(), value: "uid:0".into() }],
            created_at: 7,
            ..Entry::default()
        };
        let json = to_json("spire.api.types.Entry", &entry).unwrap();
        assert_eq!(json["spiffe_id"]["trust_domain"], "example.org");
        assert_eq!(json["created_at"], "7", "64-bit integers are text");
        assert_eq!(json["x509_svid_ttl"], 0);
        assert_eq!(json["federates_with"], serde_json::json!([]));
        assert_eq!(json["parent_id"], serde_json::Value::Null);
        assert_eq!(from_json::<Entry>("spire.api.types.Entry", &json).unwrap(), entry);
    }

    #[test]
    fn unknown_names_and_fields_are_errors() {
        assert!(matches!(to_json("no.Such", &Entry::default()), Err(JsonError::Unknown { .. })));
        let json = serde_json::json!({ "no_such_field": 1 });
        assert!(from_json::<Entry>("spire.api.types.Entry", &json).is_err());
    }
}

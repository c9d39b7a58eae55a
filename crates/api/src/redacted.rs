//! Debug for messages with secrets: what they are about and how long the secret is, never the secret.

use std::fmt::{Debug, Formatter, Result};

use crate::spire::api::agent::delegatedidentity::v1::X509svidWithKey;
use crate::spire::api::server::agent::v1::CreateJoinTokenRequest;
use crate::spire::api::types;
use crate::workload;

struct Hidden(usize);

impl Debug for Hidden {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// `redacted!(Type { shown fields } hidden { hidden fields })`.
macro_rules! redacted {
    ($type:ty, [$($shown:ident),*], [$($hidden:ident),*]) => {
        impl Debug for $type {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct(stringify!($type))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($hidden), &Hidden(self.$hidden.len())))*
                    .finish()
            }
        }
    };
}

redacted!(workload::X509svid, [spiffe_id, hint], [x509_svid, x509_svid_key, bundle]);
redacted!(workload::Jwtsvid, [spiffe_id, hint], [svid]);
redacted!(workload::Witsvid, [spiffe_id, hint], [wit_svid, wit_svid_key]);
redacted!(workload::ValidateJwtsvidRequest, [audience], [svid]);
redacted!(X509svidWithKey, [x509_svid], [x509_svid_key]);
redacted!(types::JoinToken, [expires_at], [value]);
redacted!(types::Jwtsvid, [id, expires_at, issued_at, hint], [token]);
redacted!(types::Witsvid, [id, expires_at, issued_at, hint], [token]);
redacted!(types::AttestationData, [r#type], [payload]);
redacted!(CreateJoinTokenRequest, [ttl, agent_id], [token]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_ever_printed() {
        let key = b"-secret-".to_vec();
        let text = "-secret-".to_owned();
        let shown = [
            format!("{:?}", workload::X509svid { x509_svid_key: key.clone(), ..Default::default() }),
            format!("{:?}", workload::Jwtsvid { svid: text.clone(), ..Default::default() }),
            format!("{:?}", workload::Witsvid { wit_svid_key: text.clone(), ..Default::default() }),
            format!("{:?}", workload::ValidateJwtsvidRequest { svid: text.clone(), ..Default::default() }),
            format!("{:?}", X509svidWithKey { x509_svid_key: key.clone(), ..Default::default() }),
            format!("{:?}", types::JoinToken { value: text.clone(), ..Default::default() }),
            format!("{:?}", types::Jwtsvid { token: text.clone(), ..Default::default() }),
            format!("{:?}", types::AttestationData { payload: key, ..Default::default() }),
            format!("{:?}", CreateJoinTokenRequest { token: text, ..Default::default() }),
        ];
        for text in shown {
            assert!(!text.contains("secret") && !text.contains("45, 115"), "{text}");
            assert!(text.contains("<8 bytes>"), "{text}");
        }
    }
}

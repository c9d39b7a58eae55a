//! `api fetch jwt` and `api validate jwt`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hardroot_api::json::to_json;
use hardroot_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use hardroot_config::duration;
use hardroot_runtime::cli::{Output, print, print_json, printable};
use serde_json::Value;
use tonic::Code;
use zeroize::Zeroizing;

use super::api::{DEFAULT_TIMEOUT, Failed, client, next, outcome, request, within};
use super::socket::SocketArgs;

#[derive(Debug, Args)]
pub(super) struct FetchJwtArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Comma separated list of audiences
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    audience: Vec<String>,
    /// The identity to fetch a token for; all that this program has unless one is named
    #[arg(long = "spiffeID", value_name = "ID", default_value = "")]
    spiffe_id: String,
    /// How long to wait for each answer, such as 5s; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TIMEOUT, value_parser = duration::parse)]
    timeout: Duration,
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t, alias = "format")]
    output: Output,
}

#[derive(Debug, Subcommand)]
pub(super) enum ValidateCommand {
    /// Validates a JWT-SVID
    Jwt(ValidateArgs),
}

#[derive(Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// The audience that the token must be for
    #[arg(long, value_name = "NAME", default_value = "")]
    audience: String,
    /// The JWT-SVID
    #[arg(long, value_name = "TOKEN", default_value = "")]
    svid: String,
    /// How long to wait for the answer, such as 5s; 0 for ever
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_TIMEOUT, value_parser = duration::parse)]
    timeout: Duration,
    /// pretty or json
    #[arg(long, value_name = "FORMAT", default_value_t)]
    output: Output,
}

impl std::fmt::Debug for ValidateArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValidateArgs").field("audience", &self.audience).finish_non_exhaustive()
    }
}

pub(super) async fn fetch(args: &FetchJwtArgs) -> Result<(), Failed> {
    if args.audience.is_empty() {
        return Err(Failed::Missing("audience"));
    }
    let mut client = client(&args.socket.path()?).await?;
    let mut bundles = client.clone();
    let bundles = within(args.timeout, async {
        let mut stream = bundles.fetch_jwt_bundles(request(JwtBundlesRequest {})).await?.into_inner();
        next(&mut stream).await
    })
    .await?;
    let asked = JwtsvidRequest { audience: args.audience.clone(), spiffe_id: args.spiffe_id.clone() };
    let svids =
        within(args.timeout, async { Ok(client.fetch_jwtsvid(request(asked)).await?.into_inner()) }).await?;
    match args.output {
        Output::Json => {
            let both = [to_json("JWTSVIDResponse", &svids)?, to_json("JWTBundlesResponse", &bundles)?];
            print_json(&Value::Array(both.into()))?;
        }
        Output::Pretty => print(&pretty(&svids, &bundles))?,
    }
    Ok(())
}

/// SPIRE's output for people, line for line.
fn pretty(svids: &JwtsvidResponse, bundles: &JwtBundlesResponse) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    for svid in &svids.svids {
        let id = printable(&svid.spiffe_id);
        out.push_str(&format!("token({id}):\n\t{}\n", printable(&svid.svid)));
        if !svid.hint.is_empty() {
            out.push_str(&format!("hint({id}):\n\t{}\n", printable(&svid.hint)));
        }
    }
    for (id, jwks) in &bundles.bundles {
        let jwks = String::from_utf8_lossy(jwks);
        // A document may have line breaks of its own, which SPIRE shows as they are.
        let jwks: String = jwks.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        out.push_str(&format!("bundle({}):\n\t{jwks}\n", printable(id)));
    }
    out
}

pub(super) async fn validate(command: ValidateCommand) -> ExitCode {
    let ValidateCommand::Jwt(args) = command;
    outcome(try_validate(&args).await)
}

async fn try_validate(args: &ValidateArgs) -> Result<(), Failed> {
    if args.audience.is_empty() {
        return Err(Failed::Missing("audience"));
    }
    if args.svid.is_empty() {
        return Err(Failed::Missing("svid"));
    }
    let mut client = client(&args.socket.path()?).await?;
    let asked = ValidateJwtsvidRequest { audience: args.audience.clone(), svid: args.svid.clone() };
    let answer =
        within(args.timeout, async { Ok(client.validate_jwtsvid(request(asked)).await?.into_inner()) }).await;
    let answer = match answer {
        Err(Failed::Call(status)) if status.code() == Code::InvalidArgument => {
            return Err(Failed::NotValid(status.message().to_owned()));
        }
        other => other?,
    };
    let json = whole(to_json("ValidateJWTSVIDResponse", &answer)?);
    match args.output {
        Output::Json => print_json(&json)?,
        Output::Pretty => print(&valid(&answer, &json))?,
    }
    Ok(())
}

/// Claims come as floating point numbers; times are shown as the whole numbers they are.
fn whole(json: Value) -> Value {
    match json {
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(name, value)| (name, whole(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(whole).collect()),
        Value::Number(number) => match format!("{:.0}", number.as_f64().unwrap_or_default()).parse::<i64>() {
            // Up to here every whole number has its own floating point number.
            Ok(integer)
                if integer.unsigned_abs() < 1 << 53 && number.as_f64() == Value::from(integer).as_f64() =>
            {
                integer.into()
            }
            _ => Value::Number(number),
        },
        other => other,
    }
}

fn valid(answer: &ValidateJwtsvidResponse, json: &Value) -> String {
    let claims = json.get("claims").cloned().unwrap_or_default();
    format!("SVID is valid.\nSPIFFE ID : {}\nClaims    : {claims}\n", printable(&answer.spiffe_id))
}

#[cfg(test)]
mod tests {
    use hardroot_api::workload::Jwtsvid;
    use prost_types::value::Kind;

    use super::*;

    #[test]
    fn the_pretty_output_is_spires() {
        let svid =
            |id: &str, hint: &str| Jwtsvid { spiffe_id: id.into(), svid: "a.b.c".into(), hint: hint.into() };
        let svids = JwtsvidResponse {
            svids: vec![svid("spiffe://example.org/a", "internal"), svid("spiffe://example.org/b", "")],
        };
        let bundles = [("spiffe://example.org".to_owned(), b"{\n \"keys\": []\n}\x1b".to_vec())].into();
        assert_eq!(
            *pretty(&svids, &JwtBundlesResponse { bundles }),
            "token(spiffe://example.org/a):\n\ta.b.c\nhint(spiffe://example.org/a):\n\tinternal\n\
             token(spiffe://example.org/b):\n\ta.b.c\nbundle(spiffe://example.org):\n\t{\n \"keys\": []\n}\n"
        );
    }

    #[test]
    fn a_valid_token_is_shown_with_its_claims() {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let audience = prost_types::ListValue { values: vec![value(Kind::StringValue("me".into()))] };
        let fields = [
            ("aud".to_owned(), value(Kind::ListValue(audience))),
            ("exp".to_owned(), value(Kind::NumberValue(1_800_000_000.0))),
        ];
        let claims = Some(prost_types::Struct { fields: fields.into() });
        let answer = ValidateJwtsvidResponse { spiffe_id: "spiffe://example.org/a".into(), claims };
        let json = whole(to_json("ValidateJWTSVIDResponse", &answer).unwrap());
        assert_eq!(
            valid(&answer, &json),
            "SVID is valid.\nSPIFFE ID : spiffe://example.org/a\nClaims    : {\"aud\":[\"me\"],\"exp\":1800000000}\n"
        );
    }

    #[test]
    fn only_whole_numbers_are_shown_as_such() {
        let shown = |json: Value| whole(json).to_string();
        assert_eq!(
            shown(serde_json::json!({"a": [1.0, 1.5, -3.0, true, "x"]})),
            r#"{"a":[1,1.5,-3,true,"x"]}"#
        );
        assert_eq!(shown(serde_json::json!(1e300)), "1e+300");
    }
}

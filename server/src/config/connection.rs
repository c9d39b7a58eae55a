//! Connection strings as SPIRE's configurations have them: libpq's `key=value` and URLs for PostgreSQL, Go's
//! `user:password@tcp(host:port)/database?…` and URLs for MySQL. No error repeats a value.

use std::path::PathBuf;

use hardroot_runtime::secret::Secret;

use crate::datastore::{Endpoint, Host, Tls};

/// Why a connection string is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadConnection(pub(super) String);

fn bad<T>(why: impl Into<String>) -> Result<T, BadConnection> {
    Err(BadConnection(why.into()))
}

fn blank(tls: Tls) -> Endpoint {
    Endpoint {
        host: Host::Tcp { name: String::new(), port: 0 },
        user: None,
        password: None,
        password_in_config: false,
        password_file: None,
        database: String::new(),
        tls,
        root_ca: None,
        client: None,
    }
}

fn secret(text: String) -> Option<Secret> {
    (!text.is_empty()).then(|| Secret::new(text.into_bytes()))
}

/// The parts of `scheme://user:password@host:port/database?key=value&…`.
struct Url {
    user: Option<String>,
    password: Option<String>,
    host: String,
    port: Option<u16>,
    database: String,
    parameters: Vec<(String, String)>,
}

fn unescape(text: &str) -> Result<String, BadConnection> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| hex::decode(digits).ok());
        let (Some(decoded), Some(after)) = (digits, after.get(2..)) else {
            return bad("has a % that two hexadecimal digits do not follow");
        };
        bytes.extend(decoded);
        rest = after;
    }
    String::from_utf8(bytes).or_else(|_error| bad("is not UTF-8 after its % escapes are replaced"))
}

fn parameters(text: &str) -> Result<Vec<(String, String)>, BadConnection> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((unescape(key)?, unescape(value)?)),
            None => bad("has a parameter without ="),
        })
        .collect()
}

fn url(text: &str) -> Result<Url, BadConnection> {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (Some(unescape(user)?), Some(unescape(password)?)),
        None => (None, None),
    };
    if place.contains(',') {
        return bad("names several hosts; one is supported");
    }
    let (host, port) = host_and_port(place)?;
    let (host, database) = (unescape(&host)?, unescape(database)?);
    let user = user.filter(|user| !user.is_empty());
    Ok(Url { user, password, host, port, database, parameters: parameters(query)? })
}

/// `host`, `host:port`, `[::1]:port`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), BadConnection> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => bad("has a port that is not a number from 1 to 65535"),
    };
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => Ok((host.to_owned(), None)),
            Some((host, after)) => Ok((host.to_owned(), port(after.strip_prefix(':').unwrap_or(after))?)),
            None => bad("has a [ without ]"),
        };
    }
    match text.rsplit_once(':') {
        Some((host, number)) if !host.contains(':') => Ok((host.to_owned(), port(number)?)),
        _ => Ok((text.to_owned(), None)),
    }
}

/// A PostgreSQL connection string; `sslmode` is `require` unless it says otherwise, as SPIRE's driver has it.
pub(super) fn postgres(text: &str) -> Result<Endpoint, BadConnection> {
    let mut pairs = Vec::new();
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    if let Some(rest) = rest {
        let url = url(rest)?;
        pairs.push(("host".to_owned(), url.host));
        pairs.extend(url.port.map(|port| ("port".to_owned(), port.to_string())));
        pairs.extend(url.user.map(|user| ("user".to_owned(), user)));
        pairs.extend(url.password.map(|password| ("password".to_owned(), password)));
        pairs.push(("dbname".to_owned(), url.database));
        pairs.extend(url.parameters);
    } else {
        pairs = libpq(text)?;
    }
    let mut endpoint = blank(Tls::Require);
    let (mut host, mut port, mut mode) = (String::new(), 5432_u16, None);
    let (mut certificate, mut key) = (None, None);
    for (name, value) in pairs {
        match name.as_str() {
            "host" | "hostaddr" if value.is_empty() => {}
            "host" | "hostaddr" if value.contains(',') => {
                return bad("names several hosts; one is supported");
            }
            "host" | "hostaddr" => host = value,
            "port" => match value.parse() {
                Ok(number) if number != 0 => port = number,
                _ => return bad("has a port that is not a number from 1 to 65535"),
            },
            "user" => endpoint.user = Some(value),
            "password" => endpoint.password = secret(value),
            "dbname" => endpoint.database = value,
            "sslmode" => {
                mode = Some(match value.as_str() {
                    "disable" => Tls::Disable,
                    "allow" | "prefer" => Tls::Prefer,
                    "require" => Tls::Require,
                    "verify-ca" | "verify-full" => Tls::Verify,
                    _ => {
                        return bad(
                            "has an sslmode that is none of disable, prefer, require, verify-ca, verify-full",
                        );
                    }
                });
            }
            "sslrootcert" => endpoint.root_ca = Some(PathBuf::from(value)),
            "sslcert" => certificate = Some(PathBuf::from(value)),
            "sslkey" => key = Some(PathBuf::from(value)),
            // They change nothing that matters here.
            "application_name" | "fallback_application_name" | "connect_timeout" | "binary_parameters" => {}
            _ => return bad(format!("has the parameter {}, which is not supported", name.escape_default())),
        }
    }
    endpoint.client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return bad("has one of sslcert and sslkey; they belong together"),
    };
    if endpoint.database.is_empty() {
        return bad("needs dbname, the name of the database");
    }
    endpoint.host = if host.starts_with('/') {
        endpoint.tls = Tls::Disable;
        Host::Socket(host.into())
    } else {
        endpoint.tls = mode.unwrap_or(Tls::Require);
        Host::Tcp { name: if host.is_empty() { "localhost".to_owned() } else { host }, port }
    };
    Ok(endpoint)
}

/// `key=value key='value with spaces' …`, with `\` before a character that counts as itself.
fn libpq(text: &str) -> Result<Vec<(String, String)>, BadConnection> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return bad("is neither key=value pairs nor a URL that begins with postgres://");
        };
        let mut characters = after.trim_start().chars();
        let quoted = characters.as_str().starts_with('\'');
        if quoted {
            characters.next();
        }
        let (mut value, mut closed) = (String::new(), !quoted);
        while let Some(character) = characters.next() {
            match character {
                '\\' => value.extend(characters.next()),
                '\'' if quoted => {
                    closed = true;
                    break;
                }
                space if !quoted && space.is_whitespace() => break,
                other => value.push(other),
            }
        }
        if !closed {
            return bad("has a ' that is not closed");
        }
        pairs.push((name.trim().to_owned(), value));
        rest = characters.as_str().trim_start();
    }
    Ok(pairs)
}

/// A MySQL connection string.
pub(super) fn mysql(text: &str) -> Result<Endpoint, BadConnection> {
    let mut endpoint = blank(Tls::Prefer);
    let parameters =
        if let Some(rest) = text.strip_prefix("mysql://").or_else(|| text.strip_prefix("mariadb://")) {
            let url = url(rest)?;
            endpoint.user = url.user;
            endpoint.password = url.password.and_then(secret);
            endpoint.database = url.database;
            let name = if url.host.is_empty() { "localhost".to_owned() } else { url.host };
            endpoint.host = Host::Tcp { name, port: url.port.unwrap_or(3306) };
            url.parameters
        } else {
            go_mysql(text, &mut endpoint)?
        };
    for (name, value) in parameters {
        match name.as_str() {
            "tls" | "ssl-mode" | "ssl_mode" => {
                endpoint.tls = match value.to_ascii_lowercase().as_str() {
                    "false" | "disabled" => Tls::Disable,
                    "preferred" => Tls::Prefer,
                    "skip-verify" | "required" => Tls::Require,
                    "true" | "verify_ca" | "verify_identity" => Tls::Verify,
                    _ => return bad("has a tls that is none of true, false, preferred, skip-verify"),
                }
            }
            "socket" => endpoint.host = Host::Socket(value.into()),
            // They set up SPIRE's driver, or change nothing that matters here.
            "parseTime"
            | "loc"
            | "charset"
            | "collation"
            | "timeout"
            | "readTimeout"
            | "writeTimeout"
            | "maxAllowedPacket"
            | "multiStatements"
            | "interpolateParams"
            | "checkConnLiveness"
            | "allowNativePasswords"
            | "clientFoundRows"
            | "columnsWithAlias"
            | "rejectReadOnly" => {}
            _ => return bad(format!("has the parameter {}, which is not supported", name.escape_default())),
        }
    }
    if endpoint.database.is_empty() {
        return bad("needs the name of the database after the /");
    }
    if matches!(endpoint.host, Host::Socket(_)) {
        endpoint.tls = Tls::Disable;
    }
    Ok(endpoint)
}

/// `[user[:password]@][protocol[(address)]]/database[?parameters]`; a password may contain `@`, `/` and `:`.
fn go_mysql(text: &str, endpoint: &mut Endpoint) -> Result<Vec<(String, String)>, BadConnection> {
    let Some((left, right)) = text.rsplit_once('/') else {
        return bad("is neither user:password@tcp(host:port)/database nor a URL that begins with mysql://");
    };
    let (database, query) = right.split_once('?').unwrap_or((right, ""));
    endpoint.database = unescape(database)?;
    let (login, place) = match left.rsplit_once('@') {
        Some((login, place)) => (login, place),
        None => ("", left),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    endpoint.user = (!user.is_empty()).then(|| user.to_owned());
    endpoint.password = secret(password.to_owned());
    let (protocol, address) = match place.split_once('(') {
        Some((protocol, address)) => match address.strip_suffix(')') {
            Some(address) => (protocol, address),
            None => return bad("has a ( without ) before the /"),
        },
        None => (place, ""),
    };
    endpoint.host = match protocol {
        "tcp" | "" => {
            let (name, port) = host_and_port(address)?;
            let name = if name.is_empty() { "localhost".to_owned() } else { name };
            Host::Tcp { name, port: port.unwrap_or(3306) }
        }
        "unix" => Host::Socket(if address.is_empty() { "/tmp/mysql.sock" } else { address }.into()),
        _ => return bad("has a protocol that is neither tcp nor unix"),
    };
    parameters(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, port: u16) -> Host {
        Host::Tcp { name: name.to_owned(), port }
    }

    fn password(endpoint: &Endpoint) -> Option<&str> {
        endpoint.password.as_ref().and_then(Secret::expose_str)
    }

    #[test]
    fn spires_examples_are_read() {
        let e = postgres("dbname=postgres user=postgres password=password host=localhost sslmode=disable")
            .unwrap();
        assert_eq!(
            (&e.host, e.tls, e.database.as_str()),
            (&tcp("localhost", 5432), Tls::Disable, "postgres")
        );
        assert_eq!((e.user.as_deref(), password(&e)), (Some("postgres"), Some("password")));
        let e = mysql("username:password@tcp(localhost:3306)/dbname?parseTime=true").unwrap();
        assert_eq!((&e.host, e.tls, e.database.as_str()), (&tcp("localhost", 3306), Tls::Prefer, "dbname"));
        assert_eq!((e.user.as_deref(), password(&e)), (Some("username"), Some("password")));
        let e = mysql("spire:@tcp(127.0.0.1)/spire_development?parseTime=true").unwrap();
        assert_eq!((&e.host, password(&e)), (&tcp("127.0.0.1", 3306), None));
    }

    #[test]
    fn postgres_forms() {
        let e =
            postgres(r"host = db.test  port=6432 dbname='a b' user=u password='it\'s \\ = here' ").unwrap();
        assert_eq!((&e.host, e.database.as_str(), e.tls), (&tcp("db.test", 6432), "a b", Tls::Require));
        assert_eq!(password(&e), Some(r"it's \ = here"));
        let e =
            postgres("postgres://u%40x:p%2Fw%3A@[::1]:5433/d?sslmode=verify-ca&sslrootcert=/ca.pem").unwrap();
        assert_eq!(
            (&e.host, e.user.as_deref(), password(&e)),
            (&tcp("::1", 5433), Some("u@x"), Some("p/w:"))
        );
        assert_eq!((e.tls, e.root_ca), (Tls::Verify, Some("/ca.pem".into())));
        let e = postgres("host=/run/postgresql dbname=d").unwrap();
        assert_eq!((e.host, e.tls), (Host::Socket("/run/postgresql".into()), Tls::Disable));
        let e = postgres("postgresql:///d?host=/run/postgresql").unwrap();
        assert_eq!(e.host, Host::Socket("/run/postgresql".into()));
    }

    #[test]
    fn mysql_forms() {
        let e = mysql("u:p@ss/w:rd@tcp([::1]:3307)/d?tls=true&charset=utf8").unwrap();
        assert_eq!((&e.host, password(&e), e.tls), (&tcp("::1", 3307), Some("p@ss/w:rd"), Tls::Verify));
        let e = mysql("u@unix(/run/mysqld/mysqld.sock)/d").unwrap();
        assert_eq!((e.host, e.tls), (Host::Socket("/run/mysqld/mysqld.sock".into()), Tls::Disable));
        let e = mysql("/d").unwrap();
        assert_eq!((e.host, e.user), (tcp("localhost", 3306), None));
        let e = mysql("mysql://u:p%40@db.test/d?ssl-mode=REQUIRED").unwrap();
        assert_eq!((&e.host, password(&e), e.tls), (&tcp("db.test", 3306), Some("p@"), Tls::Require));
    }

    #[test]
    fn mistakes_are_named_without_a_value() {
        for (text, why) in [
            ("user=u password=canary", "needs dbname"),
            ("canary", "neither key=value pairs nor a URL"),
            ("dbname=d password='canary", "not closed"),
            ("dbname=d port=canary", "port"),
            ("dbname=d sslmode=canary", "sslmode"),
            ("dbname=d host=canary,b", "several hosts"),
            ("dbname=d sslcert=canary", "belong together"),
            ("postgres://u:%zzcanary@h/d", "hexadecimal"),
            ("dbname=d options=canary", "the parameter options"),
        ] {
            let BadConnection(error) = postgres(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("canary"), "{text}: {error}");
        }
        for (text, why) in [
            ("canary", "neither user:password@tcp"),
            ("u:canary@tcp(h)/", "name of the database"),
            ("u:canary@tcp(h/d", "( without )"),
            ("u:canary@udp(h)/d", "neither tcp nor unix"),
            ("u:canary@tcp(h:x)/d", "port"),
            ("u:canary@tcp(h)/d?tls=canary", "tls"),
            ("u:canary@tcp(h)/d?serverPubKey=canary", "the parameter serverPubKey"),
        ] {
            let BadConnection(error) = mysql(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("canary"), "{text}: {error}");
        }
        let endpoint = postgres("dbname=d password=canary").unwrap();
        assert!(!format!("{endpoint:?} {endpoint}").contains("canary"));
    }
}

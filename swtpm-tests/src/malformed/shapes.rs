//! Inputs that look cheap and are not: many small elements, deep nesting, long names, of about a wanted size.

/// `prefix`, then `piece` again and again, cut or not.
pub(super) fn repeated(prefix: &[u8], piece: &[u8], suffix: &[u8], size: usize) -> Vec<u8> {
    let times = size.saturating_sub(prefix.len() + suffix.len()) / piece.len();
    [prefix, &piece.repeat(times), suffix].concat()
}

pub(super) fn zeros(size: usize) -> Vec<u8> {
    vec![0; size]
}

pub(super) fn letters(size: usize) -> Vec<u8> {
    vec![b'a'; size]
}

pub(super) fn high_bytes(size: usize) -> Vec<u8> {
    vec![0xff; size]
}

// JSON: the documents' own names, then what never ends.

pub(super) fn json_numbers(size: usize) -> Vec<u8> {
    repeated(b"[", b"0,", b"", size)
}

pub(super) fn json_depth(size: usize) -> Vec<u8> {
    vec![b'['; size]
}

pub(super) fn json_names(size: usize) -> Vec<u8> {
    let mut out = b"{".to_vec();
    let mut number = 0_u32;
    while out.len() < size {
        out.extend_from_slice(format!("\"{number}\":0,").as_bytes());
        number += 1;
    }
    out
}

pub(super) fn json_escapes(size: usize) -> Vec<u8> {
    repeated(b"{\"", br"\u0041", b"", size)
}

pub(super) fn jwks_numbers(size: usize) -> Vec<u8> {
    repeated(b"{\"keys\":[", b"0,", b"0]}", size)
}

pub(super) fn jwks_objects(size: usize) -> Vec<u8> {
    repeated(b"{\"keys\":[", b"{},", b"", size)
}

pub(super) fn jwks_unknown(size: usize) -> Vec<u8> {
    repeated(b"{\"x\":[", b"[],", b"", size)
}

pub(super) fn jwks_key_names(size: usize) -> Vec<u8> {
    [b"{\"keys\":[".to_vec(), json_names(size.saturating_sub(9))].concat()
}

pub(super) fn jwks_x5c(size: usize) -> Vec<u8> {
    repeated(br#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["#, br#""","#, b"", size)
}

pub(super) fn jwks_jwt_keys(size: usize) -> Vec<u8> {
    let mut out = b"{\"keys\":[".to_vec();
    let mut number = 0_u32;
    while out.len() < size {
        // The generator of P-256: a key like any other.
        out.extend_from_slice(
            format!(
                "{{\"use\":\"jwt-svid\",\"kty\":\"EC\",\"kid\":\"{number}\",\"crv\":\"P-256\",\
                 \"x\":\"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY\",\
                 \"y\":\"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU\"}},"
            )
            .as_bytes(),
        );
        number += 1;
    }
    out
}

pub(super) fn map_of_empty_bundles(size: usize) -> Vec<u8> {
    let mut out = b"{\"trust_domains\":{".to_vec();
    let mut number = 0_u32;
    while out.len() < size {
        out.extend_from_slice(format!("\"t{number}\":{{\"keys\":[]}},").as_bytes());
        number += 1;
    }
    out
}

pub(super) fn x509pop_certificates(size: usize) -> Vec<u8> {
    repeated(b"{\"certificates\":[", b"\"\",", b"", size)
}

pub(super) fn x509pop_one_certificate(size: usize) -> Vec<u8> {
    repeated(b"{\"certificates\":[\"", b"AAAA", b"", size)
}

pub(super) fn x509pop_broken_base64(size: usize) -> Vec<u8> {
    repeated(b"{\"certificates\":[\"", b"\\n\\n", b"\"]", size)
}

// Tokens: base64url of JSON.

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn jwt_header_names(size: usize) -> Vec<u8> {
    format!("{}.e30.AAAA", base64url(&json_names(size / 4 * 3))).into_bytes()
}

pub(super) fn jwt_claims(size: usize) -> Vec<u8> {
    let mut claims = br#"{"sub":"spiffe://example.org/a","x":["#.to_vec();
    claims.extend(b"0,".repeat(size / 8 * 3));
    claims.extend(b"0]}");
    format!("{}.{}.AAAA", base64url(br#"{"alg":"ES256","kid":"k"}"#), base64url(&claims)).into_bytes()
}

pub(super) fn jwt_dots(size: usize) -> Vec<u8> {
    vec![b'.'; size]
}

pub(super) fn pem_blocks(size: usize) -> Vec<u8> {
    repeated(b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"", size)
}

pub(super) fn pem_open(size: usize) -> Vec<u8> {
    repeated(b"-----BEGIN CERTIFICATE-----\n", b"AAAAAAAAAAAAAAAA\n", b"", size)
}

pub(super) fn template_calls(size: usize) -> Vec<u8> {
    repeated(b"", b"{{.A}}", b"{{", size)
}

pub(super) fn template_parentheses(size: usize) -> Vec<u8> {
    repeated(b"{{", b"(", b"", size)
}

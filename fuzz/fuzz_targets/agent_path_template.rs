#![no_main]
//! A template and a value of the certificate it is rendered with.

use hardroot_node_attestors::template::{MAX_OUTPUT, Template, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (template, name) = input;
    let Ok(template) = Template::parse(template) else { return };
    let subject = Value::record(
        "the subject",
        [("CommonName", name.into()), ("Organization", vec![name, "a b"].into())],
    );
    let sans = [(name.to_owned(), Value::from(name))].into();
    let data = Value::record(
        "the attestation data",
        [
            ("Subject", subject),
            ("SerialNumberHex", name.into()),
            ("Version", Value::Int(3)),
            ("SubjectKeyId", Value::Bytes(name.as_bytes().to_vec())),
            ("URISanSelectors", Value::Map(sans)),
        ],
    );
    if let Ok(text) = template.render(&data) {
        assert!(text.len() <= MAX_OUTPUT);
    }
});

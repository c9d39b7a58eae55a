use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{BadTemplate, MAX_OUTPUT, RenderError, Template, Value};

fn data() -> Value {
    let sans: BTreeMap<String, Value> =
        [("env".to_owned(), "Prod".into()), ("rack".to_owned(), "r12/u3".into())].into();
    Value::record(
        "the attestation data",
        [
            ("PluginName", "x509pop".into()),
            ("Fingerprint", "ab12".into()),
            (
                "Subject",
                Value::record(
                    "the subject",
                    [
                        ("CommonName", "Node-7.Example".into()),
                        ("OrganizationalUnit", vec!["edge", "line 2"].into()),
                        ("Organization", Value::List(Vec::new())),
                    ],
                ),
            ),
            ("Version", Value::Int(3)),
            ("IsCA", Value::Bool(false)),
            ("SubjectKeyId", Value::Bytes(vec![1, 0xab])),
            ("URISanSelectors", Value::Map(sans)),
        ],
    )
}

fn render(template: &str) -> String {
    Template::parse(template).unwrap().render(&data()).unwrap()
}

#[test]
fn renders_as_go_does() {
    // Expected values are those of Go's text/template with sprig 3.3, but for the two that take a type which
    // sprig refuses: `slice` of a text and `keys` of a map of texts.
    for (template, expected) in [
        ("/{{ .PluginName }}/{{ .Fingerprint }}", "/x509pop/ab12"),
        ("/{{.Subject.CommonName | lower}}", "/node-7.example"),
        ("/{{ lower .Subject.CommonName | trimSuffix \".example\" | printf \"n-%s\" }}", "/n-node-7"),
        ("/{{ index .Subject.OrganizationalUnit 0 }}", "/edge"),
        ("/{{ (index .Subject.OrganizationalUnit 1) | replace \" \" \"-\" }}", "/line-2"),
        ("{{ range .Subject.OrganizationalUnit }}/{{ . | nospace }}{{ end }}", "/edge/line2"),
        (
            "{{ range $i, $ou := .Subject.OrganizationalUnit }}/{{ $i }}-{{ $ou | nospace }}{{ end }}",
            "/0-edge/1-line2",
        ),
        ("{{ range .Subject.Organization }}x{{ else }}/none{{ end }}", "/none"),
        ("{{ if .Subject.Organization }}a{{ else if eq .Version 3 }}/v3{{ else }}c{{ end }}", "/v3"),
        ("{{ if and (not .IsCA) (gt .Version 2) }}/ok{{ end }}", "/ok"),
        ("{{ with .Subject }}/{{ .CommonName }}/{{ $.PluginName }}{{ end }}", "/Node-7.Example/x509pop"),
        ("/{{- /* a comment */ -}} a", "/a"),
        ("/a {{- \" b\" -}} c", "/a bc"),
        ("/{{ .URISanSelectors.rack }}", "/r12/u3"),
        ("/{{ index .URISanSelectors \"nope\" }}x", "/x"),
        ("/{{ .URISanSelectors.env | lower | default \"none\" }}", "/prod"),
        ("/{{ $cn := .Subject.CommonName }}{{ $cn | upper | trunc 4 }}", "/NODE"),
        ("/{{ .Subject.CommonName | trunc -7 }}", "/Example"),
        (
            "/{{ printf \"%04d-%x-%q-%-3s|%5.2s|\" .Version .SubjectKeyId \"a\" \"b\" \"cde\" }}",
            "/0003-01ab-\"a\"-b  |   cd|",
        ),
        ("/{{ join \"-\" .Subject.OrganizationalUnit | nospace }}", "/edge-line2"),
        ("/{{ splitList \"-\" \"a-b-c\" | last }}{{ splitList \"-\" \"a-b-c\" | first }}", "/ca"),
        ("/{{ .Subject.CommonName | substr 0 4 }}", "/Node"),
        ("/{{ ternary \"ca\" \"leaf\" .IsCA }}", "/leaf"),
        ("/{{ coalesce .Subject.Organization \"\" \"z\" }}", "/z"),
        ("/{{ \"abc\" | sha1sum }}", "/a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("/{{ len .Subject.OrganizationalUnit }}/{{ len \"abcd\" }}", "/2/4"),
        ("/{{ `raw\\n` }}", "/raw\\n"),
        ("/{{ print 1 2 \"a\" 3 }}", "/1 2a3"),
        ("/{{ base \"/a/b/\" }}{{ clean \"/a/../b\" }}{{ dir \"/x/y\" }}{{ ext \"n.tar.gz\" }}", "/b/b/x.gz"),
        ("/{{ slice \"abcdef\" 1 3 }}", "/bc"),
        ("/{{ .SubjectKeyId }}", "/[1 171]"),
        ("/{{ keys .URISanSelectors | sortAlpha | join \",\" }}", "/env,rack"),
        ("/{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "/2"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn a_missing_field_or_key_is_an_error() {
    for template in [
        "{{ .Nope }}",
        "{{ .Subject.Nope }}",
        "{{ .URISanSelectors.nope }}",
        "{{ $nope }}",
        "{{ .Version.x }}",
    ] {
        let error = Template::parse(template).unwrap().render(&data()).unwrap_err();
        assert!(matches!(error, RenderError::NoField { .. }), "{template}: {error}");
    }
}

#[test]
fn a_function_that_cannot_work_is_an_error() {
    for template in [
        "{{ lower .Version }}",
        "{{ lower }}",
        "{{ lower \"a\" \"b\" }}",
        "{{ index .Subject.OrganizationalUnit 2 }}",
        "{{ index .Subject.OrganizationalUnit -1 }}",
        "{{ printf \"%d\" \"a\" }}",
        "{{ printf \"%s\" }}",
        "{{ printf \"x\" 1 }}",
        "{{ fail \"no\" }}",
        "{{ eq 1 \"1\" }}",
        "{{ range .Version }}{{ end }}",
        "{{ nil }}",
        "{{ slice \"abc\" 2 1 }}",
        "{{ first .Subject.Organization }}",
    ] {
        let error = Template::parse(template).unwrap().render(&data()).unwrap_err();
        assert!(matches!(error, RenderError::Function { .. }), "{template}: {error}");
    }
}

#[test]
fn what_is_outside_the_subset_is_refused_when_parsed() {
    for template in [
        "{{ regexFind \"a\" .Fingerprint }}",
        "{{ define \"x\" }}{{ end }}",
        "{{ block \"x\" . }}{{ end }}",
        "{{ template \"x\" }}",
        "{{ range .Subject.OrganizationalUnit }}{{ break }}{{ end }}",
        "{{ uuidv4 }}",
        "{{ 1.5 }}",
        "{{ 'a' }}",
    ] {
        assert!(matches!(Template::parse(template), Err(BadTemplate::Unsupported { .. })), "{template}");
    }
}

#[test]
fn malformed_templates_are_refused() {
    for template in [
        "{{",
        "{{ .A",
        "{{ }}",
        "{{ end }}",
        "{{ else }}",
        "{{ if .A }}",
        "{{ if .A }}{{ else }}",
        "{{ | lower }}",
        "{{ .A | .B }}",
        "{{ .A .B }}",
        "{{ (lower .A }}",
        "{{ lower .A) }}",
        "{{ \"a }}",
        "{{ `a }}",
        "{{ /* a }}",
        "{{ nosuchfunction .A }}",
        "{{ $a, $b := .A }}",
        "{{ if .A }}{{ else }}{{ else }}{{ end }}",
        "{{ with .A }}{{ else if .B }}{{ end }}",
        "{{ .A : .B }}",
        "{{ 12x }}",
        "{{ \"\\q\" }}",
        "{{ . ! }}",
    ] {
        assert!(matches!(Template::parse(template), Err(BadTemplate::Syntax { .. })), "{template}");
    }
}

#[test]
fn output_and_depth_are_bounded() {
    assert!(matches!(Template::parse(&" ".repeat(4097)), Err(BadTemplate::TooLong { len: 4097 })));
    let deep = "{{ if true }}".repeat(40) + &"{{ end }}".repeat(40);
    assert!(matches!(Template::parse(&deep), Err(BadTemplate::Syntax { .. })));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(40), ")".repeat(40));
    assert!(matches!(Template::parse(&deep), Err(BadTemplate::Syntax { .. })));
    for template in [
        "{{ repeat 100000 \"ab\" }}",
        "{{ printf \"%99999s\" \"a\" }}",
        "{{ $x := \"aaaaaaaaaa\" }}{{ range list 1 2 3 4 5 6 7 8 }}{{ $x = replace \"a\" \"aaaaaaaaaa\" $x }}{{ end }}{{ $x }}",
    ] {
        assert_eq!(
            Template::parse(template).unwrap().render(&data()),
            Err(RenderError::TooMuch),
            "{template}"
        );
    }
}

proptest! {
    #[test]
    fn no_template_does_harm(text in "(\\{\\{|\\}\\}|[ .$|(){}\"`a-zA-Z0-9:=,/*-]| if | range | end | else | lower | index ){0,60}") {
        if let Ok(template) = Template::parse(&text)
            && let Ok(out) = template.render(&data())
        {
            prop_assert!(out.len() <= MAX_OUTPUT);
        }
    }

    #[test]
    fn text_without_actions_is_kept(text in "[^{]{0,80}") {
        prop_assert_eq!(Template::parse(&text).unwrap().render(&data()).unwrap(), text);
    }
}

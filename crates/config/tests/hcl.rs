//! The HCL 1 forms that people write, the faults they make, and texts nobody writes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::time::Duration;

use hardroot_config::{
    Block, Decoder, Document, Fault, Faults, Kind, MAX_BYTES, MAX_DEPTH, MAX_VALUES, Value, load,
};
use proptest::prelude::*;

fn parse(text: &str) -> Document {
    Document::parse(text).unwrap_or_else(|faults| panic!("{text}\n{faults:?}"))
}

fn faults(text: &str) -> Vec<(u32, String)> {
    let faults = Document::parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
    faults.into_iter().map(|Fault { line, message, .. }| (line, message)).collect()
}

fn value(text: &str) -> Kind {
    parse(&format!("v = {text}")).body().items[0].value.kind.clone()
}

/// A document as nested JSON-like text, for comparing forms of writing.
fn shape(kind: &Kind) -> String {
    match kind {
        Kind::Null => "null".into(),
        Kind::Bool(b) => b.to_string(),
        Kind::Number(n) => n.clone(),
        Kind::Text(t) => format!("{t:?}"),
        Kind::List(l) => {
            format!("[{}]", l.iter().map(|v: &Value| shape(&v.kind)).collect::<Vec<_>>().join(","))
        }
        Kind::Object(body) => {
            let items: Vec<String> = body
                .items
                .iter()
                .map(|item| {
                    let labels: String = item.labels.iter().map(|l| format!("/{}", l.text)).collect();
                    format!("{}{labels}:{}", item.key.text, shape(&item.value.kind))
                })
                .collect();
            format!("{{{}}}", items.join(","))
        }
    }
}

fn doc_shape(text: &str) -> String {
    shape(&Kind::Object(parse(text).body().clone()))
}

#[test]
fn the_forms_of_hcl_1() {
    for (text, expected) in [
        ("a = 1 b = 2", "{a:1,b:2}"),
        ("a = 1, b = 2,", "{a:1,b:2}"),
        ("a { b { c = 1 } }", "{a:{b:{c:1}}}"),
        ("a = {}\nb {}", "{a:{},b:{}}"),
        ("a = { b = 1 }", "{a:{b:1}}"),
        ("\"quoted key\" = 1", "{quoted key:1}"),
        ("K \"l\" { x = true }", "{K/l:{x:true}}"),
        ("K \"l\" \"m\" {}", "{K/l/m:{}}"),
        ("K l {}", "{K/l:{}}"),
        ("a.b-c_d = 1", "{a.b-c_d:1}"),
        ("l = [1, \"x\", true, [2], {k = 3},]", "{l:[1,\"x\",true,[2],{k:3}]}"),
        ("l = [\n1\n,\n2\n]", "{l:[1,2]}"),
        ("l = []", "{l:[]}"),
        ("# c\n// c\n/* c\n c */ a = /* x */ 1 # end", "{a:1}"),
        ("a\n=\n1", "{a:1}"),
        ("é = \"ü\"", "{é:\"ü\"}"),
        ("\u{feff}a = 1\r\nb = 2\r\n", "{a:1,b:2}"),
        ("", "{}"),
        ("a = 1 // no newline at the end", "{a:1}"),
    ] {
        assert_eq!(doc_shape(text), expected, "{text}");
    }
}

#[test]
fn numbers() {
    let decoded = |text: &str| {
        let doc = parse(&format!("v = {text}"));
        let decoder = Decoder::new(&doc, "f");
        let found = decoder.root().int("v");
        decoder.into_result().ok().and(found)
    };
    for (text, number) in [
        ("0", 0),
        ("8081", 8081),
        ("-5", -5),
        ("0x1F", 31),
        ("-0x10", -16),
        ("010", 8),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("\"8081\"", 8081),
    ] {
        assert_eq!(decoded(text), Some(number), "{text}");
    }
    for text in ["1.5", "1e3", "true", "\"x\"", "[1]", "{}"] {
        assert_eq!(decoded(text), None, "{text}");
    }
    for text in
        ["9223372036854775808", "0x", "0159", "1e", "12abc", "24h", "-", ".", "1.2.3", "0xffffffffffffffffff"]
    {
        assert_eq!(faults(&format!("v = {text}"))[0].0, 1, "{text}");
    }
    let doc = parse("a = 1.5 b = -2e3 c = 4 d = .5");
    let decoder = Decoder::new(&doc, "f");
    let float = |key| decoder.root().float(key).unwrap();
    assert_eq!([float("a"), float("b"), float("c"), float("d")], [1.5, -2000.0, 4.0, 0.5]);
}

#[test]
fn strings_and_heredocs() {
    for (text, expected) in [
        (r#""""#, ""),
        (r#""a\tb\n\"c\"\\ \x41\101\u00e9\U0001F600""#, "a\tb\n\"c\"\\ AAé😀"),
        (r#""\xc3\xa9""#, "é"),
        (r#""${join(",", "a\n")} x""#, r#"${join(",", "a\n")} x"#),
        (r#""$5 {not} a template""#, "$5 {not} a template"),
        ("<<END\none\n  two\nEND\n", "one\n  two\n"),
        ("<<END\nEND", ""),
        ("<<-END\n    one\n      two\n    END\n", "one\n  two\n"),
        ("<<-END\n  one\n    END\n", "  one\n"),
        ("<<END\r\nwindows\r\nEND\r\n", "windows\n"),
        ("<<-END\r\n    deep\r\n  less\r\n  END\r\n", "  deep\nless\n"),
        ("\"${a\r\n}\\t\"", "${a\n}\t"),
        ("\"${a\r\n}\"", "${a\n}"),
    ] {
        assert_eq!(value(text), Kind::Text(expected.into()), "{text}");
    }
    assert_eq!(doc_shape("a = <<E\nx\nE\nb = 1"), "{a:\"x\\n\",b:1}");
    for text in [
        "\"open",
        "\"two\nlines\"",
        r#""\q""#,
        r#""\xff""#,
        r#""\ud800""#,
        r#""\u12""#,
        r#""\"#,
        "<<END\nnever",
        "<END\nEND",
        "<<\nx\n",
        "<<E x\nE\n",
        "'single'",
    ] {
        assert!(Document::parse(&format!("v = {text}")).is_err(), "{text}");
    }
}

#[test]
fn every_fault_is_told_with_its_line() {
    let text =
        "a = \nb = 1\nc = oops\nd {\n  e = [1 2]\n  f = 24h\n  = 3\n}\ng @ 1\nh = 2\ni \"l\" = 3\nj = 4";
    let lines: Vec<u32> = faults(text).iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 3, 5, 6, 9, 11], "{:?}", faults(text));
    assert_eq!(faults("a {\n b {\n")[0].0, 1);
    assert_eq!(
        faults("/* never\nclosed")[0],
        (1, "the comment that starts here is never closed with `*/`".into())
    );
    assert_eq!(faults("x = [1,\n2")[0].0, 1);
    assert_eq!(faults("}\na = 1")[0].0, 1);
    assert_eq!(faults("{{}}")[0].0, 1);
    assert_eq!(Document::parse_bytes(b"a = 1\nb = \"\xff\"").unwrap_err()[0].line, 2);
}

#[test]
fn size_depth_and_faults_are_bounded() {
    let deep = |n: usize| format!("a {}{}", "{ a ".repeat(n), "= 1".to_owned() + &" }".repeat(n));
    assert!(Document::parse(&deep(MAX_DEPTH)).is_ok());
    assert!(faults(&deep(MAX_DEPTH + 1))[0].1.contains("nest deeper"));
    assert!(faults(&"a=[".repeat(100_000)).len() < 200);
    assert!(faults(&format!("v = {}", "[".repeat(100_000)))[0].1.contains("nest deeper"));
    assert!(faults(&format!("{{\"v\": {}", "[".repeat(100_000)))[0].1.contains("nest deeper"));
    assert!(faults(&"@\n".repeat(5_000)).len() <= 101);
    // Keys and elements count; a file just within is read.
    let list = |n: usize| format!("v = [{}]", "1,".repeat(n - 1));
    assert!(Document::parse(&list(MAX_VALUES)).is_ok());
    assert!(faults(&"=\n".repeat(5 * MAX_VALUES + 1))[1].1.ends_with("words and signs"));
    let more = format!("the file holds more than {MAX_VALUES} keys and values");
    assert_eq!(faults(&list(MAX_VALUES + 1)), [(1, more.clone())]);
    assert_eq!(faults(&"a {}\n".repeat(MAX_VALUES + 1)), [(u32::try_from(MAX_VALUES).unwrap() + 1, more)]);
    assert!(faults(&format!("{{\"v\": [{}1]}}", "1,".repeat(MAX_VALUES)))[0].1.contains("more than"));
    assert!(faults(&" ".repeat(MAX_BYTES + 1))[0].1.contains("larger than"));
    assert!(
        Document::parse_bytes(&vec![0xff; MAX_BYTES + 1]).unwrap_err()[0].message.contains("larger than")
    );
}

#[test]
fn json_is_the_same_configuration() {
    let text = r#"{
  "server": {"trust_domain": "example.org", "bind_port": 8081, "ca_ttl": null, "u": "\u00e9\ud83d\ude00\/"},
  "plugins": {
    "KeyManager": {"disk": {"plugin_data": {"keys_path": "k"}}},
    "NodeAttestor": [{"join_token": {"plugin_data": {}}}, {"x509pop": {"plugin_data": {}}}]
  }
}"#;
    let doc = parse(text);
    let decoder = Decoder::new(&doc, "f");
    let server = decoder.block("server");
    assert_eq!(server.required_string("trust_domain"), "example.org");
    assert_eq!(server.port("bind_port"), Some(8081));
    assert_eq!(server.duration("ca_ttl"), None);
    assert_eq!(server.string("u").unwrap(), "é😀/");
    server.finish();
    let plugins = decoder.block("plugins");
    let names = |kind: &str| -> Vec<&str> {
        plugins.labelled_blocks(kind).iter().for_each(|(_, block)| block.ignore("plugin_data"));
        plugins.labelled_blocks(kind).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("KeyManager"), ["disk"]);
    assert_eq!(names("NodeAttestor"), ["join_token", "x509pop"]);
    decoder.into_result().unwrap();

    for bad in [
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1} x",
        "{\"a\":01}",
        "{\"a\":+1}",
        "{\"a\":1.}",
        "{\"a\":\"\\q\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\n\"}",
        "{\"a\":[1,]}",
        "{\"a\":tru}",
        "{\"a\":\"x",
        "{\"a\":-}",
    ] {
        assert!(Document::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(faults("{\n\"a\": 1,\n\"b\": x}")[0].0, 3);
}

fn told(text: &str, decode: impl FnOnce(&Decoder<'_>)) -> String {
    let doc = parse(text);
    let decoder = Decoder::new(&doc, "agent.conf");
    decode(&decoder);
    decoder.into_result().err().map(|faults| faults.to_string()).unwrap_or_default()
}

#[test]
fn every_fault_of_meaning_is_told_at_once() {
    let text = r#"
agent {
  trust_domian = "example.org"
  server_port = 70000
  insecure_bootstrap = "yes"
  sync = "5x"
  mode = "sometimes"
  claims = ["a", 5, true]
  data_dir = "one"
  data_dir = "two"
  nested "label" { }
  old = 1
}
extra { }
"#;
    let out = told(text, |decoder| {
        let agent = decoder.block("agent");
        drop(agent.required_string("trust_domain"));
        assert_eq!(agent.port("server_port"), None);
        assert_eq!(agent.bool("insecure_bootstrap"), None);
        assert_eq!(agent.duration("sync"), None);
        assert_eq!(agent.one_of("mode", &[("never", 0), ("always", 1)]), None);
        assert_eq!(agent.string_list("claims"), None);
        assert_eq!(agent.string("data_dir").as_deref(), Some("one"));
        drop(agent.opt_block("nested"));
        agent.unsupported("old", "use `new`");
        agent.finish();
        drop(decoder.root().required_block("plugins"));
    });
    let expected = "agent.conf:1: the block plugins is required
agent.conf:2: agent.trust_domain is required
agent.conf:3: unknown key `trust_domian` in agent; did you mean `trust_domain`?
agent.conf:4: agent.server_port: must be between 1 and 65535
agent.conf:5: agent.insecure_bootstrap must be true or false, without quotes, not a string
agent.conf:6: agent.sync: a duration needs a unit after each number: h, m, s, ms, us or ns (a day is 24h)
agent.conf:7: agent.mode: must be one of `never`, `always`
agent.conf:8: agent.claims: a list of strings contains a boolean
agent.conf:10: agent.data_dir is already set at line 9
agent.conf:11: agent.nested takes no label
agent.conf:12: agent.old is not supported: use `new`
agent.conf:14: unknown key `extra`";
    assert_eq!(out, expected);
}

#[test]
fn a_fault_shows_the_beginning_of_a_long_name() {
    let long = "é".repeat(100);
    let text = format!("{long} = 1\n{long} = 2\n{long} {{ }}\np {{ k \"{long}\" {{ x = 1 }} }}");
    let cut = format!("{}…", "é".repeat(64));
    let out = told(&text, |d| {
        let plugins = d.block("p");
        plugins.labelled_blocks("k").iter().for_each(|(label, block)| {
            assert_eq!(*label, long, "only faults cut it");
            block.finish();
        });
        plugins.finish();
    });
    let unknown: Vec<String> = (1..=3).map(|n| format!("agent.conf:{n}: unknown key `{cut}`")).collect();
    let twice = format!("agent.conf:2: {cut} is already set at line 1");
    let last = format!("agent.conf:4: unknown key `x` in p.k \"{cut}\"");
    let expected = [&unknown[0], &unknown[1], &twice, &unknown[2], &last];
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<&str> = expected.iter().map(|line| line.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert_eq!(
        faults(&format!("{long}\n"))[0].1,
        format!("after the key `{cut}` comes `=` or `{{`, not the end of the file")
    );
}

#[test]
fn a_fault_never_shows_a_value() {
    let secret = "hunter2SECRET";
    let texts = [
        format!("agent {{ join_token = {secret} }}"),
        format!("agent {{ join_token = {secret}\n x = 1 }}"),
        format!("agent {{ join_token = \"{secret} }}"),
        format!("agent {{ join_token = 1{secret} }}"),
        format!("agent {{ join_token = <<{secret}\nx }}"),
        format!("agent {{ join_token = \"\\q{secret}\" }}"),
        format!("agent {{ join_token = '{secret}' }}"),
        format!("{{\"agent\": {{\"join_token\": {secret}}}}}"),
        format!("{{\"agent\": {{\"join_token\": \"{secret}}}}}"),
    ];
    for text in texts {
        let shown = format!("{:?}", Document::parse(&text).unwrap_err());
        assert!(!shown.contains(secret), "{text}: {shown}");
    }
    let text = format!("agent {{ join_token = \"{secret}\" list = [[\"{secret}\"]] }}");
    assert!(!format!("{:?}", parse(&text)).contains(secret));
    let out = told(&text, |decoder| {
        let agent = decoder.block("agent");
        assert_eq!(agent.int("join_token"), None);
        assert_eq!(agent.duration("join_token"), None);
        assert_eq!(agent.one_of("join_token", &[("a", ())]), None);
        assert_eq!(agent.bool("join_token"), None);
        assert_eq!(agent.string_list("list"), None);
        assert!(agent.opt_block("join_token").is_none());
    });
    assert_eq!(out.lines().count(), 6, "{out}");
    assert!(!out.contains(secret), "{out}");
}

#[test]
fn blocks_and_labels() {
    let text = r#"
plugins {
  KeyManager "disk" { plugin_data { directory = "d" } }
  workloadattestor "unix" { plugin_data = {} }
  WorkloadAttestor "docker" { enabled = false }
  NodeAttestor = { "join_token" { } }
  Two "a" "b" { }
}
telemetry { DogStatsd = [ { address = "a" }, { address = "b" } ] }
telemetry { labels { x = "1" y = 2 } }
"#;
    let out = told(text, |decoder| {
        let plugins = decoder.block("plugins");
        let key_managers = plugins.labelled_blocks("KeyManager");
        assert_eq!(key_managers[0].0, "disk");
        assert_eq!(key_managers[0].1.block("plugin_data").string("directory").unwrap(), "d");
        let attestors = plugins.labelled_blocks("WorkloadAttestor");
        let names: Vec<&str> = attestors.iter().map(|(name, block)| (*name, block.label()).1).collect();
        assert_eq!(names, ["unix", "docker"]);
        assert_eq!(attestors[1].1.bool("enabled"), Some(false));
        assert!(attestors[0].1.block("plugin_data").is_present());
        assert!(!attestors[1].1.block("plugin_data").is_present());
        assert_eq!(plugins.labelled_blocks("NodeAttestor")[0].0, "join_token");
        assert!(plugins.labelled_blocks("Two").is_empty());
        let telemetry = decoder.block("telemetry");
        let addresses: Vec<String> =
            telemetry.blocks("DogStatsd").iter().map(|b: &Block<'_>| b.required_string("address")).collect();
        assert_eq!(addresses, ["a", "b"]);
        let labels = telemetry.block("labels");
        labels.ignore_all();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["x", "y"]);
        labels.finish();
        telemetry.finish();
        plugins.finish();
    });
    assert_eq!(out, "agent.conf:7: plugins.Two takes one label");
    assert_eq!(
        told("a = 1\nb = {}\nb = {}", |d| drop((d.opt_block("a"), d.opt_block("b")))),
        "agent.conf:1: a must be a block, not a number\nagent.conf:3: b is already set at line 2"
    );
}

#[test]
fn durations_and_paths() {
    let doc = parse("a = \"1h30m\" b = 0 p = \"\" q = \"/x\"");
    let decoder = Decoder::new(&doc, "f");
    assert_eq!(decoder.root().duration("a"), Some(Duration::from_secs(5400)));
    assert_eq!(decoder.root().duration("b"), Some(Duration::ZERO));
    assert_eq!(decoder.root().path("p"), None);
    assert_eq!(decoder.root().required_path("q"), std::path::Path::new("/x"));
    assert_eq!(*decoder.root().secret("q").unwrap(), "/x");
    drop(decoder.root().required_path("r"));
    let faults: Faults = decoder.into_result().unwrap_err();
    assert_eq!(faults.to_string(), "f:1: p: must be a path\nf:1: r is required");
}

#[test]
fn files_are_loaded_expanded_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.conf");
    std::fs::write(&path, "a = \"$X\"\nb = \"$$\"").unwrap();
    let lookup = |name: &str| (name == "X").then(|| "value".to_owned());
    let plain = load(&path, None).unwrap();
    assert_eq!(plain.body().items[0].value.kind, Kind::Text("$X".into()));
    let expanded = load(&path, Some(&lookup)).unwrap();
    assert_eq!(expanded.body().items[0].value.kind, Kind::Text("value".into()));
    assert_eq!(expanded.body().items[1].value.kind, Kind::Text("$".into()));
    std::fs::write(&path, b"a = 1\n\xff").unwrap();
    for env in [None, Some(&lookup as &hardroot_config::Lookup<'_>)] {
        let error = load(&path, env).unwrap_err().to_string();
        assert_eq!(error, format!("{}:2: the text is not UTF-8", path.display()));
    }
    std::fs::write(&path, vec![b' '; MAX_BYTES + 7]).unwrap();
    assert!(load(&path, None).unwrap_err().to_string().contains("larger than"));
    assert!(load(&path, Some(&lookup)).unwrap_err().to_string().contains("larger than"));
    let missing = load(&dir.path().join("nope"), None).unwrap_err();
    assert!(missing.to_string().contains("cannot read the configuration file"));
}

proptest! {
    /// No text makes the parser panic, and a fault's line is one of the text.
    #[test]
    fn any_text_ends_well(text in "[a-z\"{}\\[\\]=,#/*<\\-\n\\\\$0-9. ]{0,200}") {
        let lines = text.matches('\n').count() + 1;
        match Document::parse(&text) {
            Ok(doc) => {
                let decoder = Decoder::new(&doc, "f");
                for key in doc.body().items.iter().map(|item| item.key.text.as_str()) {
                    drop((decoder.root().string(key), decoder.root().int(key), decoder.root().labelled_blocks(key)));
                }
                drop(decoder.into_result());
            }
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                prop_assert!(faults.iter().all(|fault| fault.line >= 1 && fault.line as usize <= lines));
            }
        }
    }

    #[test]
    fn any_bytes_end_well(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Document::parse_bytes(&bytes));
    }

    /// Every string survives being written in HCL and in JSON.
    #[test]
    fn strings_round_trip(text in "\\PC{0,60}") {
        let hcl: String = text.chars().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            '$' => "\\x24".to_owned(),
            c => c.to_string(),
        }).collect();
        prop_assert_eq!(value(&format!("\"{hcl}\"")), Kind::Text(text.clone()));
        let json: String = text.chars().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        }).collect();
        let doc = parse(&format!("{{\"v\": \"{json}\"}}"));
        prop_assert_eq!(&doc.body().items[0].value.kind, &Kind::Text(text));
    }
}

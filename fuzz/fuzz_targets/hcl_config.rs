#![no_main]
//! Any bytes as a configuration file: a tree or faults with lines of the text, never a panic.

use hardroot_config::{Decoder, Document, expand_env};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let lines = 1 + data.iter().filter(|b| **b == b'\n').count();
    match Document::parse_bytes(data) {
        Ok(document) => {
            let decoder = Decoder::new(&document, "fuzz");
            for item in &document.body().items {
                let key = item.key.text.as_str();
                let root = decoder.root();
                drop((root.string(key), root.int(key), root.float(key), root.duration(key), root.string_list(key)));
                for (_, block) in root.labelled_blocks(key) {
                    block.finish();
                }
            }
            drop(decoder.into_result());
        }
        Err(faults) => assert!(!faults.is_empty() && faults.iter().all(|f| f.line >= 1 && f.line as usize <= lines)),
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _expanded = expand_env(text, |name| (name.len() % 2 == 0).then(|| "$x".to_owned()));
    }
});

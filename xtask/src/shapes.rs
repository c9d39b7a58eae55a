//! What each request holds and how large its structures are: `generated/shapes.rs`, which `crates/api` judges requests
//! by before it decodes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use heck::{ToShoutySnakeCase as _, ToSnakeCase as _, ToUpperCamelCase as _};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// What is read from the datastore: rows that somebody may have damaged are judged as requests are.
const STORED: [&str; 2] = [".spire.common.Bundle", ".spire.server.journal.Entries"];

/// A message and where it is in Rust.
struct Known<'a> {
    message: &'a DescriptorProto,
    path: String,
}

/// The file's text.
pub(crate) fn render(set: &FileDescriptorSet) -> Result<String> {
    let mut all = BTreeMap::new();
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    for file in &set.file {
        let package = file.package();
        let module = if package.is_empty() { "workload".to_owned() } else { package.replace('.', "::") };
        let prefix = if package.is_empty() { String::new() } else { format!(".{package}") };
        for message in &file.message_type {
            gather(message, &prefix, &format!("crate::{module}"), &mut all);
        }
        for method in file.service.iter().flat_map(|service| &service.method) {
            inputs.insert(method.input_type().to_owned());
            outputs.insert(method.output_type().to_owned());
        }
    }
    inputs.extend(STORED.map(str::to_owned));
    let mut out = "// This file is made by `make proto`.\n".to_owned();
    let (mut wanted, mut done): (Vec<String>, BTreeSet<String>) =
        (inputs.iter().cloned().collect(), BTreeSet::new());
    while let Some(name) = wanted.pop() {
        if done.insert(name.clone()) {
            shape(&name, &all, &mut wanted, &mut out).with_context(|| format!("the shape of {name}"))?;
        }
    }
    for name in inputs.union(&outputs) {
        let shape =
            if inputs.contains(name) { format!("Some(&{})", constant(name)) } else { "None".to_owned() };
        let path = match name.as_str() {
            ".google.protobuf.Empty" => "()",
            name => &known(name, &all)?.path,
        };
        write!(
            out,
            "impl crate::expansion::Shaped for {path} {{\n    const SHAPE: Option<&'static Shape> = {shape};\n}}\n"
        )?;
    }
    Ok(out)
}

fn gather<'a>(
    message: &'a DescriptorProto,
    prefix: &str,
    module: &str,
    all: &mut BTreeMap<String, Known<'a>>,
) {
    let name = format!("{prefix}.{}", message.name());
    let inner = format!("{module}::{}", message.name().to_snake_case());
    for nested in &message.nested_type {
        gather(nested, &name, &inner, all);
    }
    let path = format!("{module}::{}", message.name().to_upper_camel_case());
    all.insert(name, Known { message, path });
}

fn known<'a>(name: &str, all: &'a BTreeMap<String, Known<'a>>) -> Result<&'a Known<'a>> {
    all.get(name).with_context(|| format!("{name} is not known"))
}

fn constant(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "_").to_shouty_snake_case()
}

/// Writes one message's shape, and names those that it refers to.
fn shape(
    name: &str,
    all: &BTreeMap<String, Known<'_>>,
    wanted: &mut Vec<String>,
    out: &mut String,
) -> Result<()> {
    writeln!(out, "static {}: Shape = Shape {{\n    fields: &[", constant(name))?;
    for field in &known(name, all)?.message.field {
        if let Some(kind) = kind(field, all, wanted)? {
            writeln!(out, "        ({}, Kind::{kind}),", field.number())?;
        }
    }
    out.push_str("    ],\n};\n");
    Ok(())
}

/// What a field takes; `None` for what is part of its message.
fn kind(
    field: &FieldDescriptorProto,
    all: &BTreeMap<String, Known<'_>>,
    wanted: &mut Vec<String>,
) -> Result<Option<String>> {
    let list = field.label() == Label::Repeated;
    let name = field.type_name();
    Ok(match field.r#type() {
        Type::String | Type::Bytes => Some(if list { "Texts" } else { "Text" }.to_owned()),
        // Part of the message is the text or the number alone.
        Type::Message if !list && name == ".google.protobuf.StringValue" => Some("Text".to_owned()),
        Type::Message if !list && name == ".google.protobuf.BoolValue" => None,
        Type::Message => {
            let known = known(name, all).context("only wrappers of google's messages are understood")?;
            if known.message.options.as_ref().is_some_and(|options| options.map_entry()) {
                bail!("{} is a map: say what its nodes take", field.name());
            }
            wanted.push(name.to_owned());
            let shape = constant(name);
            Some(match list {
                true => format!("Messages(&{shape}, size_of::<{}>())", known.path),
                false => format!("Message(&{shape})"),
            })
        }
        Type::Group => bail!("{} is a group", field.name()),
        _ if list => bail!("{} is a list of numbers: say what they take", field.name()),
        _ => None,
    })
}

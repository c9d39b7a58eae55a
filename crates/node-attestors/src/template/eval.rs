//! From a tree and data to text.

use super::functions;
use super::parser::{Base, Command, Node, Operand, Pipeline};
use super::value::Value;
use super::{MAX_OUTPUT, RenderError};

/// Nodes and commands that may be worked through.
const MAX_STEPS: usize = 10_000;

pub(super) fn render(nodes: &[Node], data: &Value) -> Result<String, RenderError> {
    let mut run = Run { out: String::new(), steps: 0, variables: vec![(String::new(), data.clone())] };
    run.nodes(nodes, data)?;
    Ok(run.out)
}

struct Run {
    out: String,
    steps: usize,
    /// Innermost last; the nameless one is `$`, the data as a whole.
    variables: Vec<(String, Value)>,
}

impl Run {
    fn step(&mut self) -> Result<(), RenderError> {
        self.steps += 1;
        if self.steps > MAX_STEPS { Err(RenderError::TooMuch) } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<(), RenderError> {
        if self.out.len() + text.len() > MAX_OUTPUT {
            return Err(RenderError::TooMuch);
        }
        self.out.push_str(text);
        Ok(())
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), RenderError> {
        let scope = self.variables.len();
        for node in nodes {
            self.step()?;
            self.node(node, dot)?;
        }
        self.variables.truncate(scope);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), RenderError> {
        match node {
            Node::Text(text) => self.write(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.sets.is_some() {
                    return Ok(());
                }
                match value {
                    Value::Nil => Err(RenderError::function("{{ }}", "there is no value to print")),
                    value => self.write(&value.text()),
                }
            }
            Node::If { arms, otherwise } => {
                let scope = self.variables.len();
                for (condition, body) in arms {
                    if self.pipeline(condition, dot)?.is_true() {
                        self.nodes(body, dot)?;
                        self.variables.truncate(scope);
                        return Ok(());
                    }
                }
                self.nodes(otherwise, dot)?;
                self.variables.truncate(scope);
                Ok(())
            }
            Node::With { value, body, otherwise } => {
                let scope = self.variables.len();
                let value = self.pipeline(value, dot)?;
                if value.is_true() {
                    self.nodes(body, &value)?
                } else {
                    self.nodes(otherwise, dot)?
                }
                self.variables.truncate(scope);
                Ok(())
            }
            Node::Range { over, body, otherwise } => self.range(over, body, otherwise, dot),
        }
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), RenderError> {
        let names = over.sets.as_ref().map(|(names, _)| names.clone()).unwrap_or_default();
        let items: Vec<(Value, Value)> = match self.commands(over, dot)? {
            Value::List(list) => (0i64..).map(Value::Int).zip(list).collect(),
            Value::Bytes(bytes) => {
                (0i64..).map(Value::Int).zip(bytes.into_iter().map(|b| Value::Int(b.into()))).collect()
            }
            Value::Map(map) => map.into_iter().map(|(key, value)| (Value::Str(key), value)).collect(),
            Value::Nil => Vec::new(),
            other => {
                return Err(RenderError::function("range", format!("cannot go through {}", other.kind())));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, value) in items {
            self.step()?;
            match names.as_slice() {
                [only] => self.variables.push((only.clone(), value.clone())),
                [index, item] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((item.clone(), value.clone()));
                }
                _ => {}
            }
            self.nodes(body, &value)?;
            self.variables.truncate(scope);
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, RenderError> {
        let value = self.commands(pipeline, dot)?;
        if let Some((names, new)) = &pipeline.sets {
            for name in names {
                if *new {
                    self.variables.push((name.clone(), value.clone()));
                } else {
                    match self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                        Some((_, slot)) => *slot = value.clone(),
                        None => {
                            return Err(RenderError::NoField {
                                name: format!("${name}"),
                                of: "the template",
                            });
                        }
                    }
                }
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, RenderError> {
        let mut piped = None;
        for command in &pipeline.commands {
            self.step()?;
            piped = Some(match command {
                Command::Value(operand) => self.operand(operand, dot)?,
                Command::Call { function, arguments } => self.call(function, arguments, piped, dot)?,
            });
        }
        Ok(piped.unwrap_or(Value::Nil))
    }

    fn call(
        &mut self,
        function: &str,
        arguments: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, RenderError> {
        let stops_at = match function {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            if stops_at == Some(value.is_true()) {
                return Ok(value); // Later arguments are not looked at, so they may be missing.
            }
            values.push(value);
        }
        values.extend(piped);
        functions::call(function, values)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, RenderError> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Sub(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(function) => functions::call(function, Vec::new())?,
            Base::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None => return Err(RenderError::NoField { name: format!("${name}"), of: "the template" }),
            },
        };
        operand.fields.iter().try_fold(base, field)
    }
}

fn field(value: Value, name: &String) -> Result<Value, RenderError> {
    let missing = |of| RenderError::NoField { name: name.clone(), of };
    match value {
        Value::Struct { name: of, mut fields, .. } => fields.remove(name.as_str()).ok_or_else(|| missing(of)),
        Value::Map(mut map) => map.remove(name).ok_or_else(|| missing("the map")),
        other => Err(missing(other.kind())),
    }
}

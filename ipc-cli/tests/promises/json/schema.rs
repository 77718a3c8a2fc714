//! The JSON schema, and what of it was printed.

use std::cell::RefCell;
use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::{Shape, docs};
use crate::place::{Ended, run};

/// The schema, and those of its properties that were printed.
pub struct Schema {
    whole: Value,
    /// Pointers into the schema.
    seen: RefCell<BTreeSet<String>>,
}

impl Schema {
    pub fn new() -> Self {
        let whole = serde_json::from_str(&docs("ipc.schema.json")).unwrap();
        jsonschema::meta::validate(&whole).unwrap();
        Self {
            whole,
            seen: RefCell::default(),
        }
    }

    /// The properties that no output had so far.
    pub fn never_printed(&self) -> Vec<String> {
        let mut all = BTreeSet::new();
        properties("", &self.whole, &mut all);
        all.difference(&self.seen.borrow()).cloned().collect()
    }

    pub fn definitions(&self) -> &Map<String, Value> {
        self.whole["$defs"].as_object().unwrap()
    }

    pub fn shape(&self, command: &str) -> Shape {
        let described = self.whole["$defs"][command]["description"].as_str();
        match described.unwrap_or_else(|| panic!("{command} is not in the schema")) {
            text if text.starts_with("One JSON array") => Shape::Array,
            text if text.starts_with("One JSON object per line") => Shape::Lines,
            text if text.starts_with("One JSON object") => Shape::Object,
            text => panic!("{command}: {text}"),
        }
    }

    pub fn validator(&self, command: &str) -> Validator {
        let mut schema = self.whole.clone();
        schema["$ref"] = json!(format!("#/$defs/{command}"));
        jsonschema::validator_for(&schema).unwrap()
    }

    /// Asserts that the output of a command matches its definition.
    #[track_caller]
    pub fn check(&self, command: &str, ended: &Ended) {
        let values = match self.shape(command) {
            Shape::Lines => ended.out.lines().map(str::to_owned).collect(),
            _ => vec![ended.out.clone()],
        };
        assert!(!values.is_empty(), "{command} printed nothing: {ended:?}");
        for text in values {
            let value = serde_json::from_str(&text);
            let value: Value = value.unwrap_or_else(|error| panic!("{command}: {error}: {text}"));
            self.check_value(command, &value);
        }
    }

    #[track_caller]
    pub fn check_value(&self, command: &str, value: &Value) {
        let validator = self.validator(command);
        let errors = validator.iter_errors(value);
        let errors: Vec<_> = errors
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{command}: {errors:#?}\n{value:#}");
        check_names(command, "", value);
        self.note(&format!("/$defs/{command}"), value);
    }

    /// Runs a command with `--json`, and checks its output.
    #[track_caller]
    pub fn run(&self, command: &str, args: &[&str], code: i32) -> Ended {
        let words: Vec<_> = match command.strip_prefix("dlq-") {
            Some(of_dlq) => vec!["dlq", of_dlq],
            None => vec![command],
        };
        let ended = run(&[&words[..], args, &["--json"]].concat()).expect(code);
        self.check(command, &ended);
        ended
    }

    /// Notes which properties below the schema at `pointer` the value has.
    pub fn note(&self, pointer: &str, value: &Value) {
        let schema = self.whole.pointer(pointer).unwrap();
        if let Some(target) = schema["$ref"].as_str() {
            return self.note(target.strip_prefix('#').unwrap(), value);
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            for index in 0..choices.len() {
                let choice = format!("{pointer}/anyOf/{index}");
                let mut of_choice = self.whole.clone();
                of_choice["$ref"] = json!(format!("#{choice}"));
                if jsonschema::is_valid(&of_choice, value) {
                    self.note(&choice, value);
                }
            }
        }
        match value {
            Value::Array(items) => {
                for item in items {
                    self.note(&format!("{pointer}/items"), item);
                }
            }
            Value::Object(fields) if schema["additionalProperties"].is_object() => {
                for field in fields.values() {
                    self.note(&format!("{pointer}/additionalProperties"), field);
                }
            }
            Value::Object(fields) if schema["properties"].is_object() => {
                for (name, field) in fields {
                    let property = format!("{pointer}/properties/{name}");
                    if self.whole.pointer(&property).is_some() {
                        if !field.is_null() {
                            self.seen.borrow_mut().insert(property.clone());
                        }
                        self.note(&property, field);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Asserts that ids are text, and that the names of times end in their unit.
#[track_caller]
fn check_names(command: &str, name: &str, value: &Value) {
    /// Objects of the user, whose properties may have any name.
    const FOREIGN: [&str; 2] = ["value", "headers"];
    match value {
        Value::Object(fields) => {
            let others = fields
                .iter()
                .filter(|(name, _)| !FOREIGN.contains(&&name[..]));
            others.for_each(|(name, field)| check_names(command, name, field));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_names(command, name, item)),
        Value::Number(number) => {
            assert!(!is_id(name), "{command}: {name} is a number: {number}");
            let has_unit = name.ends_with("_seconds") || name.ends_with("_per_second");
            assert_eq!(number.is_f64(), has_unit, "{command}: {name}: {number}");
            let is_time = ["time", "age", "ago", "lease", "window", "secs", "nanos"];
            let words: Vec<_> = name.split('_').collect();
            let is_time = is_time.iter().any(|time| words.contains(time));
            assert!(has_unit || !is_time, "{command}: {name} has no unit");
        }
        _ => {}
    }
}

fn is_id(name: &str) -> bool {
    ["id", "message", "letter", "revoked"].contains(&name) || name.ends_with("_id")
}

/// Collects the properties of all objects in the schema, as pointers.
fn properties(pointer: &str, schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
                let here = properties.keys();
                found.extend(here.map(|name| format!("{pointer}/properties/{name}")));
                assert_eq!(
                    fields["additionalProperties"], false,
                    "{pointer} allows others"
                );
            }
            for (name, field) in fields {
                properties(&format!("{pointer}/{name}"), field, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                properties(&format!("{pointer}/{index}"), item, found);
            }
        }
        _ => {}
    }
}

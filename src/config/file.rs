//! The file as it is written: tables whose keys are taken one by one, so that what is left over is unknown.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "TOML's value types are not ours; what is not the one wanted is a problem"
)]

use std::fmt;

use toml::{Table, Value};

/// One thing wrong with a configuration: where, what stands there, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The key, as a path: `service[2].pool`.
    pub key: String,
    /// What is wrong, with the value.
    pub what: String,
    /// What to do.
    pub cure: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.cure)
    }
}

/// All problems found so far.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, key: impl Into<String>, what: impl Into<String>, cure: impl Into<String>) {
        self.0.push(Problem { key: key.into(), what: what.into(), cure: cure.into() });
    }
}

/// A table being read.
pub(super) struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    pub(super) fn new(path: impl Into<String>, table: Table) -> Self {
        Self { path: path.into(), table, known: Vec::new() }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(super) fn string(&mut self, problems: &mut Problems, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                problems.add(self.key(key), format!("{other} is no string"), "write it in double quotes");
                None
            }
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn needed_string(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        example: &str,
    ) -> Option<String> {
        let missing = !self.table.contains_key(key);
        let found = self.string(problems, key);
        if missing {
            problems.add(self.key(key), "is missing", format!("write {key} = {example}"));
        } else if found.as_deref() == Some("") {
            problems.add(self.key(key), "is empty", format!("write {key} = {example}"));
            return None;
        }
        found
    }

    pub(super) fn flag(&mut self, problems: &mut Problems, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag),
            other => {
                problems.add(self.key(key), format!("{other} is neither true nor false"), "write true or false");
                None
            }
        }
    }

    pub(super) fn number(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.take(key)?;
        let number = match &value {
            Value::Integer(number) => u32::try_from(*number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            problems.add(
                self.key(key),
                format!("{value} is no whole number from {} to {}", range.start(), range.end()),
                format!("write a number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    /// A path that means the same wherever a command is started.
    pub(super) fn path_value(&mut self, problems: &mut Problems, key: &'static str) -> Option<String> {
        let path = self.string(problems, key)?;
        if !path.starts_with('/') {
            problems.add(self.key(key), format!("{path:?} is relative"), "write the whole path, from / on");
        }
        Some(path)
    }

    /// A list of strings; one string alone is a list of one.
    pub(super) fn strings(&mut self, problems: &mut Problems, key: &'static str) -> Option<Vec<String>> {
        match self.take(key)? {
            Value::String(text) => Some(vec![text]),
            Value::Array(values) => {
                let mut texts = Vec::new();
                for (at, value) in values.into_iter().enumerate() {
                    match value {
                        Value::String(text) => texts.push(text),
                        other => problems.add(
                            format!("{}[{at}]", self.key(key)),
                            format!("{other} is no string"),
                            "write it in double quotes",
                        ),
                    }
                }
                Some(texts)
            }
            other => {
                problems.add(self.key(key), format!("{other} is no list of strings"), "write [\"…\", \"…\"]");
                None
            }
        }
    }

    /// A list of numbers; one alone is a list of one.
    pub(super) fn numbers(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<Vec<u32>> {
        let values = match self.take(key)? {
            Value::Array(values) => values,
            single => vec![single],
        };
        let mut numbers = Vec::new();
        for value in values {
            match value
                .as_integer()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| range.contains(number))
            {
                Some(number) => numbers.push(number),
                None => problems.add(
                    self.key(key),
                    format!("{value} is no whole number from {} to {}", range.start(), range.end()),
                    "write a list such as [200, 404]",
                ),
            }
        }
        Some(numbers)
    }

    pub(super) fn section(&mut self, problems: &mut Problems, key: &'static str) -> Option<Self> {
        match self.take(key)? {
            Value::Table(table) => Some(Self::new(self.key(key), table)),
            other => {
                problems.add(self.key(key), format!("{other} is no table"), format!("write it as [{key}]"));
                None
            }
        }
    }

    /// The tables of `[[key]]`, each with its path.
    pub(super) fn sections(&mut self, problems: &mut Problems, key: &'static str) -> Vec<Self> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values
                .into_iter()
                .enumerate()
                .filter_map(|(at, value)| {
                    let path = format!("{}[{at}]", self.key(key));
                    match value {
                        Value::Table(table) => Some(Self::new(path, table)),
                        other => {
                            problems.add(path, format!("{other} is no table"), format!("write it as [[{key}]]"));
                            None
                        }
                    }
                })
                .collect(),
            Some(other) => {
                let what =
                    if other.is_table() { "is a single table".into() } else { format!("{other} is no list of tables") };
                problems.add(self.key(key), what, format!("write it as [[{key}]], with two brackets"));
                Vec::new()
            }
        }
    }

    /// Whatever was not taken is unknown.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            let near =
                self.known.iter().min_by_key(|known| distance(known, key)).filter(|known| distance(known, key) <= 2);
            let cure = match near {
                Some(near) => format!("did you mean {near}?"),
                None => format!("remove it; known here are {}", self.known.join(", ")),
            };
            problems.add(self.key(key), "is no known key", cure);
        }
    }
}

/// Letters to change, add or leave out.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, b) in two.iter().enumerate() {
            let replace = previous + usize::from(a != *b);
            previous = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[two.len()]
}

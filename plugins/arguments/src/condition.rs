//! Conditions in CEL (the Common Expression Language) about the arguments, the caller and the call.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value,
    common::ast::{EntryExpr, Expr, LiteralValue},
    extractors::This,
    parser::PrattParser,
};
use portcullis_sdk::{Call, Caller, Kind};
use regex::RegexBuilder;

/// The most bytes of an expression, and how deep it may nest: evaluation recurses as deep.
const MAX_BYTES: usize = 2_000;
const MAX_DEPTH: u16 = 24;
/// The most names of claims, headers or attributes that one expression may ask for.
const MAX_NAMES: usize = 64;
/// What a pattern of `matches` may be compiled to.
const MAX_COMPILED: usize = 64 << 10;
/// How much of an explanation is shown.
const MAX_WORDS: usize = 200;

/// What an expression may name.
const VARIABLES: [&str; 6] = ["args", "caller", "call", "claims", "headers", "attributes"];

/// One condition.
pub(crate) struct Condition {
    expression: IdedExpr,
    /// The variables that it uses.
    uses: BTreeSet<String>,
    /// All words in it: whatever claims, headers or attributes it asks for are among them.
    words: BTreeSet<String>,
    pub(crate) message: Option<String>,
}

/// Why a call may not pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The condition does not hold.
    False,
    /// It can't be judged, which refuses as well.
    Unclear(String),
}

impl Condition {
    pub(crate) fn new(source: &str, message: Option<String>) -> Result<Self, String> {
        if source.len() > MAX_BYTES {
            return Err(format!("{MAX_BYTES} bytes are the most"));
        }
        let parsed = PrattParser::new().max_recursion_depth(MAX_DEPTH).parse(source);
        let expression = parsed.map_err(|errors| brief(&errors.to_string()))?;
        let mut names = Names::default();
        names.of(&expression, &mut Vec::new());
        if let Some(unknown) = names.free.iter().find(|name| !VARIABLES.contains(&name.as_str())) {
            return Err(format!("there is no {unknown}; there are {}", VARIABLES.join(", ")));
        }
        if names.words.len() > MAX_NAMES {
            return Err(format!("{MAX_NAMES} different names and texts are the most"));
        }
        Ok(Self { expression, uses: names.free, words: names.words, message })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// Where it does not, or where that can't be said: a missing argument, one of another type.
    pub(crate) fn check(&self, env: &Arc<Env>, facts: &Facts<'_>) -> Result<(), Refusal> {
        let mut context = Context::with_env(Arc::clone(env));
        for name in &self.uses {
            context.add_variable_from_value(name.as_str(), facts.variable(name, &self.words));
        }
        // Not in the language of this build: its own would compile a pattern without limits.
        context.add_function("matches", matches).map_err(|error| Refusal::Unclear(brief(&error.to_string())))?;
        match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(Value::Bool(false)) => Err(Refusal::False),
            Ok(other) => Err(Refusal::Unclear(format!("it gives a {}, not true or false", other.type_of()))),
            Err(ExecutionError::NoSuchKey(key)) => Err(Refusal::Unclear(format!("there is no {}", brief(&key)))),
            Err(error) => Err(Refusal::Unclear(brief(&error.to_string()))),
        }
    }
}

/// `text.matches(pattern)`: somewhere in the text, in linear time.
fn matches(This(this): This<Arc<String>>, pattern: Arc<String>) -> Result<bool, ExecutionError> {
    let regex = RegexBuilder::new(&pattern).size_limit(MAX_COMPILED).nest_limit(16).build();
    let regex = regex.map_err(|error| ExecutionError::function_error("matches", error))?;
    Ok(regex.is_match(&this))
}

/// The names in an expression.
#[derive(Default)]
struct Names {
    free: BTreeSet<String>,
    words: BTreeSet<String>,
}

impl Names {
    fn of<'e>(&mut self, expression: &'e IdedExpr, bound: &mut Vec<&'e str>) {
        match &expression.expr {
            Expr::Ident(name) => {
                if !bound.contains(&name.as_str()) {
                    self.free.insert(name.trim_start_matches('.').to_owned());
                }
            }
            Expr::Literal(LiteralValue::String(text)) => {
                self.words.insert(text.inner().to_owned());
            }
            Expr::Literal(_) | Expr::Unspecified => {}
            Expr::Select(select) => {
                self.words.insert(select.field.clone());
                self.of(&select.operand, bound);
            }
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.of(target, bound));
                call.args.iter().for_each(|argument| self.of(argument, bound));
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.of(element, bound)),
            Expr::Map(map) => self.entries(&map.entries, bound),
            Expr::Struct(of) => self.entries(&of.entries, bound),
            Expr::Comprehension(over) => {
                self.of(&over.iter_range, bound);
                self.of(&over.accu_init, bound);
                let outer = bound.len();
                bound.extend([over.iter_var.as_str(), over.accu_var.as_str()]);
                bound.extend(over.iter_var2.as_deref());
                for part in [&over.loop_cond, &over.loop_step, &over.result] {
                    self.of(part, bound);
                }
                bound.truncate(outer);
            }
        }
    }

    fn entries<'e>(&mut self, entries: &'e [cel::common::ast::IdedEntryExpr], bound: &mut Vec<&'e str>) {
        for entry in entries {
            match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.of(&entry.key, bound);
                    self.of(&entry.value, bound);
                }
                EntryExpr::StructField(field) => self.of(&field.value, bound),
            }
        }
    }
}

/// What conditions are about. The host is asked only for what an expression names.
pub(crate) struct Facts<'a> {
    caller: Caller<'a>,
    call: Call<'a>,
    arguments: &'a serde_json::Value,
    converted: OnceCell<Value>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(caller: Caller<'a>, call: Call<'a>, arguments: &'a serde_json::Value) -> Self {
        Self { caller, call, arguments, converted: OnceCell::new() }
    }

    fn variable(&self, name: &str, words: &BTreeSet<String>) -> Value {
        let texts = |list: Vec<String>| Value::from(list);
        let map = |entries: Vec<(&str, Value)>| {
            let entries: HashMap<String, Value> =
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            Value::from(entries)
        };
        let asked = |ask: &dyn Fn(&str) -> Option<Value>| {
            let found: HashMap<String, Value> =
                words.iter().filter_map(|word| Some((word.clone(), ask(word)?))).collect();
            Value::from(found)
        };
        let (caller, call) = (self.caller, self.call);
        match name {
            "args" => self.converted.get_or_init(|| of_json(self.arguments)).clone(),
            "caller" => map(vec![
                ("subject", caller.subject().into()),
                ("kind", kind(caller.kind()).into()),
                ("tenant", caller.tenant().into()),
                ("teams", texts(caller.teams())),
                ("roles", texts(caller.roles())),
                ("groups", texts(caller.groups())),
            ]),
            "call" => map(vec![
                ("gateway", call.gateway().into()),
                ("server", call.server().into()),
                ("tool", call.tool().into()),
            ]),
            "claims" => asked(&|word| caller.claim(word).map(|value| of_json(&value.to_json()))),
            "headers" => asked(&|word| caller.header(word).map(Value::from)),
            _ => asked(&|word| caller.attribute(word).map(|value| of_json(&value.to_json()))),
        }
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::User => "user",
        Kind::Team => "team",
        Kind::Organization => "organization",
        Kind::Agent => "agent",
        Kind::External => "external",
        Kind::Anonymous => "anonymous",
        _ => "unknown",
    }
}

/// JSON as CEL has it: whole numbers that fit are `int`, others `double`.
fn of_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int)
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(of_json).collect::<Vec<Value>>()),
        serde_json::Value::Object(members) => {
            let members: HashMap<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), of_json(value))).collect();
            Value::from(members)
        }
    }
}

fn brief(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect()
}

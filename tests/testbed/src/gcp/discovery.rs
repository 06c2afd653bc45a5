//! Google's discovery document of Compute Engine: which methods there are, by which paths, and
//! with which parameters and bodies.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::{Context, ensure};
use axum::http::Method as Verb;
use parking_lot::Mutex;
use regex::Regex;
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The parameters of a call, in its path and in its query.
pub(super) type Parameters = BTreeMap<String, String>;

/// The document.
pub(super) struct Discovery {
    methods: Vec<Method>,
    /// The query parameters that all methods have.
    common: Map<String, Value>,
    pub(super) schemas: Map<String, Value>,
    patterns: Mutex<HashMap<String, Regex>>,
}

/// One method of the API.
#[derive(Debug)]
pub(super) struct Method {
    /// The resource's name in the API and the method's own: `addresses` and `insert`.
    pub(super) resource: String,
    pub(super) name: String,
    verb: Verb,
    path: Vec<Segment>,
    parameters: Map<String, Value>,
    /// The schema of its body.
    request: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Fixed(String),
    Parameter(String),
}

impl Method {
    /// The name by which faults and the log call it: `addresses.insert`.
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.resource, self.name)
    }

    /// The parameters in a path that is the method's.
    fn match_path(&self, path: &[&str]) -> Option<Parameters> {
        if self.path.len() != path.len() {
            return None;
        }
        let mut parameters = Parameters::new();
        for (segment, given) in self.path.iter().zip(path) {
            match segment {
                Segment::Fixed(name) if name == given => {}
                Segment::Fixed(_) => return None,
                Segment::Parameter(name) => _ = parameters.insert(name.clone(), (*given).to_owned()),
            }
        }
        Some(parameters)
    }

    fn fixed_segments(&self) -> usize {
        self.path.iter().filter(|segment| matches!(segment, Segment::Fixed(_))).count()
    }
}

impl Discovery {
    /// Reads the document that a Python environment with Google's client has.
    pub(super) fn read(environment: &Path) -> anyhow::Result<Self> {
        let lib = environment.join("lib");
        let folders = fs::read_dir(&lib).with_context(|| format!("reading {}", lib.display()))?;
        let below = "site-packages/googleapiclient/discovery_cache/documents/compute.v1.json";
        let found = folders.filter_map(|folder| Some(folder.ok()?.path().join(below))).find(|path| path.is_file());
        let path = found.with_context(|| format!("there is no {below} in {}", lib.display()))?;
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parsing {}", path.display()))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let mut document: Value = serde_json::from_slice(text)?;
        let mut take = |field: &str| match document[field].take() {
            Value::Object(object) => Ok(object),
            _ => Err(anyhow::anyhow!("it has no {field}")),
        };
        let (common, schemas, resources) = (take("parameters")?, take("schemas")?, take("resources")?);
        let mut methods = Vec::new();
        for (resource, mut content) in resources {
            let Value::Object(of_resource) = content["methods"].take() else { continue };
            for (name, method) in of_resource {
                methods.push(parse_method(&resource, &name, method).with_context(|| format!("{resource}.{name}"))?);
            }
        }
        ensure!(!methods.is_empty(), "it has no methods");
        Ok(Self { methods, common, schemas, patterns: Mutex::default() })
    }

    /// The method of a request, and the parameters in its path.
    ///
    /// `path` is what follows `/compute/v1/`.
    pub(super) fn find(&self, verb: &Verb, path: &str) -> Option<(&Method, Parameters)> {
        let path: Vec<&str> = path.split('/').collect();
        let of_verb = self.methods.iter().filter(|method| method.verb == *verb);
        let found = of_verb.filter_map(|method| Some((method, method.match_path(&path)?)));
        // `backendServices/listUsable` is no backend service of that name.
        found.max_by_key(|(method, _)| method.fixed_segments())
    }

    /// Checks parameters of a call: the method has them, and their values are of their types.
    pub(super) fn check_parameters(&self, method: &Method, parameters: &Parameters) -> Result<(), Refusal> {
        for (name, value) in parameters {
            let schema = method.parameters.get(name).or_else(|| self.common.get(name)).ok_or_else(|| {
                let why =
                    format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot bind query parameter.");
                Refusal::malformed(why)
            })?;
            let is_of_type = match schema["type"].as_str() {
                Some("integer") => value.parse::<i64>().is_ok(),
                Some("boolean") => matches!(value.as_str(), "true" | "false"),
                _ => true,
            };
            if !is_of_type {
                return Err(Refusal::invalid(name, value, "It is of another type."));
            }
            self.check_pattern(name, value, schema)?;
        }
        let given = |name: &String| parameters.contains_key(name);
        let required = method.parameters.iter().filter(|(_, schema)| schema["required"] == true);
        required.map(|(name, _)| name).find(|name| !given(name)).map_or(Ok(()), |name| Err(Refusal::required(name)))
    }

    /// Checks that a text matches the pattern of its schema as a whole.
    pub(super) fn check_pattern(&self, field: &str, value: &str, schema: &Value) -> Result<(), Refusal> {
        let Some(pattern) = schema["pattern"].as_str() else { return Ok(()) };
        let mut patterns = self.patterns.lock();
        let regex = match patterns.get(pattern) {
            Some(regex) => regex,
            None => {
                let compiled = Regex::new(&format!("^(?:{pattern})$"));
                let compiled = compiled.map_err(|error| Refusal::not_implemented(&format!("{pattern}: {error}")))?;
                &*patterns.entry(pattern.to_owned()).or_insert(compiled)
            }
        };
        if regex.is_match(value) {
            return Ok(());
        }
        Err(Refusal::invalid(field, value, &format!("Must be a match of regex '{pattern}'")))
    }

    /// Checks the body of a call, and returns it.
    pub(super) fn check_body(&self, method: &Method, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
        let Some(schema) = &method.request else {
            let is_empty = body.iter().all(u8::is_ascii_whitespace) || body == b"{}";
            return if is_empty { Ok(Map::new()) } else { Err(Refusal::malformed("The method has no request body.")) };
        };
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::malformed(format!("Invalid JSON payload received. Parse error: {error}")))?;
        self.check_schema(schema, &value, &method.id())?;
        match value {
            Value::Object(object) => Ok(object),
            other => Err(Refusal::malformed(format!("Invalid JSON payload received. {other} is not an object."))),
        }
    }
}

fn parse_method(resource: &str, name: &str, mut method: Value) -> anyhow::Result<Method> {
    let verb = Verb::from_str(method["httpMethod"].as_str().context("it has no httpMethod")?)?;
    let path = method["flatPath"].as_str().context("it has no flatPath")?;
    let path = path.split('/').map(|segment| match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(parameter) => Segment::Parameter(parameter.to_owned()),
        None => Segment::Fixed(segment.to_owned()),
    });
    let path = path.collect();
    let request = method["request"]["$ref"].as_str().map(str::to_owned);
    let parameters = match method["parameters"].take() {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    };
    Ok(Method { resource: resource.to_owned(), name: name.to_owned(), verb, path, parameters, request })
}

//! The report of a dry run: each object and load balancer that would change, with the fields
//! that would change. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;
use sharedlb_providers::{Backend, BackendSet, Change, LbName, LoadBalancer, diff};

use super::load_balancers::RecordedLoadBalancer;
use super::objects::{Objects, RecordedObject};
use crate::kubernetes::text;

/// Metadata that the API server keeps by itself.
const KEPT_BY_SERVER: [&str; 5] = ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"];

/// A time that differs in each run, and changes only with a field that is printed.
const TRANSITION_TIME: &str = "lastTransitionTime";

/// The fields that identify the items of a list.
const ITEM_KEYS: [&str; 3] = ["type", "name", "index"];

/// The longest value that is printed, in bytes.
const VALUE_MAX: usize = 400;

/// The most backends of a listener that are named.
const BACKENDS_NAMED: usize = 3;

/// The report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    blocks: Vec<Block>,
}

/// One object or load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    sign: Sign,
    title: String,
    lines: Vec<(Sign, String)>,
    is_load_balancer: bool,
}

/// How an object or field would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Created,
    Changed,
    Deleted,
}

impl Sign {
    /// `None`: it exists neither before nor after.
    fn of<T>(before: Option<&T>, now: Option<&T>) -> Option<Self> {
        match (before, now) {
            (None, Some(_)) => Some(Self::Created),
            (Some(_), Some(_)) => Some(Self::Changed),
            (Some(_), None) => Some(Self::Deleted),
            (None, None) => None,
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "+",
            Self::Changed => "~",
            Self::Deleted => "-",
        })
    }
}

impl Report {
    /// Creates the report on these objects and load balancers. Objects come first, by kind,
    /// namespace and name.
    pub(super) fn new(objects: &Objects, load_balancers: &BTreeMap<LbName, RecordedLoadBalancer>) -> Self {
        let mut blocks: Vec<Block> = objects.all().values().filter_map(of_object).collect();
        blocks.sort_by(|one, other| one.title.cmp(&other.title));
        blocks.extend(load_balancers.iter().filter_map(|(name, known)| of_load_balancer(name, known)));
        Self { blocks }
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn summary(&self) -> String {
        if self.is_empty() {
            return "Nothing would change.".to_owned();
        }
        let of =
            |load_balancers: bool| self.blocks.iter().filter(move |block| block.is_load_balancer == load_balancers);
        let count = |load_balancers, sign| of(load_balancers).filter(|block| block.sign == sign).count();
        let [objects, load_balancers] = [false, true].map(|load_balancers| {
            let [created, changed, deleted] =
                [Sign::Created, Sign::Changed, Sign::Deleted].map(|sign| count(load_balancers, sign));
            format!("{created} to create, {changed} to change, {deleted} to delete")
        });
        format!("Objects: {objects}. Load balancers: {load_balancers}.")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Block { sign, title, lines, .. } in &self.blocks {
            writeln!(f, "{sign} {title}")?;
            for (sign, line) in lines {
                writeln!(f, "    {sign} {line}")?;
            }
        }
        writeln!(f, "{}", self.summary())
    }
}

/// `None`: the object does not change.
fn of_object(entry: &RecordedObject) -> Option<Block> {
    let before = entry.before.as_ref();
    let now = entry.now.as_ref();
    let sign = Sign::of(before, now)?;
    let object = now.or(before)?;
    let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().unwrap_or_default();
    let title = match name("namespace") {
        "" => format!("{kind} {}", name("name")),
        namespace => format!("{kind} {namespace}/{}", name("name")),
    };
    let mut lines = Vec::new();
    if sign != Sign::Deleted {
        compare("", &essence(before), &essence(now), &mut lines);
        if lines.is_empty() {
            return None;
        }
    }
    Some(Block { sign, title, lines, is_load_balancer: false })
}

/// An object without the fields that are not printed.
fn essence(object: Option<&Value>) -> Value {
    let mut object = object.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .retain(|field, _| !KEPT_BY_SERVER.contains(&field.as_str()) && field != "name" && field != "namespace");
    }
    drop_transition_times(&mut object);
    object
}

fn drop_transition_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove(TRANSITION_TIME);
            fields.values_mut().for_each(drop_transition_times);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_transition_times),
        _ => {}
    }
}

/// Adds a line for each field that differs, and for each item of a list that is added or
/// removed.
fn compare(path: &str, before: &Value, now: &Value, lines: &mut Vec<(Sign, String)>) {
    match (before, now) {
        _ if before == now => {}
        // The API server keeps no empty list where there was nothing.
        (Value::Null, Value::Array(items)) if items.is_empty() => {}
        (Value::Object(_) | Value::Null, Value::Object(_)) => {
            let all: BTreeSet<&String> =
                [before, now].into_iter().filter_map(Value::as_object).flatten().map(|(field, _)| field).collect();
            for field in all {
                let path = match path {
                    "" => field.clone(),
                    // Such as the key of a label
                    path if field.contains(['.', '/']) => format!("{path}[{field}]"),
                    path => format!("{path}.{field}"),
                };
                compare(&path, &before[field], &now[field], lines);
            }
        }
        (Value::Array(_) | Value::Null, Value::Array(items)) if items.iter().any(Value::is_object) => {
            let (Some(before), Some(now)) = (keyed(before), keyed(now)) else {
                lines.push(line(path, before, now));
                return;
            };
            let all: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
            for key in all {
                let path = format!("{path}[{key}]");
                match (before.get(key), now.get(key)) {
                    (Some(before), Some(now)) => compare(&path, before, now, lines),
                    (before, now) => {
                        lines.push(line(&path, before.unwrap_or(&&Value::Null), now.unwrap_or(&&Value::Null)));
                    }
                }
            }
        }
        _ => lines.push(line(path, before, now)),
    }
}

/// The items of a list by their identifying field, if they have one.
fn keyed(list: &Value) -> Option<BTreeMap<String, &Value>> {
    let items = match list {
        Value::Null => return Some(BTreeMap::new()),
        list => list.as_array()?,
    };
    ITEM_KEYS.iter().find_map(|field| {
        let key = |item: &Value| match item.get(field)? {
            Value::String(key) => Some(key.clone()),
            Value::Number(key) => Some(key.to_string()),
            _ => None,
        };
        let keyed: BTreeMap<String, &Value> =
            items.iter().map(|item| Some((key(item)?, item))).collect::<Option<_>>()?;
        (keyed.len() == items.len()).then_some(keyed)
    })
}

fn line(path: &str, before: &Value, now: &Value) -> (Sign, String) {
    let print = |value: &Value| text::fit(&value.to_string(), VALUE_MAX);
    match (before, now) {
        (Value::Null, now) => (Sign::Created, format!("{path}: {}", print(now))),
        (before, Value::Null) => (Sign::Deleted, format!("{path}: {}", print(before))),
        (before, now) => (Sign::Changed, format!("{path}: {} → {}", print(before), print(now))),
    }
}

/// `None`: the load balancer does not change.
fn of_load_balancer(name: &LbName, known: &RecordedLoadBalancer) -> Option<Block> {
    let before = known.before.as_ref();
    let now = known.now.as_ref();
    let sign = Sign::of(before, now)?;
    let empty = LoadBalancer::default();
    let mut lines = Vec::new();
    if sign != Sign::Deleted {
        let before = before.unwrap_or(&empty);
        let now = now.unwrap_or(&empty);
        diff(before, now).iter().for_each(|change| of_change(change, before, now, &mut lines));
        lines.extend(
            known.repaired.iter().map(|(port, what)| (Sign::Changed, format!("port {port} is repaired: {what}"))),
        );
    }
    if sign == Sign::Changed && lines.is_empty() {
        return None;
    }
    let title = format!("load balancer {name} ({})", known.object);
    Some(Block { sign, title, lines, is_load_balancer: true })
}

fn of_change(change: &Change, before: &LoadBalancer, now: &LoadBalancer, lines: &mut Vec<(Sign, String)>) {
    let owner = |of: &LoadBalancer, key| of.listeners.get(key).map(|found| found.owner.to_string()).unwrap_or_default();
    let backends =
        |of: &LoadBalancer, key| of.listeners.get(key).map(|found| found.backends.clone()).unwrap_or_default();
    match change {
        Change::Configure => {
            let all: BTreeSet<&String> = before.attributes.keys().chain(now.attributes.keys()).collect();
            for key in all {
                let value = |of: &LoadBalancer| of.attributes.get(key).cloned().map_or(Value::Null, Value::from);
                let before = value(before);
                let now = value(now);
                if before != now {
                    lines.push(line(&format!("setting {key}"), &before, &now));
                }
            }
        }
        Change::Close(key) => lines.push((Sign::Deleted, format!("listener {key} of {}", owner(before, key)))),
        Change::Open(key) => {
            let backends = named(&backends(now, key));
            lines.push((Sign::Created, format!("listener {key} of {}: {backends}", owner(now, key))));
        }
        Change::Replace { close, open } => {
            let closed: Vec<String> = close.iter().map(ToString::to_string).collect();
            for key in open {
                let owner = owner(now, key);
                let closed = closed.join(", ");
                let backends = named(&backends(now, key));
                lines.push((Sign::Changed, format!("listener {closed} → {key} of {owner}: {backends}")));
            }
        }
        Change::Own(key) => {
            let former = owner(before, key);
            let owner = owner(now, key);
            lines.push((Sign::Changed, format!("listener {key} of {former} → {owner}")));
        }
        Change::Options(key) => {
            let options = |of: &LoadBalancer| {
                of.listeners.get(key).and_then(|found| serde_json::to_value(&found.options).ok()).unwrap_or_default()
            };
            let what = format!("options of listener {key} of {}", owner(now, key));
            lines.push(line(&what, &options(before), &options(now)));
        }
        Change::Backends(key) => {
            let had = backends(before, key);
            let has = backends(now, key);
            for (what, backends) in [("gets", &has - &had), ("loses", &had - &has)] {
                if !backends.is_empty() {
                    let owner = owner(now, key);
                    let backends = named(&backends);
                    lines.push((Sign::Changed, format!("listener {key} of {owner} {what} {backends}")));
                }
            }
        }
        // Other kinds of changes are not printed.
        _ => lines.push((Sign::Changed, format!("{change:?}"))),
    }
}

/// The number of backends, and the first of them.
fn named(backends: &BackendSet) -> String {
    let name = |backend: &Backend| {
        let endpoint = std::net::SocketAddr::new(backend.address, backend.port.get());
        let name = backend.pod.as_ref().or(backend.node.as_ref());
        name.map_or_else(|| endpoint.to_string(), |name| format!("{name} {endpoint}"))
    };
    let names: Vec<String> = backends.iter().take(BACKENDS_NAMED).map(name).collect();
    let count = match backends.len() {
        0 => return "no backends".to_owned(),
        1 => "1 backend".to_owned(),
        count => format!("{count} backends"),
    };
    let more = if backends.len() > BACKENDS_NAMED { ", …" } else { "" };
    format!("{count} ({}{more})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sharedlb_providers::{Listener, ListenerKey, Owner, Protocol};

    use super::*;

    fn lines(before: Option<Value>, now: Option<Value>) -> Option<Vec<String>> {
        let block = of_object(&RecordedObject { before, now })?;
        let lines = block.lines.iter().map(|(sign, line)| format!("{sign} {line}"));
        Some([format!("{} {}", block.sign, block.title)].into_iter().chain(lines).collect())
    }

    fn claim(finalizers: Value, status: Value) -> Value {
        json!({
            "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "redis", "resourceVersion": "7", "finalizers": finalizers},
            "spec": {"className": "default"},
            "status": status,
        })
    }

    #[test]
    fn only_fields_that_differ_are_shown_and_items_are_found_by_their_names() {
        let condition =
            |kind: &str, status: &str, time: &str| json!({"type": kind, "status": status, "lastTransitionTime": time});
        let before = claim(
            json!([]),
            json!({"conditions": [condition("Ready", "False", "a"), condition("Programmed", "True", "a")]}),
        );
        let now = claim(
            json!(["ours"]),
            json!({"conditions": [condition("Programmed", "True", "b"), condition("Ready", "True", "b")], "summary": "80/TCP"}),
        );
        let expected = [
            "~ SharedLB team/redis",
            "~ metadata.finalizers: [] → [\"ours\"]",
            "~ status.conditions[Ready].status: \"False\" → \"True\"",
            "+ status.summary: \"80/TCP\"",
        ];
        assert_eq!(lines(Some(before), Some(now)).unwrap(), expected);
    }

    #[test]
    fn what_is_created_is_shown_field_by_field_and_what_is_deleted_by_its_name() {
        let object = claim(json!(["ours"]), json!({"ports": [{"name": "", "port": 80}]}));
        let expected = [
            "+ SharedLB team/redis",
            "+ metadata.finalizers: [\"ours\"]",
            "+ spec.className: \"default\"",
            "+ status.ports[]: {\"name\":\"\",\"port\":80}",
        ];
        assert_eq!(lines(None, Some(object.clone())).unwrap(), expected);
        assert_eq!(lines(Some(object), None).unwrap(), ["- SharedLB team/redis"]);
    }

    #[test]
    fn what_ends_as_it_was_is_not_shown() {
        let mut now = claim(json!([]), json!({}));
        now["metadata"]["resourceVersion"] = json!("8");
        assert_eq!(lines(Some(claim(json!([]), json!({}))), Some(now)), None);
        assert_eq!(lines(None, None), None, "it was created and deleted");
    }

    #[test]
    fn a_value_is_on_one_line_of_bounded_length() {
        let message = format!("two\nlines{}", "x".repeat(2 * VALUE_MAX));
        let shown = lines(None, Some(claim(json!([]), json!({"summary": message})))).unwrap();
        let shown = shown.last().unwrap();
        assert!(!shown.contains('\n') && shown.len() < VALUE_MAX + 50, "{shown}");
    }

    #[test]
    fn of_a_load_balancer_listeners_backends_and_settings_are_shown() {
        let port = |port: u16| port.try_into().expect("not zero");
        let key = |number| ListenerKey { port: port(number), protocol: Protocol::Tcp };
        let backend = |n: u8, pod: Option<&str>| Backend {
            address: [10, 244, 0, n].into(),
            port: port(8080),
            pod: pod.map(Into::into),
            node: None,
            provider_id: None,
            transport: None,
        };
        let owner = |claim: &str| Owner { namespace: "team".into(), claim: claim.into(), port: "".into() };
        let listener = |claim: &str, backends: &[Backend]| {
            Listener::new(owner(claim), backends.iter().cloned().collect::<BackendSet>())
        };
        let all: Vec<Backend> = (1..=4).map(|n| backend(n, None)).collect();
        let before = LoadBalancer {
            attributes: [("scheme".to_owned(), "internal".to_owned())].into(),
            listeners: [(key(80), listener("web", &all[..1])), (key(90), listener("old", &[]))].into(),
        };
        let now = LoadBalancer {
            attributes: [("scheme".to_owned(), "internet-facing".to_owned())].into(),
            listeners: [(key(80), listener("web", &[backend(9, Some("web-9"))])), (key(5432), listener("db", &all))]
                .into(),
        };
        let shown = |before: Option<&LoadBalancer>, now: Option<&LoadBalancer>| {
            let name = LbName::from_recorded("slb-c-0");
            let known = RecordedLoadBalancer::new("NLB slb-c-0", before.cloned(), now.cloned());
            let report = Report::new(&Objects::default(), &[(name, known)].into());
            (report.is_empty(), report.to_string())
        };
        let expected = "~ load balancer slb-c-0 (NLB slb-c-0)\n    \
            ~ setting scheme: \"internal\" → \"internet-facing\"\n    \
            - listener 90/TCP of team/old\n    \
            + listener 5432/TCP of team/db: 4 backends (10.244.0.1:8080, 10.244.0.2:8080, 10.244.0.3:8080, …)\n    \
            ~ listener 80/TCP of team/web gets 1 backend (web-9 10.244.0.9:8080)\n    \
            ~ listener 80/TCP of team/web loses 1 backend (10.244.0.1:8080)\n\
            Objects: 0 to create, 0 to change, 0 to delete. Load balancers: 0 to create, 1 to change, 0 to delete.\n";
        assert_eq!(shown(Some(&before), Some(&now)), (false, expected.to_owned()));
        let (_, deleted) = shown(Some(&before), None);
        assert!(deleted.starts_with("- load balancer slb-c-0 (NLB slb-c-0)\nObjects"), "{deleted}");
        assert_eq!(shown(Some(&before), Some(&before)), (true, "Nothing would change.\n".to_owned()));
        let mut known = RecordedLoadBalancer::new("NLB slb-c-0", Some(before.clone()), Some(before));
        known.repaired.insert(port(80), "a target group serves no listener".to_owned());
        let report = Report::new(&Objects::default(), &[(LbName::from_recorded("slb-c-0"), known)].into()).to_string();
        assert!(report.contains("\n    ~ port 80 is repaired: a target group serves no listener\n"), "{report}");
    }
}

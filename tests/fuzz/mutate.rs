//! Objects close to valid ones: valid ones, changed in a few places
//! into what no schema would let pass. Shared by the tests of several crates.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// One change, at one of the places of an object.
#[derive(Debug, Clone)]
enum Change {
    Remove,
    Replace(Value),
    /// Something of the object itself, where it does not belong
    Move(usize),
    InList,
    InMap,
    /// Many times the same
    Repeat(usize),
    Rename(String),
    AsText,
}

/// The object with up to six changes below the field at `within` (a JSON pointer).
pub(crate) fn near(object: Value, within: &'static str) -> impl Strategy<Value = Value> {
    prop::collection::vec((any::<usize>(), change()), 0..6).prop_map(move |changes| {
        let mut changed = object.clone();
        for (place, change) in changes {
            let Some(part) = changed.pointer_mut(within) else { break };
            let copy = part.clone();
            let count = count(part);
            apply(part, &mut (place % count), &change, &copy);
        }
        changed
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::Remove),
        6 => odd().prop_map(Change::Replace),
        2 => any::<usize>().prop_map(Change::Move),
        1 => Just(Change::InList),
        1 => Just(Change::InMap),
        1 => (2usize..300).prop_map(Change::Repeat),
        1 => "\\PC{0,12}".prop_map(Change::Rename),
        1 => Just(Change::AsText),
    ]
}

/// Values that are easily forgotten.
pub(crate) fn odd() -> impl Strategy<Value = Value> {
    let fixed = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(22),
        json!(65535),
        json!(65536),
        json!(99999),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(1e308),
        json!(-0.5),
        json!([]),
        json!({}),
        json!(""),
        json!("0"),
        json!("65536"),
        json!("TCP"),
        json!("SCTP"),
        json!("TCP_UDP"),
        json!("20417/TCP"),
        json!("/"),
        json!("//"),
        json!("a/b/c/d"),
        json!("team/"),
        json!("\u{0}"),
        json!("\n\r\u{1b}[2J"),
        json!("\u{202e}"),
        json!("x".repeat(10_000)),
        json!("ß→🦀"),
        json!("9999-12-31T23:59:59Z"),
        json!("-009999-01-01T00:00:00Z"),
        json!("1970-01-01T00:00:00Z"),
        json!("2026-02-30T25:61:00Z"),
        json!("10.0.0.1"),
        json!("::"),
        json!("::ffff:127.0.0.1"),
        json!("999.0.0.1"),
        json!("slb-default-0-0123456789"),
        deep(200),
    ];
    prop_oneof![
        4 => prop::sample::select(fixed),
        1 => any::<i64>().prop_map(|number| json!(number)),
        1 => (0u16..).prop_map(|number| json!(number)),
        1 => "\\PC{0,40}".prop_map(|text| json!(text)),
    ]
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!("deep"), |inner, _| json!([inner]))
}

/// How many places there are below.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Makes the change at the place with this number. Returns whether it is to be
/// made where the value itself is kept.
fn apply(value: &mut Value, place: &mut usize, change: &Change, whole: &Value) -> bool {
    if *place == 0 {
        *place = usize::MAX;
        return !changed_in_place(value, change, whole);
    }
    *place -= 1;
    match value {
        Value::Array(items) => {
            for index in 0..items.len() {
                if apply(&mut items[index], place, change, whole) {
                    _ = items.remove(index);
                }
                if *place == usize::MAX {
                    break;
                }
            }
        }
        Value::Object(fields) => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            for key in keys {
                if fields.get_mut(&key).is_some_and(|field| apply(field, place, change, whole)) {
                    change_field(fields, &key, change);
                }
                if *place == usize::MAX {
                    break;
                }
            }
        }
        _ => {}
    }
    false
}

fn change_field(fields: &mut Map<String, Value>, key: &str, change: &Change) {
    if let (Some(value), Change::Rename(name)) = (fields.remove(key), change) {
        fields.insert(name.clone(), value);
    }
}

fn changed_in_place(value: &mut Value, change: &Change, whole: &Value) -> bool {
    *value = match change {
        Change::Remove | Change::Rename(_) => return false,
        Change::Replace(odd) => odd.clone(),
        Change::Move(from) => nth(whole, &mut (from % count(whole))).unwrap_or(Value::Null),
        Change::InList => json!([value.take()]),
        Change::InMap => json!({"of": value.take()}),
        Change::Repeat(times) => match value.take() {
            Value::Array(items) => {
                items.iter().cycle().take(items.len().saturating_mul(*times).min(2000)).cloned().collect()
            }
            other => json!(vec![other; (*times).min(20)]),
        },
        Change::AsText => json!(value.to_string()),
    };
    true
}

fn nth(value: &Value, place: &mut usize) -> Option<Value> {
    if *place == 0 {
        return Some(value.clone());
    }
    *place -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| nth(item, place)),
        Value::Object(fields) => fields.values().find_map(|field| nth(field, place)),
        _ => None,
    }
}

//! The objects with the controller's writes, which the API server never gets. Answers follow
//! the rules of the API server as far as the controller depends on them, without defaults,
//! admission and other controllers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use json_patch::PatchOperation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::request::ObjectPath;

/// The first resourceVersion of a dry run. No API server reaches it (etcd counts its
/// writes), so objects that are written here are newer than all those of the API server.
pub(super) const FIRST_VERSION: u64 = 1 << 62;

/// The objects that were written.
#[derive(Debug, Default)]
pub(super) struct Objects {
    entries: BTreeMap<ObjectPath, RecordedObject>,
    writes: u64,
}

/// An object before and after all writes; `None`: it does not exist.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RecordedObject {
    pub(super) before: Option<Value>,
    pub(super) now: Option<Value>,
}

/// A write to one object.
#[derive(Debug)]
pub(super) enum Write {
    Create(Value),
    JsonPatch(Vec<PatchOperation>),
    MergePatch(Value),
    /// The options of the request
    Delete(Value),
}

/// The manner of a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
    /// Whether only the status is written
    pub(super) status: bool,
    pub(super) manager: &'a str,
    /// The time of the write
    pub(super) time: Timestamp,
}

/// Why the API server would reject a write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    AlreadyExists,
    #[error("the object has been modified")]
    Conflict,
    #[error("{0}")]
    Invalid(String),
}

impl Rejection {
    /// The status code of the answer, and its reason.
    pub(super) fn code(&self) -> (u16, &'static str) {
        match self {
            Self::NotFound => (404, "NotFound"),
            Self::AlreadyExists => (409, "AlreadyExists"),
            Self::Conflict => (409, "Conflict"),
            Self::Invalid(_) => (422, "Invalid"),
        }
    }
}

/// The effect of a write on an object.
#[derive(Debug)]
pub(super) struct Written {
    /// The object before
    pub(super) old: Option<Value>,
    /// The object after
    pub(super) new: Option<Value>,
    /// The object in the answer
    pub(super) reply: Value,
}

impl Objects {
    /// The object with this path, if it was ever written; `Some(None)`: it was deleted.
    pub(super) fn get(&self, path: &ObjectPath) -> Option<Option<&Value>> {
        self.entries.get(path).map(|entry| entry.now.as_ref())
    }

    /// All objects that were written.
    pub(super) fn all(&self) -> &BTreeMap<ObjectPath, RecordedObject> {
        &self.entries
    }

    /// Carries a write out. `before` is the object in the API server; it is ignored
    /// if the object was written before.
    pub(super) fn write(
        &mut self,
        path: &ObjectPath,
        before: Option<Value>,
        write: Write,
        manner: Manner<'_>,
    ) -> Result<Written, Rejection> {
        let known = self.entries.get(path);
        let old = known.map_or_else(|| before.clone(), |entry| entry.now.clone());
        let version = FIRST_VERSION + self.writes;
        let changed = changed(path, old.as_ref(), write, manner, version)?;
        let (new, reply) = match changed {
            AfterWrite::Unchanged(object) => return Ok(Written { new: old.clone(), old, reply: object }),
            AfterWrite::Changed(object) => (Some(object.clone()), object),
            AfterWrite::Gone(object) => (None, object),
        };
        self.writes += 1;
        let entry = self.entries.entry(path.clone()).or_insert(RecordedObject { before, now: None });
        entry.now.clone_from(&new);
        Ok(Written { old, new, reply })
    }
}

/// The object after a write.
enum AfterWrite {
    Unchanged(Value),
    Changed(Value),
    Gone(Value),
}

/// Applies a write to an object.
fn changed(
    path: &ObjectPath,
    old: Option<&Value>,
    write: Write,
    manner: Manner<'_>,
    version: u64,
) -> Result<AfterWrite, Rejection> {
    let write = match (write, old) {
        (Write::Create(_), Some(_)) => return Err(Rejection::AlreadyExists),
        (Write::Create(object), None) => return Ok(AfterWrite::Changed(created(path, object, manner, version))),
        (write, _) => write,
    };
    let old = old.ok_or(Rejection::NotFound)?;
    let mut new = old.clone();
    match write {
        Write::Create(object) => new = object,
        Write::JsonPatch(operations) => {
            json_patch::patch(&mut new, &operations).map_err(|error| Rejection::Invalid(error.to_string()))?;
            drop_nulls(&mut new);
        }
        Write::MergePatch(patch) => {
            json_patch::merge(&mut new, &patch);
            if !manner.status {
                record_manager(&mut new, manner.manager, &patch);
            }
        }
        Write::Delete(options) => {
            for field in ["uid", "resourceVersion"] {
                let wanted = &options["preconditions"][field];
                if !wanted.is_null() && *wanted != old["metadata"][field] {
                    return Err(Rejection::Conflict);
                }
            }
            if old["metadata"]["deletionTimestamp"].is_null() {
                new["metadata"]["deletionTimestamp"] = time(manner.time);
            }
        }
    }
    if ["uid", "resourceVersion"].iter().any(|field| new["metadata"][field] != old["metadata"][field]) {
        return Err(Rejection::Conflict);
    }
    keep_what_is_not_written(&mut new, old, path, manner.status);
    if is_same(&new, old) {
        return Ok(AfterWrite::Unchanged(old.clone()));
    }
    if new["spec"] != old["spec"]
        && let Some(generation) = old["metadata"]["generation"].as_i64()
    {
        new["metadata"]["generation"] = json!(generation + 1);
    }
    new["metadata"]["resourceVersion"] = json!(version.to_string());
    let is_held = new["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    let is_gone = !new["metadata"]["deletionTimestamp"].is_null() && !is_held;
    Ok(if is_gone { AfterWrite::Gone(new) } else { AfterWrite::Changed(new) })
}

fn created(path: &ObjectPath, mut object: Value, manner: Manner<'_>, version: u64) -> Value {
    drop_nulls(&mut object);
    let fields = json!({
        "uid": format!("dry-run-{}", version - FIRST_VERSION),
        "resourceVersion": version.to_string(),
        "generation": 1,
        "creationTimestamp": time(manner.time),
    });
    json_patch::merge(&mut object["metadata"], &fields);
    if !path.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(path.namespace);
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    object
}

/// A write of the status keeps all other fields, and any other write keeps the status. For a
/// Service, as for other built-in kinds, a write of the status changes metadata too.
fn keep_what_is_not_written(new: &mut Value, old: &Value, path: &ObjectPath, status: bool) {
    if status {
        let written = new["status"].take();
        let metadata = new["metadata"].take();
        new.clone_from(old);
        new["status"] = written;
        if path.resource.group_version == "api/v1" {
            new["metadata"] = metadata;
        }
    } else {
        match old.get("status") {
            Some(status) => new["status"].clone_from(status),
            None => _ = new.as_object_mut().and_then(|object| object.remove("status")),
        }
    }
}

/// Whether a write changed nothing: the API server then keeps the resourceVersion.
fn is_same(new: &Value, old: &Value) -> bool {
    let essence = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["managedFields"].take();
        object
    };
    essence(new) == essence(old)
}

/// Records in `managedFields` which fields a merge patch has set, as the API server does:
/// the source of ConfigMaps depends on it.
fn record_manager(object: &mut Value, manager: &str, patch: &Value) {
    let mut patch = patch.clone();
    if let Some(patch) = patch.as_object_mut() {
        patch.remove("metadata");
    }
    let managers = &mut object["metadata"]["managedFields"];
    if !managers.is_array() {
        *managers = json!([]);
    }
    let Some(managers) = managers.as_array_mut() else { return };
    let is_ours =
        |entry: &Value| entry["manager"] == manager && entry["operation"] == "Update" && entry["subresource"].is_null();
    let at = managers.iter().position(is_ours).unwrap_or_else(|| {
        managers.push(json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {}}));
        managers.len() - 1
    });
    json_patch::merge(&mut managers[at]["fieldsV1"], &field_set(&patch));
}

/// The fields of a merge patch, as a merge patch of `fieldsV1`.
fn field_set(patch: &Value) -> Value {
    match patch {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (format!("f:{name}"), field_set(value))).collect::<Map<_, _>>().into()
        }
        Value::Null => Value::Null,
        _ => json!({}),
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A time in an object, in whole seconds.
fn time(time: Timestamp) -> Value {
    serde_json::to_value(Time(time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dry_run::request::Resource;

    fn path() -> ObjectPath {
        let resource = Resource { group_version: "apis/sharedlb.dev/v1alpha1".into(), plural: "sharedlbs".into() };
        ObjectPath { resource, namespace: "team".into(), name: "redis".into() }
    }

    fn found() -> Value {
        json!({
            "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "redis", "uid": "u", "resourceVersion": "7", "generation": 1},
            "spec": {"className": "default"},
        })
    }

    const MANNER: Manner<'_> = Manner { status: false, manager: "sharedlb", time: Timestamp::UNIX_EPOCH };
    const STATUS: Manner<'_> = Manner { status: true, ..MANNER };

    fn json_patch(patch: Value) -> Write {
        Write::JsonPatch(serde_json::from_value(patch).unwrap())
    }

    fn version(object: &Value) -> u64 {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn a_write_on_what_was_read_succeeds_and_one_on_an_older_version_is_a_conflict() {
        let mut objects = Objects::default();
        let status = |version: &str| {
            json_patch(json!([
                {"op": "replace", "path": "/metadata/uid", "value": "u"},
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/status", "value": {"summary": version}},
            ]))
        };
        let written = objects.write(&path(), Some(found()), status("7"), STATUS).unwrap();
        let now = version(&written.reply);
        assert!(now > 7);
        assert_eq!(objects.write(&path(), None, status("7"), STATUS).unwrap_err(), Rejection::Conflict);
        let written = objects.write(&path(), None, status(&now.to_string()), STATUS).unwrap();
        assert!(version(&written.reply) > now, "versions are in the order of the writes");
        assert_eq!(objects.all()[&path()].before, Some(found()));
        let other = json_patch(json!([{"op": "replace", "path": "/metadata/uid", "value": "another"}]));
        assert_eq!(objects.write(&path(), None, other, STATUS).unwrap_err(), Rejection::Conflict);
    }

    #[test]
    fn a_write_of_the_status_changes_nothing_else_and_any_other_write_leaves_the_status() {
        let mut objects = Objects::default();
        let patch = json!({"spec": {"className": "other"}, "status": {"summary": "80"}});
        let written = objects.write(&path(), Some(found()), Write::MergePatch(patch.clone()), STATUS).unwrap();
        assert_eq!(written.reply["spec"]["className"], "default");
        assert_eq!(written.reply["status"]["summary"], "80");
        let patch = json!({"spec": {"className": "other"}, "status": {"summary": "81"}});
        let written = objects.write(&path(), None, Write::MergePatch(patch), MANNER).unwrap();
        assert_eq!(written.reply["status"]["summary"], "80");
        assert_eq!(
            (&written.reply["spec"]["className"], &written.reply["metadata"]["generation"]),
            (&json!("other"), &json!(2))
        );
    }

    #[test]
    fn a_write_of_the_status_of_a_service_changes_its_metadata_too() {
        let mut objects = Objects::default();
        let resource = Resource { group_version: "api/v1".into(), plural: "services".into() };
        let service = ObjectPath { resource, ..path() };
        let patch = json!({"metadata": {"finalizers": ["ours"]}, "spec": {"className": "other"}, "status": {}});
        for (path, finalizers) in [(service, json!(["ours"])), (path(), Value::Null)] {
            let written = objects.write(&path, Some(found()), Write::MergePatch(patch.clone()), STATUS).unwrap();
            assert_eq!(written.reply["metadata"]["finalizers"], finalizers);
            assert_eq!(written.reply["spec"]["className"], "default");
        }
    }

    #[test]
    fn a_write_that_changes_nothing_keeps_the_version_and_counts_as_none() {
        let mut objects = Objects::default();
        let patch = Write::MergePatch(json!({"spec": {"className": "default"}}));
        let written = objects.write(&path(), Some(found()), patch, MANNER).unwrap();
        assert_eq!(written.reply, found());
        assert!(objects.all().is_empty());
    }

    #[test]
    fn what_is_deleted_goes_with_its_last_finalizer() {
        let mut objects = Objects::default();
        let protect = |finalizers: Value| Write::MergePatch(json!({"metadata": {"finalizers": finalizers}}));
        objects.write(&path(), Some(found()), protect(json!(["ours"])), MANNER).unwrap();
        let written = objects.write(&path(), None, Write::Delete(json!({})), MANNER).unwrap();
        assert!(written.new.is_some() && !written.reply["metadata"]["deletionTimestamp"].is_null());
        let written = objects.write(&path(), None, protect(json!([])), MANNER).unwrap();
        assert!(written.new.is_none());
        assert_eq!(objects.get(&path()), Some(None));
        let again = objects.write(&path(), None, Write::Delete(json!({})), MANNER);
        assert_eq!(again.unwrap_err(), Rejection::NotFound);
    }

    #[test]
    fn only_the_object_that_is_meant_is_deleted() {
        let mut objects = Objects::default();
        let another = Write::Delete(json!({"preconditions": {"uid": "another"}}));
        assert_eq!(objects.write(&path(), Some(found()), another, MANNER).unwrap_err(), Rejection::Conflict);
        let this = Write::Delete(json!({"preconditions": {"uid": "u", "resourceVersion": "7"}}));
        assert!(objects.write(&path(), Some(found()), this, MANNER).unwrap().new.is_none());
    }

    #[test]
    fn a_name_that_is_taken_cannot_be_created_and_one_that_is_free_is_without_a_status() {
        let mut objects = Objects::default();
        let claim = || Write::Create(json!({"metadata": {"name": "redis"}, "spec": {"a": null}, "status": {}}));
        assert_eq!(objects.write(&path(), Some(found()), claim(), MANNER).unwrap_err(), Rejection::AlreadyExists);
        let written = objects.write(&path(), None, claim(), MANNER).unwrap();
        assert!(version(&written.reply) >= FIRST_VERSION);
        assert_eq!((&written.reply["metadata"]["namespace"], &written.reply["spec"]), (&json!("team"), &json!({})));
        assert!(written.reply.get("status").is_none());
        assert_eq!(objects.write(&path(), None, claim(), MANNER).unwrap_err(), Rejection::AlreadyExists);
    }

    #[test]
    fn it_is_recorded_which_fields_a_merge_patch_has_set() {
        let mut objects = Objects::default();
        let patch = |data: Value| Write::MergePatch(json!({"metadata": {"uid": "u"}, "data": data}));
        objects.write(&path(), Some(found()), patch(json!({"bind-ip": "a", "bind-port": "80"})), MANNER).unwrap();
        let written = objects.write(&path(), None, patch(json!({"bind-port": null})), MANNER).unwrap();
        let managers = &written.reply["metadata"]["managedFields"];
        assert_eq!(managers[0]["manager"], "sharedlb");
        assert_eq!(managers[0]["fieldsV1"], json!({"f:data": {"f:bind-ip": {}}}));
        assert_eq!(managers.as_array().map(Vec::len), Some(1));
    }
}

//! What each method of the API does.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::discovery::{Method, Parameters};
use super::kinds;
use super::operations::{Begin, Effect, Ending, RequestId};
use super::path::{Kind, ObjectPath};
use super::refusal::Refusal;
use super::state::{Fields, State, default, elements, merged, text};

/// How many elements a list has on one page, unless the call asks for less.
const PAGE: usize = 500;

/// A call whose path, parameters and body have the form that the method demands.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) parameters: Parameters,
    /// What follows `projects/PROJECT/` in its path.
    pub(super) path: String,
    pub(super) body: Fields,
    pub(super) ending: Ending,
}

impl Call<'_> {
    /// The object that the call is about.
    pub(super) fn target(&self) -> ObjectPath {
        match self.method.name.as_str() {
            "insert" => ObjectPath::within(&self.path, text(&self.body, "name").unwrap_or_default()),
            "get" | "delete" | "patch" | "update" | "list" => ObjectPath::new(&self.path),
            // An action on an object is named behind it.
            _ => ObjectPath::new(self.path.rsplit_once('/').map_or("", |(object, _)| object)),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    fn request_id(&self) -> Option<RequestId> {
        let id = self.parameter("requestId")?.to_owned();
        Some(RequestId { call: format!("{} {}", self.method.id(), self.path), id })
    }

    fn begin(&self, state: &mut State, effect: Effect) -> Result<Value, Refusal> {
        let name = state.operations.begin(Begin {
            verb: self.method.name.clone(),
            path: self.target(),
            effect,
            ending: self.ending.clone(),
            request: self.request_id(),
        });
        state.operation(&name).ok_or_else(|| Refusal::not_found(&name))
    }
}

/// Carries a call out, and returns its answer.
pub(super) fn carry_out(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    state.check_scope(&call.path)?;
    if let Some(request) = call.request_id() {
        if !is_request_id(&request.id) {
            return Err(Refusal::invalid("requestId", &request.id, "It must be a UUID that is not zero."));
        }
        // A call that began an operation is not carried out again.
        if let Some(answer) = state.operations.of_request(&request).and_then(|name| state.operation(name)) {
            return Ok(answer);
        }
    }
    let path = call.target();
    match (call.method.resource.as_str(), call.method.name.as_str()) {
        ("projects", "get") => Ok(kinds::quotas::project(state)),
        ("regions", "get") => Ok(kinds::quotas::region(state)),
        ("regionOperations" | "zoneOperations" | "globalOperations", "get" | "wait") => {
            state.operation(path.name()).ok_or_else(|| Refusal::not_found(&state.full_name(&path)))
        }
        (_, "get") => state.shown(&path),
        (_, "list") => list(state, call),
        (_, "insert") => insert(state, call),
        (_, "delete") => delete(state, call),
        (_, "patch" | "update") => write(state, call),
        (_, "setLabels") => set_labels(state, call),
        ("networkEndpointGroups", "attachNetworkEndpoints" | "detachNetworkEndpoints") => endpoints(state, call),
        ("networkEndpointGroups", "listNetworkEndpoints") => list_endpoints(state, call),
        _ => Err(Refusal::not_implemented(&call.method.id())),
    }
}

fn insert(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    if path.name().is_empty() {
        return Err(Refusal::required("resource.name"));
    }
    let kind = Kind::of_collection(path.collection()).ok_or_else(|| Refusal::not_implemented(&call.method.id()))?;
    if state.objects.contains_key(&path) {
        return Err(Refusal::already_exists(&state.full_name(&path)));
    }
    let fields = kinds::create(state, kind, &path, call.body.clone())?;
    kinds::quotas::check(state, kind, &fields)?;
    state.insert(&path, kind, fields);
    call.begin(state, Effect::Create)
}

fn delete(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    let kind = Kind::of_collection(path.collection()).ok_or_else(|| Refusal::not_implemented(&call.method.id()))?;
    state.object(&path)?;
    state.check_is_ready(&path)?;
    if let Some(user) = state.users(&path).first() {
        return Err(Refusal::in_use(kind.in_messages(), &state.full_name(&path), &state.full_name(user)));
    }
    call.begin(state, Effect::Delete)
}

/// A patch changes the fields that it has; an update replaces all of them.
fn write(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    let kind = Kind::of_collection(path.collection()).ok_or_else(|| Refusal::not_implemented(&call.method.id()))?;
    let before = state.object(&path)?.fields.clone();
    state.check_is_ready(&path)?;
    let wanted = match call.method.name.as_str() {
        "patch" => merged(&before, &call.body),
        _ => {
            let mut wanted = call.body.clone();
            for field in ["kind", "id", "creationTimestamp", "selfLink", "region", "zone"] {
                wanted.extend(before.get(field).map(|value| (field.to_owned(), value.clone())));
            }
            wanted
        }
    };
    if text(&wanted, "name").is_some_and(|name| name != path.name()) {
        return Err(Refusal::invalid("resource.name", path.name(), "The name cannot be changed."));
    }
    let fields = kinds::change(state, kind, &path, &before, &call.body, wanted)?;
    call.begin(state, Effect::Write(fields))
}

/// Fields `labels` and `labelFingerprint` of the document: labels change by this method alone,
/// and only with the fingerprint of the present ones.
fn set_labels(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    let mut fields = state.object(&path)?.fields.clone();
    state.check_is_ready(&path)?;
    if text(&call.body, "labelFingerprint") != text(&fields, "labelFingerprint") {
        let message = "Labels fingerprint either invalid or resource labels have changed";
        return Err(Refusal::condition_not_met(message));
    }
    let labels = call.body.get("labels").cloned().unwrap_or(json!({}));
    for (key, value) in labels.as_object().into_iter().flatten() {
        kinds::check_label(key, value.as_str().unwrap_or_default())?;
    }
    fields.insert("labels".into(), labels);
    call.begin(state, Effect::Write(fields))
}

fn endpoints(state: &mut State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    let attached = state.object(&path)?.instances.clone();
    state.check_is_ready(&path)?;
    let instances = kinds::groups::instances(state, &path, elements(&call.body, "networkEndpoints"))?;
    let effect = match call.method.name.as_str() {
        "attachNetworkEndpoints" => Effect::Attach(instances),
        _ => {
            if let Some(missing) = instances.difference(&attached).next() {
                let why = "The network endpoint is not in the group.";
                return Err(Refusal::invalid("resource.networkEndpoints", missing, why));
            }
            Effect::Detach(instances)
        }
    };
    call.begin(state, effect)
}

fn list_endpoints(state: &State, call: &Call<'_>) -> Result<Value, Refusal> {
    let path = call.target();
    let instances: BTreeSet<String> = state.object(&path)?.instances.clone();
    let items = instances.into_iter().map(|instance| {
        let address = kinds::groups::address(state, path.scope(), &instance);
        json!({"networkEndpoint": {"instance": instance, "ipAddress": address}})
    });
    paged(call, "networkEndpointGroupsListNetworkEndpoints", items.collect())
}

fn list(state: &State, call: &Call<'_>) -> Result<Value, Refusal> {
    if call.parameter("filter").is_some() {
        return Err(Refusal::not_implemented("filters of lists"));
    }
    let collection = format!("{}/", call.path);
    let kind = ObjectPath::within(&call.path, "any");
    let kind = Kind::of_collection(kind.collection()).ok_or_else(|| Refusal::not_implemented(&call.method.id()))?;
    let paths = state.objects.keys().filter(|path| path.as_str().starts_with(&collection));
    let items = paths.map(|path| state.shown(path)).collect::<Result<Vec<_>, _>>()?;
    paged(call, &format!("{}List", kind.api_name()), items)
}

/// One page of a list.
fn paged(call: &Call<'_>, kind: &str, items: Vec<Value>) -> Result<Value, Refusal> {
    let number = |name: &str| call.parameter(name).and_then(|value| value.parse::<usize>().ok());
    let (from, most) = (number("pageToken").unwrap_or(0), number("maxResults").unwrap_or(PAGE));
    if most > PAGE {
        return Err(Refusal::invalid("maxResults", &most.to_string(), "Values are from 0 to 500."));
    }
    let mut page = Fields::new();
    default(&mut page, "kind", json!(format!("compute#{kind}")));
    if items.len() > from + most {
        default(&mut page, "nextPageToken", json!((from + most).to_string()));
    }
    // An empty list is not in the answer.
    let items: Vec<Value> = items.into_iter().skip(from).take(most).collect();
    if !items.is_empty() {
        default(&mut page, "items", json!(items));
    }
    Ok(Value::Object(page))
}

/// Parameter `requestId` of the document: a UUID, and not the one of zeros.
fn is_request_id(id: &str) -> bool {
    let groups: Vec<&str> = id.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let digits = groups.concat();
    lengths == [8, 4, 4, 4, 12]
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && digits.bytes().any(|byte| byte != b'0')
}

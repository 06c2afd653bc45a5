//! The objects of a project, and what each method makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::GcpLayout;
use super::operations::{Effect, Operations};
use super::path::{Kind, ObjectPath, scope};
use super::refusal::Refusal;

/// The fields of an object.
pub(super) type Fields = Map<String, Value>;

/// Where URLs of objects begin, whatever the address that the API is called at.
const LINKS: &str = "https://www.googleapis.com/compute/v1/";

/// What a project has.
pub(super) struct State {
    pub(super) layout: GcpLayout,
    pub(super) objects: BTreeMap<ObjectPath, Object>,
    pub(super) operations: Operations,
    /// The most that there may be by metric. No entry: any number.
    pub(super) quotas: BTreeMap<String, f64>,
    /// Addresses that were reserved before: others go first, so that a test sees if an address
    /// was lost.
    used_addresses: BTreeSet<IpAddr>,
    next_id: u64,
}

/// An object of a project.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) fields: Fields,
    /// The names of the instances that are attached, if it is a network endpoint group.
    pub(super) instances: BTreeSet<String>,
}

impl State {
    pub(super) fn new(layout: GcpLayout) -> Self {
        let mut state = Self {
            objects: BTreeMap::new(),
            operations: Operations::default(),
            quotas: BTreeMap::new(),
            used_addresses: BTreeSet::new(),
            next_id: 1_000_000_000,
            layout,
        };
        let (network, subnetwork) = (state.network(), state.subnetwork());
        let network_link = state.link(&network);
        state.add(&network, "network", json!({"autoCreateSubnetworks": false}));
        state.add(&subnetwork, "subnetwork", json!({"network": network_link}));
        state
    }

    /// The path of the one network.
    pub(super) fn network(&self) -> ObjectPath {
        ObjectPath::within("global/networks", &self.layout.network)
    }

    /// The path of the one subnetwork.
    pub(super) fn subnetwork(&self) -> ObjectPath {
        ObjectPath::within(&format!("regions/{}/subnetworks", self.layout.region), &self.layout.subnetwork)
    }

    /// Adds an object that is there from the start.
    pub(super) fn add(&mut self, path: &ObjectPath, kind: &str, fields: Value) {
        let Value::Object(fields) = fields else { return };
        let fields = self.with_common_fields(path, kind, fields);
        self.objects.insert(path.clone(), Object { fields, instances: BTreeSet::new() });
    }

    /// The project of a path: networks and what belongs to them may be in another one (Shared
    /// VPC).
    pub(super) fn project_of(&self, path: &str) -> &str {
        let is_of_network = path.starts_with("global/") || path.contains("/subnetworks/");
        if is_of_network { &self.layout.network_project } else { &self.layout.project }
    }

    /// The object's name with its project, as messages have it.
    pub(super) fn full_name(&self, path: &ObjectPath) -> String {
        format!("projects/{}/{path}", self.project_of(path.as_str()))
    }

    /// The URL of an object.
    pub(super) fn link(&self, path: &ObjectPath) -> String {
        format!("{LINKS}{}", self.full_name(path))
    }

    /// The object that a URL names, in full or in part:
    /// <https://cloud.google.com/compute/docs/naming-resources>.
    pub(super) fn reference(&self, url: &str) -> Option<ObjectPath> {
        let path = url.split_once("/compute/v1/").map_or(url, |(_, path)| path);
        let path = match path.strip_prefix("projects/") {
            Some(rest) => {
                let (project, path) = rest.split_once('/')?;
                (project == self.project_of(path)).then_some(path)?
            }
            None => path,
        };
        let is_path = ["regions/", "zones/", "global/"].iter().any(|scope| path.starts_with(scope));
        is_path.then(|| ObjectPath::new(path))
    }

    /// The object that a field names, if it exists.
    pub(super) fn referenced(&self, field: &str, url: &str) -> Result<ObjectPath, Refusal> {
        let path = self.reference(url).ok_or_else(|| Refusal::invalid(field, url, "The URL is malformed."))?;
        if self.objects.contains_key(&path) { Ok(path) } else { Err(Refusal::not_found(&self.full_name(&path))) }
    }

    /// The same if no operation creates, changes or deletes it.
    pub(super) fn usable(&self, field: &str, url: &str) -> Result<ObjectPath, Refusal> {
        let path = self.referenced(field, url)?;
        self.check_is_ready(&path)?;
        Ok(path)
    }

    pub(super) fn object(&self, path: &ObjectPath) -> Result<&Object, Refusal> {
        self.objects.get(path).ok_or_else(|| Refusal::not_found(&self.full_name(path)))
    }

    pub(super) fn check_is_ready(&self, path: &ObjectPath) -> Result<(), Refusal> {
        if self.operations.is_changing(path) { Err(Refusal::not_ready(&self.full_name(path))) } else { Ok(()) }
    }

    /// Refuses regions and zones that the project does not have.
    pub(super) fn check_scope(&self, path: &str) -> Result<(), Refusal> {
        let exists = match scope(path).split_once('/') {
            Some(("regions", region)) => region == self.layout.region,
            Some(("zones", zone)) => self.layout.zones.iter().any(|known| known == zone),
            _ => true,
        };
        let name = || format!("projects/{}/{}", self.layout.project, scope(path));
        if exists { Ok(()) } else { Err(Refusal::not_found(&name())) }
    }

    /// Objects of a kind, by their paths.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectPath, &Fields)> {
        let of_kind = self.objects.iter().filter(move |(path, _)| Kind::of_collection(path.collection()) == Some(kind));
        of_kind.map(|(path, object)| (path, &object.fields))
    }

    /// The objects that use an object.
    pub(super) fn users(&self, path: &ObjectPath) -> Vec<&ObjectPath> {
        let address = self.objects.get(path).and_then(|object| text(&object.fields, "address"));
        let uses = |fields: &Fields| {
            let by_address = address.is_some() && text(fields, "IPAddress") == address;
            by_address || fields.values().any(|value| self.refers_to(value, path))
        };
        let others = self.objects.iter().filter(|(other, object)| *other != path && uses(&object.fields));
        others.map(|(other, _)| other).collect()
    }

    fn refers_to(&self, value: &Value, path: &ObjectPath) -> bool {
        match value {
            Value::String(text) => self.reference(text).as_ref() == Some(path),
            Value::Array(elements) => elements.iter().any(|element| self.refers_to(element, path)),
            Value::Object(fields) => fields.values().any(|value| self.refers_to(value, path)),
            _ => false,
        }
    }

    /// Puts an object there that an operation creates.
    pub(super) fn insert(&mut self, path: &ObjectPath, kind: Kind, fields: Fields) {
        for field in ["address", "IPAddress"] {
            self.used_addresses.extend(text(&fields, field).and_then(|address| address.parse::<IpAddr>().ok()));
        }
        let fields = self.with_common_fields(path, kind.api_name(), fields);
        let fields = with_fingerprints(kind, fields);
        self.objects.insert(path.clone(), Object { fields, instances: BTreeSet::new() });
    }

    fn with_common_fields(&mut self, path: &ObjectPath, kind: &str, mut fields: Fields) -> Fields {
        self.next_id += 1;
        fields.insert("kind".into(), json!(format!("compute#{kind}")));
        fields.insert("id".into(), json!(self.next_id.to_string()));
        fields.insert("name".into(), json!(path.name()));
        fields.insert("creationTimestamp".into(), json!(Timestamp::now().to_string()));
        fields.insert("selfLink".into(), json!(self.link(path)));
        fields.extend(self.scope_field(path.scope()));
        fields
    }

    /// The field that says in which region or zone something is.
    pub(super) fn scope_field(&self, scope: &str) -> Option<(String, Value)> {
        let (kind, _) = scope.split_once('/')?;
        Some((kind.trim_end_matches('s').to_owned(), json!(self.link(&ObjectPath::new(scope)))))
    }

    /// Ends all operations whose time has come.
    pub(super) fn settle(&mut self) {
        for (path, effect) in self.operations.ended() {
            self.take_effect(&path, effect);
        }
    }

    fn take_effect(&mut self, path: &ObjectPath, effect: Effect) {
        match effect {
            Effect::Create => {}
            Effect::Delete => _ = self.objects.remove(path),
            Effect::Write(fields) => {
                if let (Some(object), Some(kind)) = (self.objects.get_mut(path), Kind::of_collection(path.collection()))
                {
                    object.fields = with_fingerprints(kind, fields);
                }
            }
            Effect::Attach(instances) => {
                if let Some(group) = self.objects.get_mut(path) {
                    group.instances.extend(instances);
                }
            }
            Effect::Detach(instances) => {
                if let Some(group) = self.objects.get_mut(path) {
                    group.instances.retain(|instance| !instances.contains(instance));
                }
            }
        }
    }

    /// The first address of a pool that nothing has.
    pub(super) fn free_address(&self, pool: &[IpAddr]) -> Option<IpAddr> {
        let free = || pool.iter().copied().filter(move |address| !self.is_taken(*address));
        free().find(|address| !self.used_addresses.contains(address)).or_else(|| free().next())
    }

    /// Whether an address is reserved, or a forwarding rule has it.
    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        let address = address.to_string();
        self.objects.values().any(|object| {
            ["address", "IPAddress"].iter().any(|field| text(&object.fields, field) == Some(address.as_str()))
        })
    }

    /// An instance of this name is deleted: no group has it any more.
    pub(super) fn remove_instance(&mut self, zone: &str, name: &str) {
        self.objects.remove(&ObjectPath::within(&format!("zones/{zone}/instances"), name));
        let groups = format!("zones/{zone}/networkEndpointGroups/");
        for (_, group) in self.objects.iter_mut().filter(|(path, _)| path.as_str().starts_with(&groups)) {
            group.instances.remove(name);
        }
    }

    /// An object as the API shows it.
    pub(super) fn shown(&self, path: &ObjectPath) -> Result<Value, Refusal> {
        let object = self.object(path)?;
        let mut fields = object.fields.clone();
        match Kind::of_collection(path.collection()) {
            Some(Kind::Address) => {
                let users: Vec<String> = self.users(path).into_iter().map(|user| self.link(user)).collect();
                let is_new = self.operations.is_creating(path);
                let status = if is_new {
                    "RESERVING"
                } else if users.is_empty() {
                    "RESERVED"
                } else {
                    "IN_USE"
                };
                fields.insert("status".into(), json!(status));
                if !users.is_empty() {
                    fields.insert("users".into(), json!(users));
                }
            }
            Some(Kind::EndpointGroup) => _ = fields.insert("size".into(), json!(object.instances.len())),
            _ => {}
        }
        Ok(Value::Object(fields))
    }
}

/// The value of a field, if it is a text that is not empty.
pub(super) fn text<'a>(fields: &'a Fields, field: &str) -> Option<&'a str> {
    fields.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// The value of a field of the body that has to be there.
pub(super) fn required<'a>(fields: &'a Fields, field: &str) -> Result<&'a str, Refusal> {
    text(fields, field).ok_or_else(|| Refusal::required(&format!("resource.{field}")))
}

/// The elements of a field that is a list.
pub(super) fn elements<'a>(fields: &'a Fields, field: &str) -> &'a [Value] {
    fields.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a field is set: an empty list or text is not.
pub(super) fn is_set(fields: &Fields, field: &str) -> bool {
    match fields.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(elements)) => !elements.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(_) => true,
    }
}

/// Refuses a field that the kind of object does not take.
pub(super) fn refuse_field(fields: &Fields, field: &str, why: &str) -> Result<(), Refusal> {
    if !is_set(fields, field) {
        return Ok(());
    }
    let value = fields.get(field).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    Err(Refusal::invalid(&format!("resource.{field}"), &value.unwrap_or_default(), why))
}

/// Sets a field that is not set.
pub(super) fn default(fields: &mut Fields, field: &str, value: Value) {
    if !is_set(fields, field) {
        fields.insert(field.to_owned(), value);
    }
}

/// The patch of <https://cloud.google.com/compute/docs/api/how-tos/patch>: a JSON merge patch.
pub(super) fn merged(fields: &Fields, patch: &Fields) -> Fields {
    let mut merged = Value::Object(fields.clone());
    json_patch::merge(&mut merged, &Value::Object(patch.clone()));
    match merged {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

/// The object with the fingerprints of its present content.
fn with_fingerprints(kind: Kind, mut fields: Fields) -> Fields {
    if matches!(kind, Kind::BackendService | Kind::ForwardingRule) {
        fields.remove("fingerprint");
        let fingerprint = fingerprint(&Value::Object(fields.clone()));
        fields.insert("fingerprint".into(), json!(fingerprint));
    }
    if matches!(kind, Kind::Address | Kind::ForwardingRule) {
        let labels = fields.get("labels").cloned().unwrap_or(json!({}));
        fields.insert("labelFingerprint".into(), json!(fingerprint(&labels)));
    }
    fields
}

fn fingerprint(content: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    content.to_string().hash(&mut hasher);
    BASE64.encode(hasher.finish().to_be_bytes())
}

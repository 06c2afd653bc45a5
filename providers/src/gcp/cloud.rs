//! The calls about one load balancer: reads of its objects, changes, and the operations that
//! changes start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::failure::{self, Context};
use super::found::{Found, FoundGroup, Read};
use super::objects::{Endpoint, EndpointPage, Endpoints, Names, Object, Operation, Region, Rule, Zone, last_part};
use super::plan::{Action, Step};
use super::settings::Managed;
use crate::Error;
use crate::budget::{Turn, Urgency};
use crate::http::{Call, Effect, Failure, Http};

/// How many instances a page has. (API reference of networkEndpointGroups.listNetworkEndpoints: 0
/// to 500.)
const PAGE: usize = 500;

/// The permission of a read, after the kind of the object.
const GET: &str = "get";

/// The calls about one load balancer.
#[derive(Clone)]
pub(super) struct Cloud<'a> {
    pub(super) http: Arc<Http>,
    pub(super) names: Names<'a>,
    pub(super) turn: Turn,
}

/// What a call that changes an object has led to.
#[derive(Debug)]
pub(super) enum Started {
    /// The operation with this path goes on.
    Operation(String),
    /// It is complete, or was not needed: the object is to be read.
    Done,
    /// It is not permitted.
    Denied(Error),
}

impl<'a> Cloud<'a> {
    /// The calls about a load balancer. The first one of each work is made before `begin_by`.
    pub(super) fn new(http: Arc<Http>, names: Names<'a>, urgency: Urgency, begin_by: Option<Instant>) -> Self {
        let turn = Turn { of: names.name.clone(), urgency, begin_by, place: None };
        Self { http, names, turn }
    }

    /// The region, with its zones.
    pub(super) async fn region(&self) -> Result<Region, Error> {
        let settings = self.names.settings;
        let context = Context {
            permission: "compute.regions.get".to_owned(),
            project: settings.project.clone(),
            object: format!("region {}", settings.region),
            path: format!("projects/{}/regions/{}", settings.project, settings.region),
        };
        let call = Call::get(format!("projects/{}/regions/{}", settings.project, settings.region));
        let region: Option<Region> = self.read(call, &context).await?;
        region.ok_or_else(|| {
            Error::Refused(format!("project {} has no region {}", settings.project, settings.region).into())
        })
    }

    /// All objects of the load balancer in these zones.
    pub(super) async fn all(&self, zones: &[Zone]) -> Result<Found, Error> {
        let single = [Object::Address, Object::HealthCheck, Object::BackendService, Object::ForwardingRule];
        let objects = single.into_iter().chain(zones.iter().cloned().map(Object::Group));
        let mut found = Found::default();
        let (reads, firewalls) =
            futures::join!(try_join_all(objects.map(|object| self.object(object))), self.firewalls());
        reads?.into_iter().for_each(|read| found.take(self.names, read));
        self.note_firewalls(&mut found, firewalls)?;
        Ok(found)
    }

    /// Reads the firewall rules again, which were denied before.
    pub(super) async fn read_firewalls(&self, found: &mut Found) -> Result<(), Error> {
        let reads = self.firewalls().await;
        self.note_firewalls(found, reads)
    }

    /// All firewall rules, also where they are not managed: those of before may be there.
    async fn firewalls(&self) -> Result<Vec<Read>, Error> {
        try_join_all(Rule::ALL.map(|rule| self.object(Object::Firewall(rule)))).await
    }

    fn note_firewalls(&self, found: &mut Found, reads: Result<Vec<Read>, Error>) -> Result<(), Error> {
        match reads {
            Ok(reads) => reads.into_iter().for_each(|read| found.take(self.names, read)),
            // Those of a network in another project may be another team's.
            Err(error) if error.is_refusal() => {
                let is_managed = self.names.settings.firewall.manage != Managed::None;
                found.firewalls_denied = is_managed.then_some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// One object.
    pub(super) async fn object(&self, object: Object) -> Result<Read, Error> {
        let context = self.context(&object, GET);
        let call = Call::get(self.names.path(&object));
        Ok(match object {
            Object::Address => Read::Address(self.read(call, &context).await?),
            Object::HealthCheck => Read::HealthCheck(self.read(call, &context).await?),
            Object::BackendService => Read::BackendService(self.read(call, &context).await?),
            Object::ForwardingRule => Read::ForwardingRule(self.read(call, &context).await?),
            Object::Firewall(rule) => Read::Firewall(rule, self.read(call, &context).await?),
            Object::Group(zone) => {
                let found = match self.read(call, &context).await? {
                    Some(group) => Some(FoundGroup { group, instances: self.instances(&zone).await? }),
                    None => None,
                };
                Read::Group(zone, found)
            }
        })
    }

    /// The names of the instances in the group of a zone.
    async fn instances(&self, zone: &Zone) -> Result<BTreeSet<String>, Error> {
        let object = Object::Group(zone.clone());
        let context = self.context(&object, GET);
        let mut instances = BTreeSet::new();
        let mut token: Option<String> = None;
        loop {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("maxResults", &PAGE.to_string())
                .extend_pairs(token.iter().map(|token| ("pageToken", token)))
                .finish();
            let path = format!("{}/listNetworkEndpoints?{query}", self.names.path(&object));
            let call = Call::new(Method::POST, path, Effect::Read).json(&serde_json::json!({}));
            let page: EndpointPage = self.read(call, &context).await?.unwrap_or_default();
            let names = page.items.iter().map(|item| last_part(&item.network_endpoint.instance).to_owned());
            let before = instances.len();
            instances.extend(names);
            token = page.next_page_token.filter(|token| !token.is_empty());
            // A list without an end would have the same ones again.
            if token.is_none() || instances.len() == before {
                return Ok(instances);
            }
        }
    }

    /// Makes the call of a step. It is repeated after a lost answer: by its `requestId` it is
    /// carried out once.
    pub(super) async fn start(&self, Step { object, action }: &Step) -> Result<Started, Error> {
        let context = self.context(object, action.permission());
        let own = self.names.path(object);
        let (method, path, body) = match action {
            Action::Insert(body) => (Method::POST, self.names.collection(object), Some(body.clone())),
            Action::Patch(body) => (Method::PATCH, own, Some(body.clone())),
            Action::Attach(instances) => (Method::POST, format!("{own}/attachNetworkEndpoints"), endpoints(instances)),
            Action::Detach(instances) => (Method::POST, format!("{own}/detachNetworkEndpoints"), endpoints(instances)),
            Action::SetLabels(body) => (Method::POST, format!("{own}/setLabels"), Some(body.clone())),
            Action::Delete => (Method::DELETE, own, None),
        };
        let path = format!("{path}?requestId={}", request_id());
        let call = Call::new(method, path, Effect::Repeatable);
        let call = body.iter().fold(call, |call, body| call.json(body));
        let mut turn = self.turn.clone();
        let reply = self.http.send(&call, &mut turn).await.map_err(|failure| failure::unanswered(&context, failure))?;
        if !reply.status.is_success() {
            let is_done = match action {
                Action::Insert(_) => failure::exists(&reply),
                Action::Delete => failure::is_not_found(&reply),
                _ => false,
            };
            let error = || failure::refused(&context, &reply);
            return match is_done {
                true => Ok(Started::Done),
                false if failure::is_forbidden(&reply) => Ok(Started::Denied(error())),
                false => Err(error()),
            };
        }
        let operation = reply.json().map_err(|failure| failure::unanswered(&context, failure))?;
        self.progress(object, operation, &context)
    }

    /// Waits for an operation, for at most this long.
    pub(super) async fn wait(&self, object: &Object, operation: &str, within: Duration) -> Result<Started, Error> {
        let kind = match object {
            Object::Firewall(_) => "globalOperations",
            Object::Group(_) => "zoneOperations",
            _ => "regionOperations",
        };
        let context = Context { permission: format!("compute.{kind}.get"), ..self.context(object, GET) };
        let call = Call::new(Method::POST, format!("{operation}/wait"), Effect::Read);
        let goes_on = || Ok(Started::Operation(operation.to_owned()));
        let mut turn = self.turn.clone();
        let waited = tokio::time::timeout(within, self.http.send(&call, &mut turn)).await;
        let reply = match waited {
            Ok(Ok(reply)) => reply,
            // A wait that is given up is no failure: the next call waits on.
            Err(_) | Ok(Err(Failure::Late)) => return goes_on(),
            Ok(Err(failure)) => return Err(failure::unanswered(&context, failure)),
        };
        if failure::is_not_found(&reply) {
            // It was complete long ago.
            return Ok(Started::Done);
        }
        if failure::is_forbidden(&reply) {
            return Ok(Started::Denied(failure::refused(&context, &reply)));
        }
        if !reply.status.is_success() {
            return Err(failure::refused(&context, &reply));
        }
        let operation = reply.json().map_err(|failure| failure::unanswered(&context, failure))?;
        self.progress(object, operation, &context)
    }

    fn progress(&self, object: &Object, operation: Operation, context: &Context) -> Result<Started, Error> {
        if !operation.is_done() {
            let path = format!("{}/operations/{}", self.names.scope(object), operation.name);
            return Ok(Started::Operation(path));
        }
        match operation.error {
            Some(said) => Err(failure::failed(context, &said)),
            None => Ok(Started::Done),
        }
    }

    /// Reads these objects again.
    pub(super) async fn refresh(&self, found: &mut Found, objects: Vec<Object>) -> Result<(), Error> {
        let reads = join_all(objects.into_iter().map(|object| self.object(object))).await;
        for read in reads {
            found.take(self.names, read?);
        }
        Ok(())
    }

    /// Reads an object; `None`: it does not exist.
    async fn read<T: DeserializeOwned>(&self, call: Call, context: &Context) -> Result<Option<T>, Error> {
        // What was changed is read, however late it is.
        let mut turn = Turn { begin_by: None, ..self.turn.clone() };
        let reply = self.http.send(&call, &mut turn).await.map_err(|failure| failure::unanswered(context, failure))?;
        if failure::is_not_found(&reply) {
            return Ok(None);
        }
        if !reply.status.is_success() {
            return Err(failure::refused(context, &reply));
        }
        reply.json().map(Some).map_err(|failure| failure::unanswered(context, failure))
    }

    fn context(&self, object: &Object, verb: &str) -> Context {
        let settings = self.names.settings;
        let project = if object.is_firewall() { &settings.network.project } else { &settings.project };
        Context {
            permission: format!("compute.{}.{verb}", object.kind()),
            project: project.clone(),
            object: format!("{object} {}", self.names.of(object)),
            path: self.names.path(object),
        }
    }
}

/// The body of a call about instances of a group.
fn endpoints(instances: &[String]) -> Option<Value> {
    let network_endpoints = instances.iter().map(|instance| Endpoint { instance: instance.clone() }).collect();
    serde_json::to_value(Endpoints { network_endpoints }).ok()
}

/// The id of a call.
fn request_id() -> String {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid().to_string()
}

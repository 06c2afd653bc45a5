//! A client whose reads reach the API server and whose writes do not: it answers writes
//! itself, and includes them in later reads and watches.
//!
//! It wraps the transport of kube's own client, so that the controller builds requests and
//! parses answers as always.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use kube::client::Body;
use parking_lot::{Mutex, MutexGuard};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::{BoxError, Layer, Service, ServiceExt as _};
use tracing::debug;

use super::calls::Calls;
use super::objects::{FIRST_VERSION, Manner, Objects, Rejection, Write, Written};
use super::request::{Collection, ObjectPath, Operation};
use super::watch_stream::{self, Line, ReplyBody};

/// The objects that were written, which all clients of a dry run share.
#[derive(Clone, Default)]
pub(super) struct Overlay {
    state: Arc<Mutex<State>>,
    calls: Calls,
}

#[derive(Default)]
struct State {
    objects: Objects,
    watches: BTreeMap<u64, Watch>,
    next_watch: u64,
    /// Watches that the API server has ended and that were not started again
    ended: Vec<Collection>,
    /// The first write that could not be answered, and why
    failure: Option<String>,
}

/// A watch that is open.
struct Watch {
    collection: Collection,
    lines: watch_stream::Sender,
}

impl Overlay {
    /// An overlay whose calls are counted by `calls`.
    pub(super) fn new(calls: Calls) -> Self {
        Self { state: Arc::default(), calls }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Reads the objects that were written.
    pub(super) fn objects<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.state().objects)
    }

    /// Whether every watch is open, so that a write reaches all of them.
    pub(super) fn watches_are_open(&self) -> bool {
        self.state().ended.is_empty()
    }

    /// The first write that could not be answered, and why. Later decisions are not those of
    /// a real run.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    fn note_failure(&self, failure: String) {
        self.state().failure.get_or_insert(failure);
    }

    /// Carries a write out, and sends it to the watches.
    fn write(
        &self,
        path: &ObjectPath,
        before: Option<Value>,
        write: Write,
        manner: Manner<'_>,
    ) -> Result<Written, Rejection> {
        let mut state = self.state();
        let written = state.objects.write(path, before, write, manner)?;
        debug!(resource = path.resource.plural, namespace = path.namespace, name = path.name, "would be written");
        for Watch { collection, lines } in state.watches.values() {
            if let Some(line) = line(collection, path, written.old.as_ref(), written.new.as_ref(), &written.reply) {
                lines.send(line);
            }
        }
        Ok(written)
    }

    /// Opens a watch, which begins with all earlier writes.
    fn open(&self, collection: Collection) -> watch_stream::Receiver {
        let mut state = self.state();
        let number = state.next_watch;
        state.next_watch += 1;
        state.ended.retain(|ended| *ended != collection);
        let overlay = self.clone();
        let ended = collection.clone();
        let (lines, receiver) = watch_stream::channel(move |by_server| {
            let mut state = overlay.state();
            state.watches.remove(&number);
            if by_server {
                state.ended.push(ended);
            }
        });
        for (path, entry) in state.objects.all() {
            let last = entry.now.as_ref().or(entry.before.as_ref()).unwrap_or(&Value::Null);
            if let Some(line) = line(&collection, path, entry.before.as_ref(), entry.now.as_ref(), last) {
                lines.send(line);
            }
        }
        state.watches.insert(number, Watch { collection, lines });
        receiver
    }

    /// Applies the writes to a list. Created objects are on its last page.
    fn amend(&self, collection: &Collection, list: &mut Value) {
        let state = self.state();
        let is_last = list["metadata"]["continue"].as_str().is_none_or(str::is_empty);
        let Some(items) = list["items"].as_array_mut() else { return };
        let is_object = |item: &Value, path: &ObjectPath| {
            item["metadata"]["name"] == path.name.as_str()
                && item["metadata"]["namespace"].as_str().unwrap_or_default() == path.namespace
        };
        for (path, entry) in state.objects.all().iter().filter(|(path, _)| path.resource == collection.resource) {
            let now = entry.now.as_ref().filter(|now| is_in(collection, path, now));
            match (items.iter().position(|item| is_object(item, path)), now) {
                (Some(at), Some(now)) => items[at].clone_from(now),
                (Some(at), None) => _ = items.remove(at),
                (None, Some(now)) if is_last && entry.before.is_none() => items.push(now.clone()),
                (None, _) => {}
            }
        }
    }
}

/// The event of a write in a watch of this collection.
fn line(
    collection: &Collection,
    path: &ObjectPath,
    old: Option<&Value>,
    new: Option<&Value>,
    last: &Value,
) -> Option<Line> {
    let was_in = old.is_some_and(|old| is_in(collection, path, old));
    let now = new.filter(|new| is_in(collection, path, new));
    match (was_in, now) {
        (false, Some(new)) => Some(Line::new("ADDED", new)),
        (true, Some(new)) => Some(Line::new("MODIFIED", new)),
        (true, None) => Some(Line::new("DELETED", last)),
        (false, None) => None,
    }
}

fn is_in(collection: &Collection, path: &ObjectPath, object: &Value) -> bool {
    let labels = object["metadata"]["labels"].as_object();
    let labels = labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    collection.has(path, &labels.collect())
}

impl<S> Layer<S> for Overlay {
    type Service = Overlaid<S>;

    fn layer(&self, service: S) -> Overlaid<S> {
        Overlaid { overlay: self.clone(), server: Arc::new(tokio::sync::Mutex::new(service)) }
    }
}

/// A client with an overlay.
pub(super) struct Overlaid<S> {
    overlay: Overlay,
    /// The wrapped client, which is used only for reads
    server: Arc<tokio::sync::Mutex<S>>,
}

impl<S> Clone for Overlaid<S> {
    fn clone(&self) -> Self {
        Self { overlay: self.overlay.clone(), server: self.server.clone() }
    }
}

impl<S, B> Service<Request<Body>> for Overlaid<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ReplyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<ReplyBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        async move {
            let _call = this.overlay.calls.begin();
            this.answer(request).await
        }
        .boxed()
    }
}

impl<S, B> Overlaid<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn answer(&self, request: Request<Body>) -> Result<Response<ReplyBody>, BoxError> {
        match Operation::of(request.method(), request.uri()) {
            Operation::OtherRead => read(self.ask(request).await?).await,
            Operation::Get(path) => {
                let known = self.overlay.objects(|objects| objects.get(&path).map(Option::<&Value>::cloned));
                match known {
                    None => read(self.ask(request).await?).await,
                    Some(Some(object)) => Ok(reply(StatusCode::OK, &object)),
                    Some(None) => Ok(refused(&path, &Rejection::NotFound)),
                }
            }
            Operation::List(collection) => self.list(&collection, request).await,
            Operation::Watch { since: Some(since), .. } if since >= FIRST_VERSION => Ok(expired()),
            Operation::Watch { collection, .. } => self.watch(collection, request).await,
            // Events would report changes that are not carried out.
            Operation::Create(collection) if collection.resource.plural == "events" => {
                let event: Value = parsed(request).await?;
                Ok(reply(StatusCode::CREATED, &event))
            }
            Operation::Create(collection) => {
                let uri = request.uri().path().to_owned();
                let object: Value = parsed(request).await?;
                let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
                    return Ok(self.unsupported(&format!("POST {uri} of an object without a name")));
                };
                let Collection { resource, namespace, .. } = collection;
                let path = ObjectPath { resource, namespace: namespace.unwrap_or_default(), name };
                let uri = format!("{uri}/{}", path.name);
                let manner = Manner { status: false, manager: "", time: Timestamp::now() };
                self.write(&path, &uri, Write::Create(object), manner).await
            }
            Operation::Patch { object, status, manager } => {
                let uri = request.uri().path().to_owned();
                let uri = if status { uri.trim_end_matches("/status") } else { &uri };
                let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let write = match kind {
                    Some("application/json-patch+json") => Write::JsonPatch(parsed(request).await?),
                    Some("application/merge-patch+json") => Write::MergePatch(parsed(request).await?),
                    kind => return Ok(self.unsupported(&format!("PATCH {uri} with {}", kind.unwrap_or_default()))),
                };
                let manner = Manner { status, manager: &manager, time: Timestamp::now() };
                self.write(&object, uri, write, manner).await
            }
            Operation::Delete(path) => {
                let uri = request.uri().path().to_owned();
                let manner = Manner { status: false, manager: "", time: Timestamp::now() };
                let write = Write::Delete(parsed(request).await?);
                self.write(&path, &uri, write, manner).await
            }
            Operation::OtherChange => Ok(self.unsupported(&format!("{} {}", request.method(), request.uri().path()))),
        }
    }

    /// Sends a read to the API server.
    async fn ask(&self, request: Request<Body>) -> Result<Response<B>, BoxError> {
        let reply = {
            let mut server = self.server.lock().await;
            server.ready().await.map_err(Into::into)?.call(request)
        };
        reply.await.map_err(Into::into)
    }

    async fn list(&self, collection: &Collection, request: Request<Body>) -> Result<Response<ReplyBody>, BoxError> {
        let listed = self.ask(request).await?;
        let is_amended =
            self.overlay.objects(|objects| objects.all().keys().any(|path| path.resource == collection.resource));
        if !listed.status().is_success() || !is_amended {
            return read(listed).await;
        }
        let body = listed.into_body().collect().await.map_err(Into::into)?.to_bytes();
        let mut list: Value = serde_json::from_slice(&body)?;
        self.overlay.amend(collection, &mut list);
        Ok(reply(StatusCode::OK, &list))
    }

    async fn watch(&self, collection: Collection, request: Request<Body>) -> Result<Response<ReplyBody>, BoxError> {
        let watched = self.ask(request).await?;
        if !watched.status().is_success() {
            return read(watched).await;
        }
        let written = self.overlay.open(collection);
        Ok(watched.map(|events| watch_stream::merged(events, written)))
    }

    /// Carries out a write to the object with this URI.
    async fn write(
        &self,
        path: &ObjectPath,
        uri: &str,
        write: Write,
        manner: Manner<'_>,
    ) -> Result<Response<ReplyBody>, BoxError> {
        let is_known = self.overlay.objects(|objects| objects.get(path).is_some());
        let before = if is_known {
            None
        } else {
            let get = Request::builder().method(Method::GET).uri(uri).body(Body::empty())?;
            let found = self.ask(get).await?;
            match found.status() {
                StatusCode::NOT_FOUND => None,
                status if status.is_success() => {
                    let body = found.into_body().collect().await.map_err(Into::into)?.to_bytes();
                    Some(serde_json::from_slice(&body)?)
                }
                status => {
                    // The controller retries a temporary failure; a missing right stays.
                    if matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
                        self.overlay.note_failure(format!("get of {uri}: {status}"));
                    }
                    return read(found).await;
                }
            }
        };
        let code = if matches!(write, Write::Create(_)) { StatusCode::CREATED } else { StatusCode::OK };
        let deletes = matches!(write, Write::Delete(_));
        match self.overlay.write(path, before, write, manner) {
            Ok(Written { new: None, .. }) if deletes => {
                Ok(reply(StatusCode::OK, &json!({"apiVersion": "v1", "kind": "Status", "status": "Success"})))
            }
            Ok(written) => Ok(reply(code, &written.reply)),
            Err(rejection) => Ok(refused(path, &rejection)),
        }
    }

    /// The answer to a write that the overlay does not know: the dry run fails.
    fn unsupported(&self, what: &str) -> Response<ReplyBody> {
        let message = format!("the dry run cannot answer {what}");
        self.overlay.note_failure(message.clone());
        status(405, "MethodNotAllowed", &message)
    }
}

/// The whole body of an answer.
async fn read<B>(answer: Response<B>) -> Result<Response<ReplyBody>, BoxError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(parts, whole(body)))
}

async fn parsed<T: DeserializeOwned>(request: Request<Body>) -> Result<T, BoxError> {
    let body = request.into_body().collect_bytes().await?;
    Ok(serde_json::from_slice(&body)?)
}

fn whole(body: impl Into<Bytes>) -> ReplyBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

fn reply(code: StatusCode, object: &Value) -> Response<ReplyBody> {
    let mut response = Response::new(whole(object.to_string()));
    *response.status_mut() = code;
    response
}

fn status(code: u16, reason: &str, message: &str) -> Response<ReplyBody> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply(code, &status_object(code.as_u16(), reason, message))
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

fn refused(path: &ObjectPath, rejection: &Rejection) -> Response<ReplyBody> {
    let (code, reason) = rejection.code();
    status(code, reason, &format!("{} \"{}\": {rejection}", path.resource.plural, path.name))
}

/// The answer to a watch from a version that only the overlay knows: the client lists again.
fn expired() -> Response<ReplyBody> {
    let event = Line::new("ERROR", &status_object(410, "Expired", "the version is one of the dry run"));
    Response::new(whole(event.into_bytes()))
}

#[cfg(test)]
mod tests;

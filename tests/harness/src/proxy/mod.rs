//! A proxy of ours between the controller and the API server, that does to
//! requests what bad networks and busy API servers do.

mod faults;
mod watch_stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use futures::stream;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use sharedlb_testbed::eventually;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::LIMIT;
use faults::Verdict;
use watch_stream::lines_until;

pub use faults::{Ending, Faults};

/// Where a proxy listens, unless another port is named. The network is the program's
/// own.
pub(crate) const PORT: u16 = 7070;

/// More than any object of ours has.
const MAX_BODY: usize = 16 << 20;

/// The proxy. It ends when this is dropped.
pub struct Proxy {
    /// As whom it asks the API server.
    upstream: PathBuf,
    listen: SocketAddr,
    lists: Arc<Lists>,
    /// What it does to requests, and what has passed
    pub faults: Arc<Faults>,
    /// What serves connections: with it, all of them end at once.
    serving: Option<Runtime>,
}

impl Proxy {
    /// Starts one that passes everything on with these rights.
    pub fn start(upstream: &Path) -> anyhow::Result<Self> {
        Self::start_at(upstream, PORT)
    }

    /// The same at another port of 127.0.0.1.
    pub fn start_at(upstream: &Path, port: u16) -> anyhow::Result<Self> {
        let mut proxy = Self {
            upstream: upstream.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            lists: Arc::default(),
            faults: Arc::default(),
            serving: None,
        };
        proxy.accept()?;
        Ok(proxy)
    }

    /// Writes a kubeconfig file that leads to this proxy, and has no rights of
    /// its own.
    pub fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let server = format!("http://{}", self.listen);
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": server}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": ""}}],
            "current-context": "proxy",
        });
        let path = self.upstream.with_file_name(format!("proxy-{}.kubeconfig", self.listen.port()));
        std::fs::write(&path, text.to_string()).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Forgets the lists that were asked for: who starts afresh is never told
    /// of a time before, since the API server does not do so either.
    pub fn forget_lists(&self) {
        self.lists.lock().clear();
    }

    /// Ends all connections, and refuses new ones.
    pub fn refuse(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.shutdown_background();
        }
    }

    /// Accepts connections (again).
    pub fn accept(&mut self) -> anyhow::Result<()> {
        if self.serving.is_some() {
            bail!("the proxy serves already");
        }
        // A runtime of its own, with which everything that is under way ends.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let kubeconfig = Kubeconfig::read_from(&self.upstream)?;
        let (started, start) = std::sync::mpsc::channel();
        let (listen, between) = (self.listen, Between { faults: self.faults.clone(), lists: self.lists.clone() });
        runtime.spawn(async move {
            match prepare(kubeconfig, listen, between).await {
                Ok((listener, router)) => {
                    let _ = started.send(Ok(()));
                    let _ = axum::serve(listener, router).await;
                }
                Err(error) => _ = started.send(Err(error)),
            }
        });
        self.serving = Some(runtime);
        start.recv().map_err(|_| anyhow!("the proxy panicked"))?
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// What stands between the two.
#[derive(Clone)]
struct Between {
    faults: Arc<Faults>,
    lists: Arc<Lists>,
}

/// The last answers to lists, by what was asked for.
#[derive(Default)]
struct Lists(Mutex<HashMap<Uri, Bytes>>);

impl Lists {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uri, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn prepare(
    kubeconfig: Kubeconfig,
    listen: SocketAddr,
    between: Between,
) -> anyhow::Result<(TcpListener, Router)> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let api_server = Client::try_from(config)?;
    // That of the test before ends in the background.
    let listener = eventually("the proxy's port", LIMIT, async || Ok(Some(TcpListener::bind(listen).await?))).await?;
    Ok((listener, Router::new().fallback(pass).with_state((api_server, between))))
}

/// Passes one request on, unless a fault strikes it.
async fn pass(State((api_server, between)): State<(Client, Between)>, request: Request) -> Response {
    let Between { faults, lists } = between;
    let is_write = !matches!(*request.method(), Method::GET | Method::HEAD);
    let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    let list = is_first_page(&request).then(|| request.uri().clone());
    if is_write && !request.uri().path().contains("/leases") {
        faults.act();
    }
    faults.be_late().await;
    let before = if is_write { faults.before_write().await } else { faults.before_read().await };
    if let Verdict::Refuse(code, reason) = before {
        return status(code, reason);
    }
    if let Some(known) =
        list.as_ref().filter(|_| faults.lists_are_stale()).and_then(|list| lists.lock().get(list).cloned())
    {
        return answer(StatusCode::OK, known.into());
    }
    let ending = faults.ending();
    let result = forward(&api_server, request).await;
    let is_lost = is_write && faults.after_write().await == Verdict::LoseAnswer;
    let response = match result {
        Ok(response) if is_lost => return lost(response),
        Ok(response) => response,
        Err(error) => return failed(&error),
    };
    if is_watch && response.status() == StatusCode::OK {
        let gone = json!({"type": "ERROR", "object": status_object(StatusCode::GONE, "Expired")});
        return response.map(|body| Body::from_stream(lines_until(body.into_data_stream(), faults, ending, gone)));
    }
    faults.be_late().await;
    match list.filter(|_| response.status() == StatusCode::OK) {
        Some(list) => keep(&lists, list, response).await,
        None => response,
    }
}

/// Whether a request is for a list, from its beginning.
fn is_first_page(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    *request.method() == Method::GET && has("limit") && !has("continue") && !has("watch")
}

/// Keeps the answer to a list.
async fn keep(lists: &Lists, list: Uri, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, MAX_BODY).await {
        Ok(body) => {
            lists.lock().insert(list, body.clone());
            Response::from_parts(parts, body.into())
        }
        Err(error) => failed(&error.into()),
    }
}

async fn forward(api_server: &Client, request: Request) -> anyhow::Result<Response> {
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY).await?;
    // They are about this connection, and not about the next one.
    for name in [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let request = http::Request::from_parts(parts, kube::client::Body::from(body));
    let mut response = api_server.send(request).await?.map(Body::new);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        response.headers_mut().remove(name);
    }
    Ok(response)
}

/// An answer that breaks off: what it would say has happened.
fn lost(response: Response) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let breaks_off = stream::once(async { Err::<Bytes, _>(std::io::Error::other("the answer is lost")) });
    Response::from_parts(parts, Body::from_stream(breaks_off))
}

fn failed(error: &anyhow::Error) -> Response {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
    if let Ok(text) = HeaderValue::from_str(&format!("{error:#}").replace('\n', " ")) {
        response.headers_mut().insert(header::WARNING, text);
    }
    response
}

/// What the API server answers when it refuses something.
fn status(code: StatusCode, reason: &str) -> Response {
    answer(code, status_object(code, reason).to_string().into())
}

fn answer(code: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status_object(code: StatusCode, reason: &str) -> serde_json::Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{reason}, says the proxy of the tests"),
        "reason": reason,
        "code": code.as_u16(),
    })
}

//! A stand-in for nginx-lb-updater: it answers as the real program was seen to, with all that it
//! does not check, and writes the same files. What a reverse proxy before it may do is set by
//! tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as BoundPort};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::serve::Listener;
use futures::stream;
use parking_lot::{Mutex, MutexGuard};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::server::TlsStream;

/// The path of the API.
const PATH: &str = "/api/v1/lb";
/// More than any body has.
const MAX_BODY: usize = 1 << 20;
/// The timeouts of a stream whose request has none, in seconds: `PROXY_TIMEOUT_SECONDS` and
/// `PROXY_CONNECT_TIMEOUT_SECONDS` of the real program.
const TIMEOUTS: (i64, i64) = (5, 2);

/// The stand-in for nginx-lb-updater. It is served until the end of the process.
pub struct Updater {
    shared: Arc<Mutex<State>>,
    url: String,
    authority: Option<String>,
}

/// A request to the API.
#[derive(Clone, Debug, PartialEq)]
pub struct UpdaterCall {
    /// `POST` or `DELETE`
    pub method: String,
    /// The `backendName`
    pub backend: String,
    /// The body
    pub body: Value,
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdaterFault {
    /// The connection breaks before the request is carried out.
    Unreached,
    /// It is carried out, and the connection breaks before the answer.
    Lost,
    /// The connection breaks, and a proxy keeps the request until it is told to
    /// [pass it on](Updater::pass_on).
    Kept,
    /// A proxy answers with this status.
    Status(u16),
    /// A proxy answers that there were too many requests, and that the next one may follow after
    /// so many seconds.
    Throttled(u32),
}

type Hook = Box<dyn Fn(&UpdaterCall) -> Option<UpdaterFault> + Send + Sync>;

struct State {
    /// Where the files of streams are
    folder: PathBuf,
    calls: Vec<UpdaterCall>,
    fault: Option<Hook>,
    /// The `Authorization` that a proxy wants
    authorization: Option<String>,
    /// The backends whose file cannot be opened for writing
    unwritable: BTreeSet<String>,
    /// Where TCP ports are bound, if this plays NGINX too
    binds_at: Option<IpAddr>,
    /// Whether ports are bound and closed as files change
    reloads: bool,
    /// The requests that a proxy keeps: the method and the body
    kept: Vec<(Method, Bytes)>,
    /// The ports that are bound, by file
    ports: BTreeMap<String, BoundPort>,
}

/// The body of a POST. What is left out is zero, as in Go.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stream {
    backend_name: String,
    lb_port: i64,
    lb_protocol: String,
    upstream_servers: Vec<Server>,
    proxy_timeout_seconds: i64,
    proxy_connect_timeout_seconds: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Server {
    host: String,
    port: i64,
}

/// The body of a DELETE.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Name {
    backend_name: String,
}

impl Updater {
    /// Starts one that writes into this folder, and answers by HTTP at a port of its own of the
    /// loopback address.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), folder).await
    }

    /// The same at another address of this machine.
    ///
    /// # Errors
    /// If the folder cannot be made, or there is no such address.
    pub async fn start_at(address: IpAddr, folder: &Path) -> anyhow::Result<Self> {
        let (shared, router) = routes(folder)?;
        let listener = TcpListener::bind((address, 0)).await?;
        let url = format!("http://{}{PATH}", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { shared, url, authority: None })
    }

    /// The same behind a proxy with TLS, whose certificate is by an [authority](Self::authority)
    /// of its own.
    ///
    /// # Errors
    /// If the folder, or the certificate, cannot be made.
    pub async fn start_with_tls(folder: &Path) -> anyhow::Result<Self> {
        let (shared, router) = routes(folder)?;
        let (config, authority) = tls()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("https://{}{PATH}", listener.local_addr()?);
        let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { shared, url, authority: Some(authority) })
    }

    /// The URL of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate of the authority, in PEM.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The requests that it got since the last call of this, also those that went wrong.
    pub fn take_calls(&self) -> Vec<UpdaterCall> {
        std::mem::take(&mut self.state().calls)
    }

    /// From now on, what goes wrong with a request is as this says. It is asked once for each.
    pub fn faults(&self, fault: impl Fn(&UpdaterCall) -> Option<UpdaterFault> + Send + Sync + 'static) {
        self.state().fault = Some(Box::new(fault));
    }

    /// From now on nothing goes wrong.
    pub fn no_faults(&self) {
        self.state().fault = None;
    }

    /// From now on a request needs this `Authorization`.
    pub fn want_authorization(&self, value: &str) {
        self.state().authorization = Some(value.to_owned());
    }

    /// From now on the file of this backend cannot be opened for writing.
    pub fn deny_writing(&self, backend: &str) {
        self.state().unwritable.insert(backend.to_owned());
    }

    /// From now on every file can be written.
    pub fn allow_writing(&self) {
        self.state().unwritable.clear();
    }

    /// From now on the TCP ports of all files are bound at this address, as if NGINX were reloaded
    /// at once.
    ///
    /// # Errors
    /// If a port is in use.
    pub fn bind_ports(&self, address: IpAddr) -> anyhow::Result<()> {
        let mut state = self.state();
        state.binds_at = Some(address);
        state.rebind()
    }

    /// From now on no port is bound, as if NGINX had ended.
    pub fn release_ports(&self) {
        let mut state = self.state();
        state.binds_at = None;
        state.ports.clear();
    }

    /// From now on ports stay as they are, whatever files say, as if NGINX refused to reload.
    pub fn refuse_reloads(&self) {
        self.state().reloads = false;
    }

    /// From now on ports follow the files again.
    ///
    /// # Errors
    /// If a port is in use.
    pub fn allow_reloads(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        state.reloads = true;
        state.rebind()
    }

    /// Carries out what was [kept](UpdaterFault::Kept).
    pub fn pass_on(&self) {
        let mut state = self.state();
        for (method, body) in std::mem::take(&mut state.kept) {
            // Nobody waits for the answer.
            _ = state.answer(&method, &body);
        }
    }

    /// The files, by name, as they are now.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn files(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.state().files()
    }

    /// Where the files are.
    pub fn folder(&self) -> PathBuf {
        self.state().folder.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

fn routes(folder: &Path) -> anyhow::Result<(Arc<Mutex<State>>, Router)> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let state = State {
        folder: folder.to_owned(),
        calls: Vec::new(),
        fault: None,
        authorization: None,
        unwritable: BTreeSet::new(),
        binds_at: None,
        reloads: true,
        kept: Vec::new(),
        ports: BTreeMap::new(),
    };
    let shared = Arc::new(Mutex::new(state));
    Ok((shared.clone(), Router::new().fallback(serve).with_state(shared)))
}

async fn serve(Extract(shared): Extract<Arc<Mutex<State>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else { return closed() };
    let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let mut state = shared.lock();
    if state.authorization.is_some() && state.authorization.as_deref() != authorization {
        return text(StatusCode::UNAUTHORIZED, String::new());
    }
    if head.uri.path() != PATH {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    }
    if ![Method::POST, Method::DELETE].contains(&head.method) {
        return text(StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    let value: Value = first_value(&body).unwrap_or_default();
    let backend = value["backendName"].as_str().unwrap_or_default().to_owned();
    let call = UpdaterCall { method: head.method.to_string(), backend, body: value };
    let fault = state.fault.as_ref().and_then(|fault| fault(&call));
    state.calls.push(call);
    match fault {
        Some(UpdaterFault::Unreached) => return closed(),
        Some(UpdaterFault::Kept) => {
            state.kept.push((head.method, body));
            return closed();
        }
        Some(UpdaterFault::Status(status)) => {
            return text(StatusCode::from_u16(status).unwrap_or_default(), "<html></html>".to_owned());
        }
        Some(UpdaterFault::Throttled(seconds)) => {
            let mut response = text(StatusCode::TOO_MANY_REQUESTS, String::new());
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return response;
        }
        Some(UpdaterFault::Lost) | None => {}
    }
    let answer = state.answer(&head.method, &body);
    match (fault, answer) {
        (Some(UpdaterFault::Lost), _) => closed(),
        (_, Ok(())) => text(StatusCode::OK, "{}".to_owned()),
        (_, Err((status, why))) => text(status, json!({ "err": why }).to_string()),
    }
}

impl State {
    fn answer(&mut self, method: &Method, body: &[u8]) -> Result<(), (StatusCode, String)> {
        if *method == Method::POST { self.post(body) } else { self.delete(body) }
    }

    fn post(&mut self, body: &[u8]) -> Result<(), (StatusCode, String)> {
        let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to update stream: {why}"));
        let stream: Stream = first_value(body).map_err(undecoded)?;
        let name = &stream.backend_name;
        if name.is_empty() {
            return Err(failed("empty backend name".to_owned()));
        }
        let path = self.path(name);
        let may_write = !self.unwritable.contains(name);
        let write = |path: &Path| {
            if !may_write {
                return Err(ErrorKind::PermissionDenied.into());
            }
            // In place: what was there is gone before the new text is complete.
            let mut file = File::create(path)?;
            file.write_all(stream.upstream().as_bytes())?;
            file.write_all(stream.server().as_bytes())
        };
        write(&path).map_err(|error| failed(format!("failed to open conf file {}: {error}", path.display())))?;
        self.rebind().map_err(|error| failed(format!("{error:#}")))
    }

    fn delete(&mut self, body: &[u8]) -> Result<(), (StatusCode, String)> {
        let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to delete stream: {why}"));
        let Name { backend_name } = first_value(body).map_err(undecoded)?;
        match fs::remove_file(self.path(&backend_name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error.to_string())),
            _ => self.rebind().map_err(|error| failed(format!("{error:#}"))),
        }
    }

    /// The file of a backend: the name is used as it is, but for what is before its last slash.
    fn path(&self, name: &str) -> PathBuf {
        let base = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        self.folder.join(format!("{base}.conf"))
    }

    fn files(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
            }
        }
        Ok(files)
    }

    /// Binds the ports of the files, and no others, if this plays NGINX too.
    fn rebind(&mut self) -> anyhow::Result<()> {
        let Some(address) = self.binds_at.filter(|_| self.reloads) else { return Ok(()) };
        let files = self.files()?;
        self.ports.retain(|name, _| files.contains_key(name));
        for (name, text) in &files {
            let listen = text.lines().find_map(|line| line.trim().strip_prefix("listen ")?.strip_suffix(';'));
            let Some(number) = listen.and_then(|port| port.parse::<u16>().ok()) else { continue };
            if !self.ports.contains_key(name) {
                let bound = BoundPort::bind((address, number)).with_context(|| format!("port {number}"))?;
                self.ports.insert(name.clone(), bound);
            }
        }
        Ok(())
    }
}

impl Stream {
    fn upstream(&self) -> String {
        let servers = self.upstream_servers.iter();
        let servers: String = servers.map(|Server { host, port }| format!("    server {host}:{port};\n")).collect();
        format!("upstream {} {{\n{servers}}}\n\n", self.backend_name)
    }

    fn server(&self) -> String {
        let or = |seconds: i64, default| if seconds == 0 { default } else { seconds };
        let udp = if self.lb_protocol == "udp" { " udp" } else { "" };
        format!(
            "server {{\n    listen {}{udp};\n    proxy_pass {};\n    proxy_timeout {}s;\n    proxy_connect_timeout {}s;\n}}\n",
            self.lb_port,
            self.backend_name,
            or(self.proxy_timeout_seconds, TIMEOUTS.0),
            or(self.proxy_connect_timeout_seconds, TIMEOUTS.1),
        )
    }
}

/// The first JSON value of a body. What comes after it is ignored.
fn first_value<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(body))
}

fn undecoded(error: serde_json::Error) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, format!("failed to decode request: {error}"))
}

fn text(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer that never comes: the connection breaks.
fn closed() -> Response {
    let breaks = stream::once(async { Err::<Bytes, _>(std::io::Error::other("the connection is closed")) });
    Response::new(Body::from_stream(breaks))
}

/// A listener whose connections are encrypted.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A certificate for 127.0.0.1, and that of its authority in PEM.
fn tls() -> anyhow::Result<(ServerConfig, String)> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "updater");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
    Ok((config, authority.pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status and the body of the answer to a request.
    async fn answer(shared: &Arc<Mutex<State>>, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let response = serve(Extract(shared.clone()), request).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn updater() -> (Arc<Mutex<State>>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (routes(folder.path()).unwrap().0, folder)
    }

    #[tokio::test]
    async fn a_post_writes_the_file_of_a_backend_and_a_delete_removes_it() {
        let (shared, _folder) = updater();
        let body = r#"{"backendName":"b","lbPort":80,"lbProtocol":"udp","upstreamServers":[{"host":"h","port":1}]}"#;
        assert_eq!(answer(&shared, "POST", PATH, body).await, (200, "{}".to_owned()));
        let text = shared.lock().files().unwrap().remove("b.conf").unwrap();
        for line in ["upstream b {", "server h:1;", "listen 80 udp;", "proxy_timeout 5s;", "proxy_connect_timeout 2s;"]
        {
            assert!(text.contains(line), "{line}: {text}");
        }
        for _ in 0..2 {
            assert_eq!(answer(&shared, "DELETE", PATH, r#"{"backendName":"b"}"#).await.0, 200);
            assert!(shared.lock().files().unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn what_nginx_would_refuse_is_taken_all_the_same() {
        let (shared, _folder) = updater();
        for body in [
            r#"{"backendName":"b"}"#,
            r#"{"backendName":"b","lbPort":70000,"lbProtocol":"sctp"}"#,
            r#"{"backendName":"b","unknown":1} and more"#,
            r#"{"backendName":"../b"}"#,
        ] {
            assert_eq!(answer(&shared, "POST", PATH, body).await, (200, "{}".to_owned()), "{body}");
            assert_eq!(shared.lock().files().unwrap().into_keys().collect::<Vec<_>>(), ["b.conf"], "{body}");
        }
    }

    #[tokio::test]
    async fn requests_that_cannot_be_carried_out_are_answered_as_by_the_real_program() {
        let (shared, folder) = updater();
        fs::create_dir(folder.path().join("occupied.conf")).unwrap();
        for (method, path, body, status, text) in [
            ("POST", PATH, "", 400, "failed to decode request"),
            ("POST", PATH, r#"{"lbPort":"80"}"#, 400, "failed to decode request"),
            ("POST", PATH, "{}", 500, "failed to update stream: empty backend name"),
            ("POST", PATH, r#"{"backendName":"occupied"}"#, 500, "failed to open conf file"),
            ("GET", PATH, "", 405, ""),
            ("POST", "/", "{}", 404, "404 page not found"),
        ] {
            let answer = answer(&shared, method, path, body).await;
            assert!(answer.0 == status && answer.1.contains(text), "{method} {path} {body}: {answer:?}");
        }
    }
}

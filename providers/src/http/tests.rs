use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, Response};
use futures::FutureExt as _;
use futures::stream;
use reqwest::Method;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::*;
use crate::budget::Urgency;
use crate::model::LbName;

/// An answer of the server.
type Answer = Box<dyn Fn() -> Response<Body> + Send>;

/// A server that answers requests one after the other, and every further one with 200.
#[derive(Clone, Default)]
struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// The method, the path and the token of each request
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    /// Starts it. Returns its URL.
    async fn start(&self) -> String {
        async fn answer(State(server): State<Server>, request: Request<Body>) -> Response<Body> {
            let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
            let what = format!("{} {}", request.method(), request.uri().path());
            server.requests.lock().unwrap().push((what, token.unwrap_or_default().to_owned()));
            let answer = server.answers.lock().unwrap().pop_front();
            answer.map_or_else(|| response(200, &[], "{}"), |answer| answer())
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        url
    }

    fn tokens(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(_, token)| token.clone()).collect()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn response(status: u16, headers: &[(&str, &str)], body: &'static str) -> Response<Body> {
    let builder =
        headers.iter().fold(Response::builder().status(status), |builder, (name, value)| builder.header(*name, *value));
    builder.body(Body::from(body)).unwrap()
}

fn answer(status: u16, headers: &'static [(&'static str, &'static str)]) -> Answer {
    Box::new(move || response(status, headers, ""))
}

/// The connection ends in the middle of the answer.
fn cut_off() -> Answer {
    Box::new(|| {
        let chunks = [Ok(Bytes::from_static(b"{\"half")), Err(io::Error::other("cut off"))];
        Response::builder().body(Body::from_stream(stream::iter(chunks))).unwrap()
    })
}

/// Tokens that are numbered.
#[derive(Default)]
struct Tokens(AtomicUsize);

#[async_trait]
impl Credentials for Tokens {
    async fn headers(&self) -> Result<HeaderMap, Unavailable> {
        let mut value: HeaderValue = format!("Bearer secret-{}", self.0.load(Ordering::SeqCst)).parse().unwrap();
        value.set_sensitive(true);
        Ok([(reqwest::header::AUTHORIZATION, value)].into_iter().collect())
    }

    async fn renew(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn settings(base: String) -> Settings {
    // The binary installs it; tests have no `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    let rate = Rate { size: 100.0, per_second: 100.0 };
    Settings {
        base,
        admits: None,
        authorities: Vec::new(),
        reads: rate,
        writes: rate,
        gate: None,
        credentials: Arc::new(Tokens::default()),
        is_throttled: |reply| reply.body == b"too many",
    }
}

async fn client(server: &Server) -> Http {
    Http::new(settings(server.start().await)).unwrap()
}

fn turn() -> Turn {
    Turn { of: LbName::new("default", 0, "cluster", "uid"), urgency: Urgency::Open, begin_by: None, place: None }
}

async fn send(http: &Http, method: Method, effect: Effect) -> Result<Reply, Failure> {
    http.send(&Call::new(method, "things/1?key=secret-query", effect), &mut turn()).await
}

#[tokio::test]
async fn a_call_that_changes_something_passes_the_gate_and_so_does_each_repetition() {
    let server = Server::answering([answer(429, &[("retry-after", "0")]), cut_off()]);
    let passed = Arc::new(AtomicUsize::new(0));
    let counted = passed.clone();
    let gate: Gate = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Box::new(()) as Box<dyn Send> }.boxed()
    });
    let http = Http::new(Settings { gate: Some(gate), ..settings(server.start().await) }).unwrap();
    let reply = send(&http, Method::POST, Effect::Repeatable).await.unwrap();
    assert_eq!((reply.status.as_u16(), server.count()), (200, 3));
    assert_eq!(passed.load(Ordering::SeqCst), 3);
    send(&http, Method::GET, Effect::Read).await.unwrap();
    assert_eq!(passed.load(Ordering::SeqCst), 3, "a read passes no gate");
}

#[tokio::test]
async fn nothing_is_sent_while_the_gate_is_closed() {
    let server = Server::default();
    let gate: Gate = Arc::new(|| futures::future::pending().boxed());
    let http = Http::new(Settings { gate: Some(gate), ..settings(server.start().await) }).unwrap();
    let write = send(&http, Method::POST, Effect::Repeatable);
    assert!(tokio::time::timeout(Duration::from_millis(100), write).await.is_err());
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_call_is_repeated_after_the_time_that_the_answer_asks_for() {
    let server = Server::answering([answer(429, &[("retry-after", "1")])]);
    let http = client(&server).await;
    let start = Instant::now();
    let reply = send(&http, Method::POST, Effect::Once).await.unwrap();
    assert_eq!((reply.status.as_u16(), server.count()), (200, 2), "it was certainly not carried out");
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_long_wait_is_left_to_the_caller() {
    let server = Server::answering([answer(429, &[("retry-after", "300")])]);
    let http = client(&server).await;
    let failure = send(&http, Method::GET, Effect::Read).await.err();
    assert!(matches!(failure, Some(Failure::Throttled(pause)) if pause >= Duration::from_secs(299)), "{failure:?}");
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_call_is_made_three_times_at_most() {
    let too_many = || -> Answer { Box::new(|| response(403, &[("retry-after", "0")], "too many")) };
    let server = Server::answering([too_many(), too_many(), too_many(), too_many()]);
    let http = client(&server).await;
    let failure = send(&http, Method::GET, Effect::Read).await.err();
    assert!(matches!(failure, Some(Failure::Throttled(_))), "{failure:?}");
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn a_change_with_a_lost_answer_is_repeated_only_if_that_has_no_other_effect() {
    for (effect, requests) in [(Effect::Once, 1), (Effect::Repeatable, 2), (Effect::Read, 2)] {
        let server = Server::answering([cut_off()]);
        let http = client(&server).await;
        let result = send(&http, Method::POST, effect).await;
        assert_eq!(server.count(), requests, "{effect:?}");
        assert_eq!(matches!(result, Err(Failure::Lost(_))), effect == Effect::Once, "{effect:?}");
    }
}

#[tokio::test]
async fn a_call_of_one_attempt_is_repeated_with_other_credentials_alone() {
    let once = || Call::new(Method::POST, "things", Effect::Repeatable).once_within(Duration::from_secs(5));
    let server = Server::answering([cut_off()]);
    let failure = client(&server).await.send(&once(), &mut turn()).await.err();
    assert!(matches!(failure, Some(Failure::Lost(_))) && server.count() == 1, "{failure:?}");
    let server = Server::answering([answer(401, &[])]);
    let reply = client(&server).await.send(&once(), &mut turn()).await.unwrap();
    assert_eq!((reply.status.as_u16(), server.count()), (200, 2));
}

#[test]
fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let pause = |text: &'static str| pause(&HeaderValue::from_static(text), now).map(|pause| pause.as_secs());
    assert_eq!(pause("120"), Some(120));
    // The date of RFC 9110, section 5.6.7, is 784111777 s after the epoch.
    assert_eq!(pause("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
    assert_eq!(pause("Sun, 06 Nov 1994 08:49:36 GMT"), Some(0), "it has passed");
    assert_eq!(pause("soon"), None);
}

#[tokio::test]
async fn a_name_that_leads_to_no_permitted_address_is_not_called() {
    let server = Server::default();
    let base = server.start().await.replace("127.0.0.1", "localhost");
    let http =
        |admits: fn(IpAddr) -> bool| Http::new(Settings { admits: Some(admits), ..settings(base.clone()) }).unwrap();
    let failure = send(&http(|ip| !ip.is_loopback()), Method::GET, Effect::Read).await.err();
    assert!(failure.is_some_and(|failure| failure.to_string().contains("not permitted")));
    assert_eq!(server.count(), 0);
    send(&http(|ip| ip.is_ipv4()), Method::GET, Effect::Read).await.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn an_unavailable_server_is_asked_again_only_if_it_says_when() {
    let server = Server::answering([answer(503, &[("retry-after", "0")]), answer(503, &[])]);
    let http = client(&server).await;
    let reply = send(&http, Method::GET, Effect::Read).await.unwrap();
    assert_eq!((reply.status.as_u16(), server.count()), (503, 2));
}

#[tokio::test]
async fn credentials_are_renewed_once_when_they_are_refused() {
    let server = Server::answering([answer(401, &[]), answer(401, &[])]);
    let http = client(&server).await;
    let reply = send(&http, Method::POST, Effect::Once).await.unwrap();
    assert_eq!(reply.status.as_u16(), 401);
    assert_eq!(server.tokens(), ["Bearer secret-0", "Bearer secret-1"]);
    assert_eq!(send(&http, Method::GET, Effect::Read).await.unwrap().status.as_u16(), 200);
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up() {
    let endless: Answer = Box::new(|| {
        let chunks = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![b' '; 1 << 16])));
        Response::builder().body(Body::from_stream(chunks)).unwrap()
    });
    let server = Server::answering([endless]);
    let failure = send(&client(&server).await, Method::GET, Effect::Read).await.err();
    assert!(matches!(failure, Some(Failure::TooLarge { .. })), "{failure:?}");
}

#[tokio::test]
async fn a_call_without_an_answer_is_given_up_after_its_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = Http::new(settings(format!("http://{}", listener.local_addr().unwrap()))).unwrap();
    let accepts = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_to_end(&mut Vec::new()).await
    };
    let call = Call { timeout: Duration::from_millis(100), ..Call::new(Method::POST, "things", Effect::Once) };
    let (failure, _) = futures::join!(async { http.send(&call, &mut turn()).await.err() }, accepts);
    assert!(matches!(failure, Some(Failure::Lost(_))), "{failure:?}");
}

#[tokio::test]
async fn a_server_that_does_not_exist_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = send(&Http::new(settings(url)).unwrap(), Method::POST, Effect::Once).await.err();
    assert!(matches!(failure, Some(Failure::Unreachable(_))), "{failure:?}");
}

#[tokio::test]
async fn a_redirection_is_not_followed_with_credentials() {
    let server = Server::answering([answer(307, &[("location", "/elsewhere")])]);
    let reply = send(&client(&server).await, Method::GET, Effect::Read).await.unwrap();
    assert_eq!((reply.status.as_u16(), server.count()), (307, 1));
}

#[test]
fn authorities_that_are_no_certificates_are_refused() {
    let authorities = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n".to_vec();
    assert!(Http::new(Settings { authorities, ..settings("https://localhost".into()) }).is_err());
}

#[test]
fn no_log_shows_credentials_queries_or_bodies() {
    let text = sharedlb_testbed::logged_by(async || {
        let server = Server::answering([cut_off()]);
        let http = client(&server).await;
        let call = Call::new(Method::POST, "things/1?key=secret-query", Effect::Repeatable).json(&"secret-body");
        tracing::info!(?call, "the call");
        http.send(&call, &mut turn()).await.unwrap();
    });
    assert!(text.contains("POST things/1") && text.contains("connecting to"), "{text}");
    assert!(!text.contains("secret-"), "{text}");
}

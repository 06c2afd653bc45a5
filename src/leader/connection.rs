//! The connections of a leader to the API server: none of them sends a byte once the fence
//! is closed.
//!
//! This is the stack of kube's own client with three more layers. At the bottom, right
//! before the bytes of a connection are handed to the kernel, the fence is checked: a
//! request may have waited above for a connection, a token or a retry. Above kube's layers,
//! writes are counted, so that a graceful shutdown can drain them. At the top are the
//! limits of requests: how many are sent concurrently, and how long each may take.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

use super::Fence;
use crate::kubernetes::requests::RequestLimits;

/// A client behind this fence. The kernel drops bytes that the API server has not
/// acknowledged within `unacknowledged`, instead of sending them again when the network is
/// back.
///
/// # Errors
/// When the configuration has a certificate, token or header that can't be used, or a
/// proxy: the fence is below all that kube's own client can have of one.
pub(crate) fn fenced_client(config: Config, fence: &Fence, unacknowledged: Option<Duration>) -> kube::Result<Client> {
    if let Some(proxy_url) = config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy_url) });
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    // The last part of a large request must not wait until the rest is acknowledged (Nagle's
    // algorithm), which a receiver may delay by 40 ms. Go's clients have this by default.
    http.set_nodelay(true);
    http.set_connect_timeout(config.connect_timeout);
    http.set_tcp_user_timeout(unacknowledged);
    let connector = config.rustls_https_connector_with_connector(Connector { http, fence: fence.clone() })?;
    let fenced = |service| FencedWrites { service, fence: fence.clone() };
    let service = ServiceBuilder::new()
        .layer(RequestLimits::default())
        .layer(tower::layer::layer_fn(fenced))
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// Counts writes, and rejects new ones once the fence drains.
struct FencedWrites<S> {
    service: S,
    fence: Fence,
}

impl<S, B> Service<Request<Body>> for FencedWrites<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let fence = self.fence.clone();
        let reply = self.service.call(request);
        if reads {
            return reply.boxed();
        }
        async move {
            let _act = fence.act().await;
            reply.await
        }
        .boxed()
    }
}

/// Creates connections that check the fence.
#[derive(Clone)]
struct Connector {
    http: HttpConnector,
    fence: Fence,
}

impl Service<Uri> for Connector {
    type Response = FencedConnection<<HttpConnector as Service<Uri>>::Response>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.http, context)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let fence = self.fence.clone();
        let connection = self.http.call(server);
        async move { Ok(FencedConnection { connection: connection.await?, fence }) }.boxed()
    }
}

/// A connection that sends nothing once the fence is closed.
struct FencedConnection<C> {
    connection: C,
    fence: Fence,
}

impl<C: Connection> Connection for FencedConnection<C> {
    fn connected(&self) -> Connected {
        self.connection.connected()
    }
}

impl<C: Read + Unpin> Read for FencedConnection<C> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, into)
    }
}

impl<C: Write + Unpin> Write for FencedConnection<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fence.check()?;
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fence.check()?;
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use http::StatusCode;
    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::leader::Moment;

    fn fence() -> Fence {
        Fence::until(Moment::now().after(Duration::from_secs(60)))
    }

    /// A server that answers like this, a client of it, and the number of requests.
    async fn server<F>(fence: &Fence, answer: impl Fn() -> F + Send + Sync + 'static) -> (Client, Arc<AtomicUsize>)
    where
        F: Future<Output = StatusCode> + Send + 'static,
    {
        let came = Arc::<AtomicUsize>::default();
        let (count, answer) = (came.clone(), Arc::new(answer));
        let router = Router::new().fallback(move || {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            async move { answer().await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it listens")).parse().expect("a URL");
        tokio::spawn(axum::serve(listener, router).into_future());
        (fenced_client(Config::new(url), fence, None).expect("a client"), came)
    }

    async fn ask(client: &Client, method: Method) -> kube::Result<String> {
        ask_at(client, method, "/").await
    }

    async fn ask_at(client: &Client, method: Method, uri: &str) -> kube::Result<String> {
        let request = Request::builder().method(method).uri(uri).body(Vec::new()).expect("a request");
        client.request_text(request).await
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_are_not_sent_yet_and_a_watch_does_not_wait_for_them() {
        let (fence, answer) = (fence(), CancellationToken::new());
        let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
        let answered = answer.clone();
        let (client, came) = server(&fence, move || {
            arrived.send(()).expect("the test receives");
            let answered = answered.clone();
            async move {
                answered.cancelled().await;
                StatusCode::OK
            }
        })
        .await;
        let at_once = RequestLimits::default().at_once;
        let writes: Vec<_> = (0..at_once + 10)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { ask(&client, Method::POST).await })
            })
            .collect();
        for _ in 0..at_once {
            arrivals.recv().await.expect("it is sent");
        }
        let watch = tokio::spawn({
            let client = client.clone();
            async move { ask_at(&client, Method::GET, "/?&watch=true").await }
        });
        arrivals.recv().await.expect("it is sent");
        assert_eq!(came.load(Ordering::SeqCst), at_once + 1);
        answer.cancel();
        for request in writes.into_iter().chain([watch]) {
            request.await.expect("no panic").expect("it is answered");
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_once_the_fence_is_closed_also_by_a_connection_that_is_there() {
        let fence = fence();
        let (client, came) = server(&fence, async || StatusCode::OK).await;
        ask(&client, Method::GET).await.expect("it is open");
        fence.close();
        ask(&client, Method::GET).await.expect_err("it is closed");
        assert_eq!(came.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_the_server_asks_to_try_again_is_not_sent_again_once_the_fence_is_closed() {
        let fence = fence();
        let close = fence.clone();
        let (client, came) = server(&fence, move || {
            close.close();
            async { StatusCode::SERVICE_UNAVAILABLE }
        })
        .await;
        ask(&client, Method::POST).await.expect_err("it is closed");
        assert_eq!(came.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_write_is_under_way_until_it_is_answered() {
        let (fence, answer) = (fence(), Arc::<Notify>::default());
        let (asked, wait) = (Arc::<Notify>::default(), answer.clone());
        let tell = asked.clone();
        let (client, _) = server(&fence, move || {
            let wait = wait.clone();
            tell.notify_one();
            async move {
                wait.notified().await;
                StatusCode::OK
            }
        })
        .await;
        let written = tokio::spawn(async move { ask(&client, Method::POST).await });
        asked.notified().await;
        let mut drained = Box::pin(fence.drain());
        assert!(drained.as_mut().now_or_never().is_none(), "the server has not answered");
        answer.notify_one();
        drained.await;
        written.await.expect("no panic").expect("what has begun may end");
    }
}

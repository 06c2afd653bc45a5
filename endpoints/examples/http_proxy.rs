//! An HTTP proxy before the pods of a Service:
//!
//! ```text
//! cargo run --example http_proxy -- 127.0.0.1:8080 SERVICE [PORT]
//! ```
//!
//! It takes the cluster and the namespace from the current context of the kubeconfig file, or in a
//! pod from its service account. It ends with Ctrl-C.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::{Authority, Scheme, Uri};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sharedlb_endpoints::kube::Client;
use sharedlb_endpoints::{Config, LoadBalancer};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let listener = TcpListener::bind(arguments.next().context("an address to listen on is needed")?).await?;
    let mut config = Config::new(arguments.next().context("the name of a Service is needed")?);
    if let Some(port) = arguments.next() {
        config = config.port(port);
    }

    let load_balancer = Arc::new(LoadBalancer::new(Client::try_default().await?, config));
    load_balancer.sync_endpoints().await?;
    load_balancer.start_background_sync();
    let until_interrupted = async { _ = tokio::signal::ctrl_c().await };
    axum::serve(listener, proxy(load_balancer.clone())).with_graceful_shutdown(until_interrupted).await?;
    load_balancer.shutdown().await;
    Ok(())
}

/// A service that passes every request on to an endpoint.
pub(crate) fn proxy(load_balancer: Arc<LoadBalancer>) -> Router {
    let upstream = Upstream { load_balancer, http: HttpClient::builder(TokioExecutor::new()).build_http() };
    Router::new().fallback(pass).with_state(upstream)
}

#[derive(Clone)]
struct Upstream {
    load_balancer: Arc<LoadBalancer>,
    /// It keeps connections to endpoints open, to use them again.
    http: HttpClient<HttpConnector, Body>,
}

async fn pass(State(upstream): State<Upstream>, request: Request) -> Response {
    match upstream.send(request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")).into_response(),
    }
}

impl Upstream {
    async fn send(&self, mut request: Request) -> anyhow::Result<Response> {
        let endpoint = self.load_balancer.next()?;
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(endpoint.address.to_string())?);
        *request.uri_mut() = Uri::from_parts(uri)?;
        remove_hop_by_hop(request.headers_mut());

        let mut response = self.http.request(request).await?;
        remove_hop_by_hop(response.headers_mut());
        // The request is in flight until the whole body has passed.
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _in_flight = &endpoint;
                frame
            }))
        }))
    }
}

/// Removes what is about one connection only: RFC 9110, section 7.6.1.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|names| names.to_str().ok());
    let named = named.flat_map(|names| names.split(',')).filter_map(|name| name.trim().parse().ok());
    let named: Vec<HeaderName> = named.collect();
    for name in named {
        headers.remove(name);
    }
    for name in [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

//! Sends GET requests to the pods of a Service with hyper, a connection for each:
//!
//! ```text
//! cargo run --example hyper_client -- SERVICE [PORT] [PATH] [COUNT]
//! ```
//!
//! It takes the cluster and the namespace from the current context of the kubeconfig file, or in a
//! pod from its service account.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sharedlb_endpoints::kube::Client;
use sharedlb_endpoints::{Config, LoadBalancer};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let mut config = Config::new(arguments.next().context("the name of a Service is needed")?);
    if let Some(port) = arguments.next() {
        config = config.port(port);
    }
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let count = arguments.next().map_or(Ok(10), |count| count.parse())?;

    let load_balancer = Arc::new(LoadBalancer::new(Client::try_default().await?, config));
    load_balancer.sync_endpoints().await?;
    load_balancer.start_background_sync();
    let mut answers: FuturesUnordered<_> = (0..count).map(|_| get(&load_balancer, &path)).collect();
    while let Some(answer) = answers.next().await {
        let (endpoint, status) = answer?;
        println!("{status} from {endpoint}");
    }
    load_balancer.shutdown().await;
    Ok(())
}

/// Sends one request, and returns which endpoint has answered, and how.
pub(crate) async fn get(
    load_balancer: &LoadBalancer,
    path: &str,
) -> anyhow::Result<(impl Display + use<>, StatusCode)> {
    // It counts as a request to the endpoint until this function returns.
    let endpoint = load_balancer.next()?;
    let stream = TcpStream::connect(endpoint.address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(header::HOST, endpoint.address.to_string()).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        answer.collect().await?;
        // Without a sender the connection ends.
        drop(sender);
        anyhow::Ok(status)
    };
    let (status, _) = futures::future::try_join(exchange, async { Ok(connection.await?) }).await?;
    Ok((endpoint.address, status))
}

//! Plain HTTP, to ask what runs in here.

use std::net::SocketAddr;

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Asks for a page, by a connection of its own.
///
/// # Errors
/// If there is no answer, or its text is not UTF-8. Any status code is an answer.
pub async fn http_get(address: SocketAddr, path: &str) -> anyhow::Result<Response<String>> {
    send(Request::get(format!("http://{address}{path}")).body(String::new())?).await
}

/// Sends a request, by a connection of its own.
pub(crate) async fn send(request: Request<String>) -> anyhow::Result<Response<String>> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(request).await?.into_parts();
    let text = String::from_utf8(body.collect().await?.to_bytes().into())?;
    Ok(Response::from_parts(head, text))
}

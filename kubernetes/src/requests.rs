//! Limits of the requests of a client: how many are concurrent, and how long each may take.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{BoxError, Layer, Service};

/// A write that takes longer counts as failed, even if the API server carries it out later.
/// It is less than the renew deadline of a leader (10 s), after which the process ends.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(8);

/// Limits of the requests of one client.
///
/// A request that has to wait for others waits here, before its timeout begins. Watches have
/// no limits: they last for minutes by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The most concurrent requests, and so connections, since HTTP/1.1 has one request at a
    /// time on each
    pub at_once: usize,
    /// How long a write may take
    pub write: Duration,
    /// How long a get or one page of a list may take
    pub read: Duration,
}

impl Default for RequestLimits {
    /// 48 concurrent requests: with the watches, fewer than 64 connections.
    ///
    /// A write takes some 5 ms, so 48 are almost 10,000 a second, which is more than an
    /// API server carries out. Further ones would only wait there: API Priority and Fairness
    /// gives all service accounts of a cluster some 245 seats together (`workload-low`: 100
    /// of 245 shares of 400 + 200), queues their requests, and then answers with 429.
    fn default() -> Self {
        Self { at_once: 48, write: WRITE_TIMEOUT, read: Duration::from_secs(30) }
    }
}

/// The API server did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub struct NoAnswer(pub Duration);

impl<S> Layer<S> for RequestLimits {
    type Service = Limited<S>;

    fn layer(&self, service: S) -> Limited<S> {
        Limited { service, limits: *self, permits: Arc::new(Semaphore::new(self.at_once)) }
    }
}

/// A service whose requests have limits.
#[derive(Debug)]
pub struct Limited<S> {
    service: S,
    limits: RequestLimits,
    permits: Arc<Semaphore>,
}

impl<S, A, B> Service<Request<A>> for Limited<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<LimitedBody<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let limit = if is_read { self.limits.read } else { self.limits.write };
        let permits = (!is_watch(request.uri())).then(|| self.permits.clone());
        // The inner service does nothing before this is polled.
        let reply = self.service.call(request);
        async move {
            let Some(permits) = permits else {
                let reply = reply.await.map_err(Into::into)?;
                return Ok(reply.map(|body| LimitedBody { body, limit: None }));
            };
            let permit = permits.acquire_owned().await?;
            let deadline = Instant::now() + limit;
            let reply = timeout_at(deadline, reply).await.map_err(|_| NoAnswer(limit))?.map_err(Into::into)?;
            let limit = BodyLimit { time: limit, deadline: Box::pin(sleep_until(deadline)), _permit: permit };
            Ok(reply.map(|body| LimitedBody { body, limit: Some(limit) }))
        }
        .boxed()
    }
}

/// Whether the request is a watch of `kube`.
fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|parameter| parameter == "watch=true"))
}

/// The body of an answer, which holds the request's permit until it is read or dropped.
#[derive(Debug)]
pub struct LimitedBody<B> {
    body: B,
    limit: Option<BodyLimit>,
}

#[derive(Debug)]
struct BodyLimit {
    time: Duration,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for LimitedBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if let Some(limit) = &mut self.limit
            && limit.deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(NoAnswer(limit.time).into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.limit = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;

    /// A body of this many empty frames, or one that never ends.
    struct Frames(Option<usize>);

    impl Body for Frames {
        type Data = VecDeque<u8>;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
            let Some(left) = &mut self.0 else { return Poll::Pending };
            let frame = left.checked_sub(1).map(|fewer| *left = fewer);
            Poll::Ready(frame.map(|()| Ok(Frame::data(VecDeque::new()))))
        }
    }

    const LIMITS: RequestLimits =
        RequestLimits { at_once: 2, write: Duration::from_secs(8), read: Duration::from_secs(30) };

    fn request(method: Method, uri: &str) -> Request<()> {
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    type Reply = BoxFuture<'static, Result<Response<LimitedBody<Frames>>, BoxError>>;

    /// Requests to a server that answers all paths but those with `/never`.
    fn client(frames: Option<usize>) -> impl FnMut(Method, &str) -> Reply {
        let mut service = LIMITS.layer(service_fn(move |request: Request<()>| async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Frames(frames)))
        }));
        move |method, uri| service.call(request(method, uri))
    }

    async fn read(body: &mut LimitedBody<Frames>) -> Option<Result<Frame<VecDeque<u8>>, BoxError>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    #[tokio::test]
    async fn a_request_waits_until_the_body_of_an_earlier_one_was_read() {
        let mut ask = client(Some(1));
        let mut first = ask(Method::PATCH, "/a").await.unwrap().into_body();
        let _second = ask(Method::GET, "/b").await.unwrap();
        let mut third = ask(Method::GET, "/c");
        assert!((&mut third).now_or_never().is_none(), "two are under way");
        assert!(read(&mut first).await.is_some_and(|frame| frame.is_ok()));
        assert!((&mut third).now_or_never().is_none(), "the first is not complete");
        assert!(read(&mut first).await.is_none());
        assert!(third.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn watches_neither_count_nor_wait_nor_end() {
        let mut ask = client(None);
        let mut watches = Vec::new();
        for _ in 0..3 {
            watches.push(ask(Method::GET, "/pods?&watch=true&timeoutSeconds=290").await.unwrap().into_body());
        }
        let (_first, _second) = (ask(Method::GET, "/a").await.unwrap(), ask(Method::GET, "/b").await.unwrap());
        let mut watch = ask(Method::GET, "/pods?watch=true").now_or_never().expect("it waits for nothing").unwrap();
        let event = tokio::time::timeout(Duration::from_secs(3600), read(watch.body_mut())).await;
        event.expect_err("it goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_given_up_and_lets_others_pass() {
        let mut ask = client(Some(0));
        let (first, second) = (ask(Method::PATCH, "/never"), ask(Method::GET, "/never"));
        let third = ask(Method::DELETE, "/c");
        let begun = Instant::now();
        let (first, second, third) = tokio::join!(first, second, third);
        assert_eq!(first.err().unwrap().to_string(), "no answer within 8 s");
        assert_eq!(second.err().unwrap().to_string(), "no answer within 30 s");
        third.expect("its time began when its turn came");
        assert!(begun.elapsed() >= LIMITS.read);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stops_in_its_middle_is_given_up() {
        let mut body = client(None)(Method::PATCH, "/a").await.unwrap().into_body();
        let error = read(&mut body).await.unwrap().err().unwrap();
        assert_eq!(error.downcast_ref(), Some(&NoAnswer(LIMITS.write)));
    }
}

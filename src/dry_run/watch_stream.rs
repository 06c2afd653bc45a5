//! The stream of a watch, which merges the events of the overlay with those of the API
//! server.

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::BoxError;

/// The body of an answer.
pub(super) type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;

/// One event of a watch.
#[derive(Debug)]
pub(super) struct Line(Bytes);

impl Line {
    /// An event of this type about this object.
    pub(super) fn new(kind: &str, object: &Value) -> Self {
        Self(format!("{}\n", json!({"type": kind, "object": object})).into())
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// The sender of the overlay's events.
pub(super) struct Sender(mpsc::UnboundedSender<Line>);

impl Sender {
    pub(super) fn send(&self, line: Line) {
        // A watch that was dropped gets no events.
        _ = self.0.send(line);
    }
}

/// The events of the overlay for one watch.
pub(super) struct Receiver {
    lines: mpsc::UnboundedReceiver<Line>,
    /// Whether the API server has ended the watch
    was_ended: bool,
    closed: Option<Box<dyn FnOnce(bool) + Send>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(closed) = self.closed.take() {
            closed(self.was_ended);
        }
    }
}

/// Creates the events of the overlay for one watch. When they are dropped, `closed` is called
/// with whether the API server had ended the watch.
pub(super) fn channel(closed: impl FnOnce(bool) + Send + 'static) -> (Sender, Receiver) {
    let (sender, lines) = mpsc::unbounded_channel();
    (Sender(sender), Receiver { lines, was_ended: false, closed: Some(Box::new(closed)) })
}

/// The lines of a body.
struct Lines<B> {
    body: B,
    /// The received part of the next line
    buffer: BytesMut,
}

impl<B> Lines<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next whole lines; `None`: the body has ended. It is cancel safe.
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') {
                return Some(Ok(self.buffer.split_to(end + 1).freeze()));
            }
            match self.body.frame().await? {
                Ok(frame) => _ = frame.into_data().map(|data| self.buffer.extend_from_slice(&data)),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// Merges both, until the API server ends the watch.
pub(super) fn merged<B>(events: B, written: Receiver) -> ReplyBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let events = Lines { body: Box::pin(events), buffer: BytesMut::new() };
    let frames = stream::unfold((events, written), |(mut events, mut written)| async move {
        let next = tokio::select! {
            biased;
            Some(line) = written.lines.recv() => Some(Ok(line.into_bytes())),
            events = events.next() => events,
        };
        written.was_ended = !matches!(next, Some(Ok(_)));
        Some((next?.map(Frame::data), (events, written)))
    });
    StreamBody::new(frames).boxed_unsync()
}

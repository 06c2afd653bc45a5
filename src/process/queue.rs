//! The queue of events of a loop, whose depth is a metric.

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::due::wait_until;
use super::metrics::LoopMetrics;

/// A queue without a limit, and both of its ends.
pub(crate) fn queue<T>(metrics: LoopMetrics) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = unbounded_channel();
    (Sender { events: sender, metrics: metrics.clone() }, Receiver { events: receiver, metrics })
}

/// The end of a queue to which events are sent.
pub(crate) struct Sender<T> {
    events: UnboundedSender<T>,
    metrics: LoopMetrics,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), metrics: self.metrics.clone() }
    }
}

impl<T> Sender<T> {
    /// Sends an event. Does nothing once the loop has ended.
    pub(crate) fn send(&self, event: T) {
        self.metrics.depth.inc();
        if self.events.send(event).is_err() {
            self.metrics.depth.dec();
        }
    }
}

/// The end of a queue at which a loop receives its events.
pub(crate) struct Receiver<T> {
    events: UnboundedReceiver<T>,
    metrics: LoopMetrics,
}

impl<T> Receiver<T> {
    /// Waits for an event or until this time, and returns all events that have come; `None`:
    /// all senders are gone. The loop has handled the events that it received before.
    pub(crate) async fn happened(&mut self, due: Option<Instant>) -> Option<Vec<T>> {
        self.metrics.last_success.set(Timestamp::now().as_second());
        let first = tokio::select! {
            event = self.events.recv() => Some(event?),
            () = wait_until(due) => None,
        };
        let events: Vec<T> = first.into_iter().chain(std::iter::from_fn(|| self.events.try_recv().ok())).collect();
        self.metrics.depth.dec_by(i64::try_from(events.len()).unwrap_or(i64::MAX));
        Some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_depth_is_the_number_of_events_that_were_sent_and_not_received() {
        let metrics = LoopMetrics::default();
        let (sender, mut receiver) = queue(metrics.clone());
        sender.send("a");
        sender.clone().send("b");
        assert_eq!(metrics.depth.get(), 2);
        assert_eq!(metrics.last_success.get(), 0);
        assert_eq!(receiver.happened(None).await, Some(vec!["a", "b"]));
        assert_eq!(metrics.depth.get(), 0);
        assert!(metrics.last_success.get() > 0);
        drop(receiver);
        sender.send("c");
        assert_eq!(metrics.depth.get(), 0, "nothing receives it");
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_event_it_waits_until_the_time() {
        let (_sender, mut receiver) = queue::<()>(LoopMetrics::default());
        let due = Instant::now() + std::time::Duration::from_secs(60);
        assert_eq!(receiver.happened(Some(due)).await, Some(Vec::new()));
        assert_eq!(Instant::now(), due);
    }

    #[tokio::test]
    async fn it_ends_with_its_last_sender() {
        let (sender, mut receiver) = queue::<()>(LoopMetrics::default());
        drop(sender);
        assert_eq!(receiver.happened(None).await, None);
    }
}

//! The fence: the check before every act of a leader that it still leads.
//!
//! A timer alone is not enough. A process that was frozen (by SIGSTOP, a suspended machine
//! or CPU starvation) continues in the middle of an operation, before its timers fire,
//! while another process leads. So the clock is read before each act, which costs some tens
//! of nanoseconds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The longest sleep of the thread that watches a fence, since the clock of a sleep stands
/// still while the machine is suspended.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The fence never closes: there is no election.
const FOR_EVER: u64 = u64::MAX;
/// The fence is closed for good.
const CLOSED: u64 = 0;

/// A moment by a clock that cannot be set, and that advances while the machine is suspended
/// (`CLOCK_BOOTTIME`; the clock of Rust's `Instant` stands still then).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// Now.
    pub(crate) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec);
        let nanos = u32::try_from(time.tv_nsec);
        Self(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default()))
    }

    /// The moment this long after the machine's start.
    #[cfg(test)]
    pub(super) fn at(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// The moment this much later.
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The time until another moment; zero if that is earlier.
    pub(crate) fn until(self, then: Self) -> Duration {
        then.0.saturating_sub(self.0)
    }

    fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(FOR_EVER)
    }
}

/// Whether this process may act. Once closed it stays closed.
#[derive(Debug, Clone)]
pub(crate) struct Fence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Until when it is open, in nanoseconds of [`Moment`]
    until: AtomicU64,
    /// Whether new acts are rejected
    stopping: AtomicBool,
    under_way: watch::Sender<usize>,
}

/// An act in flight, until this is dropped.
#[derive(Debug)]
pub(crate) struct Act(Fence);

impl Drop for Act {
    fn drop(&mut self) {
        self.0.0.under_way.send_modify(|count| *count -= 1);
    }
}

impl Fence {
    /// A fence that never closes, without leader election.
    pub(crate) fn open() -> Self {
        Self::with(FOR_EVER)
    }

    /// A fence that closes at this moment unless it is extended.
    pub(crate) fn until(moment: Moment) -> Self {
        Self::with(moment.nanos())
    }

    fn with(until: u64) -> Self {
        let under_way = watch::Sender::new(0);
        Self(Arc::new(Inner { until: AtomicU64::new(until), stopping: AtomicBool::new(false), under_way }))
    }

    /// How long it stays open; zero if it is closed.
    fn left(&self) -> Duration {
        match self.0.until.load(Ordering::SeqCst) {
            FOR_EVER => Duration::MAX,
            until => Duration::from_nanos(until.saturating_sub(Moment::now().nanos())),
        }
    }

    /// Whether it is open. To be called right before something is sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.left().is_zero()
    }

    /// An error if it is closed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_open() { Ok(()) } else { Err(io::Error::other("this process is no longer the leader")) }
    }

    /// Returns if it is open. Otherwise it never returns: the process is about to end, and
    /// the caller must neither act nor report a failure.
    pub(crate) async fn pass(&self) {
        if self.rejects() {
            std::future::pending().await
        }
    }

    /// The same for an act that must have ended before the lease is released.
    pub(crate) async fn act(&self) -> Act {
        self.0.under_way.send_modify(|count| *count += 1);
        // Counted before the check, so that either `drained` sees the act, or the act sees
        // that it is rejected.
        let act = Act(self.clone());
        if self.rejects() {
            drop(act);
            return std::future::pending().await;
        }
        act
    }

    fn rejects(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst) || !self.is_open()
    }

    /// Extends it. Returns whether it is open: a fence that has closed stays closed.
    pub(super) fn extend(&self, until: Moment) -> bool {
        let is_open = self.is_open();
        if is_open {
            // Only renewals write it, unless it was closed in between.
            let change = |old| (old != CLOSED && old != FOR_EVER).then(|| until.nanos().max(old));
            _ = self.0.until.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        }
        is_open && self.is_open()
    }

    /// Closes it.
    pub(super) fn close(&self) {
        self.0.until.store(CLOSED, Ordering::SeqCst);
    }

    /// Rejects new acts, and waits until none is in flight.
    pub(super) async fn drain(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        // It can't fail: the sender is in `self`.
        _ = self.0.under_way.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Watches it from a thread of its own, which depends on no other part of the process,
    /// and calls `lapsed` when it closes by the clock.
    pub(super) fn watch(&self, lapsed: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let fence = self.clone();
        let watch = move || {
            loop {
                match (fence.0.until.load(Ordering::SeqCst), fence.left()) {
                    // It was closed by a call, whose caller ends the process.
                    (CLOSED, _) => return,
                    (_, Duration::ZERO) => break,
                    (_, left) => std::thread::sleep(left.min(WATCH_EVERY)),
                }
            }
            lapsed();
        };
        std::thread::Builder::new().name("fence".to_owned()).spawn(watch).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;

    fn soon() -> Fence {
        Fence::until(Moment::now().after(Duration::from_secs(60)))
    }

    fn lapsed() -> Fence {
        Fence::until(Moment::now())
    }

    #[test]
    fn an_open_one_lets_pass() {
        assert!(soon().pass().now_or_never().is_some());
        assert!(Fence::open().act().now_or_never().is_some());
        assert!(soon().check().is_ok());
    }

    #[test]
    fn a_lapsed_fence_stays_closed() {
        let fence = lapsed();
        assert!(!fence.extend(Moment::now().after(Duration::from_secs(60))), "too late");
        assert!(fence.pass().now_or_never().is_none());
        assert!(fence.act().now_or_never().is_none());
        assert!(fence.check().is_err());
    }

    #[test]
    fn one_that_was_closed_is_never_opened_again() {
        let fence = soon();
        fence.close();
        assert!(!fence.extend(Moment::now().after(Duration::from_secs(60))));
        assert!(!fence.is_open());
    }

    #[test]
    fn it_is_never_closed_earlier_than_it_was_put_off_to() {
        let fence = soon();
        assert!(fence.extend(Moment::now()));
        assert!(fence.is_open());
    }

    #[test]
    fn to_drain_is_to_let_nothing_begin_and_to_wait_for_what_has_begun() {
        let fence = soon();
        let act = fence.act().now_or_never().expect("it is open");
        let mut drained = Box::pin(fence.drain());
        assert!(drained.as_mut().now_or_never().is_none(), "one is under way");
        assert!(fence.act().now_or_never().is_none(), "nothing new begins");
        assert!(fence.check().is_ok(), "what has begun may send the rest");
        drop(act);
        assert!(drained.now_or_never().is_some());
    }

    #[test]
    fn the_watchman_tells_when_it_lapses_and_not_when_it_was_closed() {
        let (sender, receiver) = mpsc::channel();
        let tell = |what| {
            let sender = sender.clone();
            move || _ = sender.send(what)
        };
        let closed = soon();
        closed.close();
        closed.watch(tell("closed")).expect("a thread");
        lapsed().watch(tell("lapsed")).expect("a thread");
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["lapsed"]);
    }
}

//! Which faults strike the requests that pass the proxy.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use sharedlb_testbed::eventually;
use tokio::sync::watch;

/// What is to become of a request or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Refuse(StatusCode, &'static str),
    LoseAnswer,
}

/// Holds requests back.
#[derive(Clone, Copy, Default)]
struct Hold {
    /// After how many more writes; None: not at all.
    after: Option<u64>,
    /// Writes that the API server has not answered yet.
    under_way: u64,
    /// How often held requests were thrown away.
    round: u64,
}

/// How watches that are under way end.
#[derive(Clone, Copy, Debug, Default)]
pub enum Ending {
    /// With 410 Gone, as those that are too old.
    #[default]
    Expired,
    /// The connection breaks.
    Broken,
}

/// The faults there are, and what has passed.
#[derive(Default)]
pub struct Faults {
    /// Every how many writes one is answered with a conflict; 0: none.
    conflict_every: AtomicU64,
    /// Every how many writes the answer to one is lost; 0: none.
    lose_every: AtomicU64,
    /// Writes that arrived, but for those of Leases.
    acts: AtomicU64,
    /// Writes that were asked for.
    asked: AtomicU64,
    /// Writes that the API server was given, and that have ended.
    passed: AtomicU64,
    hold: watch::Sender<Hold>,
    ended: watch::Sender<Ending>,
    /// How long every request, every answer and every event is held up, in
    /// milliseconds.
    delay: AtomicU64,
    /// Whether lists are answered as they were before.
    stale: AtomicBool,
}

impl Faults {
    /// Answers every second, third, … write with 409; 0 ends it.
    pub fn conflict_every(&self, count: u64) {
        self.conflict_every.store(count, Ordering::Relaxed);
    }

    /// Loses the answer to every second, third, … write; 0 ends it.
    pub fn lose_answer_every(&self, count: u64) {
        self.lose_every.store(count, Ordering::Relaxed);
    }

    /// How many writes the API server was given.
    pub fn writes(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// How many writes arrived, whatever became of them, but for those of Leases.
    pub fn acts(&self) -> u64 {
        self.acts.load(Ordering::Relaxed)
    }

    /// One of those has arrived.
    pub(super) fn act(&self) {
        self.acts.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends all watches that are under way with 410 Gone.
    pub fn expire_watches(&self) {
        self.end_watches(Ending::Expired);
    }

    /// Ends all watches that are under way.
    pub fn end_watches(&self, how: Ending) {
        self.ended.send_replace(how);
    }

    /// Holds up every request, every answer and every event of a watch for so
    /// long, until another delay is set.
    pub fn delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits for as long as things are held up now.
    pub(super) async fn be_late(&self) {
        match self.delay.load(Ordering::Relaxed) {
            0 => {}
            delay => tokio::time::sleep(Duration::from_millis(delay)).await,
        }
    }

    /// Whether a list that was asked for before is answered as it was then. It
    /// says so by its version, so a watch from there misses nothing.
    pub fn serve_stale_lists(&self, stale: bool) {
        self.stale.store(stale, Ordering::Relaxed);
    }

    /// Whether lists are stale now.
    pub(super) fn lists_are_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// Lets this many more writes happen; the answers to the last of them are
    /// held back, and so is every request after them.
    pub fn hold_after(&self, writes: u64) {
        self.hold.send_modify(|hold| hold.after = Some(writes));
    }

    /// Throws away what is held back, and lets everything pass again.
    pub fn release(&self) {
        self.hold.send_modify(|hold| (hold.after, hold.round) = (None, hold.round + 1));
    }

    /// Waits until requests are held back, or until `done` says that no more
    /// are to come; returns whether they are held back.
    pub async fn until_held(
        &self,
        limit: Duration,
        done: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        eventually("the proxy to hold requests back", limit, async || {
            // In this order: the last write may arrive during the check.
            let is_done = done().await?;
            let hold = *self.hold.borrow();
            if hold.after == Some(0) {
                return Ok((hold.under_way == 0).then_some(true));
            }
            Ok(is_done.then_some(false))
        })
        .await
    }

    /// Changes when all watches are to end.
    pub(super) fn ending(&self) -> watch::Receiver<Ending> {
        self.ended.subscribe()
    }

    /// What is to become of a read.
    pub(super) async fn before_read(&self) -> Verdict {
        self.unless_held().await
    }

    /// What is to become of a write. If it passes, `after_write` must follow.
    pub(super) async fn before_write(&self) -> Verdict {
        let held = self.unless_held().await;
        if held != Verdict::Pass {
            return held;
        }
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if strikes(&self.conflict_every, number) {
            return Verdict::Refuse(StatusCode::CONFLICT, "Conflict");
        }
        self.hold.send_modify(|hold| {
            hold.after = hold.after.map(|left| left.saturating_sub(1));
            hold.under_way += 1;
        });
        Verdict::Pass
    }

    /// What is to become of the answer to a write.
    pub(super) async fn after_write(&self) -> Verdict {
        let number = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        self.hold.send_modify(|hold| hold.under_way -= 1);
        let held = self.unless_held().await;
        if held != Verdict::Pass || strikes(&self.lose_every, number) {
            return Verdict::LoseAnswer;
        }
        Verdict::Pass
    }

    /// Passes at once if nothing is held back; otherwise waits until what is
    /// held back is thrown away.
    async fn unless_held(&self) -> Verdict {
        let mut hold = self.hold.subscribe();
        let now = *hold.borrow_and_update();
        if now.after != Some(0) {
            return Verdict::Pass;
        }
        // The sender is in `self`, so it cannot be gone.
        let _ = hold.wait_for(|hold| hold.round != now.round).await;
        Verdict::Refuse(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
    }
}

fn strikes(every: &AtomicU64, number: u64) -> bool {
    match every.load(Ordering::Relaxed) {
        0 => false,
        every => number.is_multiple_of(every),
    }
}

//! How often the status of a Service is written again because another client has altered it.
//!
//! Two controllers that both write a status would do so for ever, as fast as the API server
//! answers. So after three rewrites, each within a minute of the one before, the next
//! ones wait: each twice as long as the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The rewrites, each within a minute of the one before, after which another client seems to
/// fight for the status.
pub(super) const FOUGHT_AFTER: u32 = 3;

/// How long a status must stay as it was written, beyond the pause, to count as accepted.
const ACCEPTED_AFTER: Duration = Duration::from_secs(60);

/// The pause after the rewrite by which a fight is noticed.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The last writes of each status, by the uid of the Service.
#[derive(Debug, Default)]
pub(super) struct Rewrites(Mutex<BTreeMap<Arc<str>, Written>>);

/// The last write of a status.
#[derive(Debug, Clone)]
struct Written {
    status: String,
    at: Instant,
    /// How often it was written after it had been altered
    again: u32,
}

/// A write that is about to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// How many rewrites it makes; 0: it is the first write
    pub(super) number: u32,
    /// How long it has to wait
    pub(super) wait: Duration,
}

impl Written {
    /// The pause before the next rewrite.
    fn pause(&self) -> Duration {
        match self.again.checked_sub(FOUGHT_AFTER) {
            None => Duration::ZERO,
            Some(more) => PAUSE_MIN.saturating_mul(1 << more.min(16)).min(PAUSE_MAX),
        }
    }

    /// Whether it may still be altered by a client that did so before.
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < ACCEPTED_AFTER + self.pause()
    }
}

impl Rewrites {
    /// The next write of this status.
    pub(super) fn next(&self, uid: &str, status: &str, now: Instant) -> Next {
        let mut all = self.0.lock();
        all.retain(|_, written| written.is_recent(now));
        match all.get(uid).filter(|written| written.status == status) {
            None => Next { number: 0, wait: Duration::ZERO },
            Some(written) => {
                let wait = (written.at + written.pause()).saturating_duration_since(now);
                Next { number: written.again + 1, wait }
            }
        }
    }

    /// Records that this status was written.
    pub(super) fn record(&self, uid: &Arc<str>, status: &str, now: Instant) {
        let again = self.next(uid, status, now).number;
        let mut all = self.0.lock();
        all.insert(uid.clone(), Written { status: status.to_owned(), at: now, again });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "203.0.113.10";

    /// Writes the status as soon as it may be written. Returns the wait, and the rewrites.
    fn write(rewrites: &Rewrites, now: &mut Instant) -> (u64, u32) {
        let uid = Arc::from("uid");
        let next = rewrites.next(&uid, STATUS, *now);
        *now += next.wait;
        rewrites.record(&uid, STATUS, *now);
        (next.wait.as_secs(), next.number)
    }

    #[test]
    fn a_status_that_is_fought_over_is_written_again_in_growing_pauses() {
        let (rewrites, mut now) = (Rewrites::default(), Instant::now());
        let writes: Vec<_> = (0..11).map(|_| write(&rewrites, &mut now)).collect();
        let (waits, again): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(again, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn a_status_that_is_accepted_may_be_written_again_at_once() {
        let (rewrites, mut now) = (Rewrites::default(), Instant::now());
        let fight: Vec<_> = (0..5).map(|_| write(&rewrites, &mut now)).collect();
        assert_eq!(fight.last(), Some(&(1, 4)));
        now += Duration::from_secs(120);
        assert_eq!([0, 1].map(|_| write(&rewrites, &mut now)), [(0, 0), (0, 1)]);
    }

    #[test]
    fn the_status_of_another_service_and_another_address_are_no_rewrites() {
        let (rewrites, now) = (Rewrites::default(), Instant::now());
        for (uid, status) in [("a", STATUS), ("b", STATUS), ("a", "203.0.113.11")] {
            assert_eq!(rewrites.next(uid, status, now), Next { number: 0, wait: Duration::ZERO });
            rewrites.record(&uid.into(), status, now);
        }
    }
}

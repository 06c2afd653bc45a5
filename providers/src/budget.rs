//! The rate limits of calls, and the order of the calls that wait.
//!
//! A cloud counts the calls of an account. All load balancers of an account share one budget,
//! which keeps to the limits instead of being throttled: calls that open a port precede garbage
//! collection, and of equally urgent calls each load balancer has its turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::model::LbName;

/// The first pause after a cloud throttled a call all the same, since other clients use the
/// account. It doubles with each further time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A token bucket: each call takes one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Its capacity, in tokens
    pub size: f64,
    /// Its refill rate, in tokens per second
    pub per_second: f64,
}

impl Rate {
    /// A fraction of this rate, with a capacity of at least one token.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        Self { size: (self.size * share).max(1.0), per_second: self.per_second * share }
    }
}

/// The urgency of a call, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// The calls after the first one of a port, which works only once all are made.
    Finish,
    /// Opens a port.
    Open,
    /// Changes backends.
    Alter,
    /// Closes a port.
    Close,
    /// Changes settings, and collects orphaned objects.
    #[cfg_attr(not(feature = "aws"), allow(dead_code, reason = "the provider `aws` alone uses it"))]
    GarbageCollect,
}

/// The load balancer and the urgency of calls.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) of: LbName,
    pub(crate) urgency: Urgency,
    /// Until when the first call must have its token; `None`: without limit
    pub(crate) begin_by: Option<Instant>,
    /// Its place among work that is done one after the other instead of in rounds: a partial
    /// observation is of no use
    pub(crate) place: Option<u64>,
}

impl Turn {
    /// Records that its first call is made: it has no time limit any more, and precedes others,
    /// since what was begun works only once all calls are made.
    pub(crate) fn begun(&mut self) {
        if self.begin_by.take().is_some() {
            self.urgency = self.urgency.min(Urgency::Finish);
        }
    }
}

/// There was no token in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Late {
    /// How long no call gets a token, if one was throttled
    pub(crate) paused: Option<Duration>,
}

/// One bucket, and the calls that wait for a token of it.
pub(crate) struct Bucket {
    rate: Rate,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    tokens: f64,
    /// When `tokens` were counted
    counted: Instant,
    /// No call gets a token before this time
    closed_until: Option<Instant>,
    /// How often in a row a call was throttled
    throttled: u32,
    waiting: BTreeSet<Ticket>,
    lanes: BTreeMap<Urgency, Lane>,
    tickets: u64,
}

/// A place in the queue. The smallest is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    urgency: Urgency,
    round: u64,
    number: u64,
}

/// Start-time fair queueing among equally urgent calls: in each round, every load balancer
/// that waits gets one token.
#[derive(Default)]
struct Lane {
    now: u64,
    last: BTreeMap<LbName, u64>,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        let state = State {
            tokens: rate.size,
            counted: Instant::now(),
            closed_until: None,
            throttled: 0,
            waiting: BTreeSet::new(),
            lanes: BTreeMap::new(),
            tickets: 0,
        };
        Self { rate, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits for a token.
    ///
    /// # Errors
    /// [`Late`] if there is none before the turn has to begin.
    pub(crate) async fn take(&self, turn: &Turn) -> Result<(), Late> {
        let Some(begin_by) = turn.begin_by else {
            self.wait(turn).await;
            return Ok(());
        };
        timeout_at(begin_by, self.wait(turn)).await.map_err(|_| Late { paused: self.paused() })
    }

    async fn wait(&self, turn: &Turn) {
        let place = Place { bucket: self, ticket: self.state().enter(turn) };
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no notification is missed.
            changed.as_mut().enable();
            let next = self.state().serve(self.rate, place.ticket);
            match next {
                Next::Served => return,
                Next::At(instant) => tokio::select! {
                    () = sleep_until(instant) => {}
                    () = changed => {}
                },
                Next::Behind => changed.await,
            }
        }
    }

    /// Records that a call was throttled: no call gets a token for a while, and for `at_least`
    /// as long as the answer asks. Returns how long.
    pub(crate) fn throttled(&self, at_least: Duration) -> Duration {
        let mut state = self.state();
        let now = Instant::now();
        // Of several concurrent calls, one counts.
        if state.closed_until.is_none_or(|until| until <= now) {
            let pause = PAUSE_MIN.saturating_mul(1 << state.throttled.min(16)).min(PAUSE_MAX);
            state.throttled += 1;
            state.tokens = 0.0;
            state.counted = now;
            state.closed_until = Some(now + jittered(pause).max(at_least));
        }
        state.closed_until.map(|until| until - now).unwrap_or_default()
    }

    /// Records that a call was accepted.
    pub(crate) fn fine(&self) {
        self.state().throttled = 0;
    }

    fn paused(&self) -> Option<Duration> {
        self.state()
            .closed_until
            .and_then(|until| until.checked_duration_since(Instant::now()))
            .filter(|d| !d.is_zero())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Leaves the queue, whether or not it was served.
struct Place<'a> {
    bucket: &'a Bucket,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.bucket.state().waiting.remove(&self.ticket);
        self.bucket.changed.notify_waiters();
    }
}

enum Next {
    Served,
    At(Instant),
    Behind,
}

impl State {
    fn enter(&mut self, turn: &Turn) -> Ticket {
        let lane = self.lanes.entry(turn.urgency).or_default();
        let round = turn.place.unwrap_or_else(|| {
            let round = lane.last.get(&turn.of).map_or(lane.now, |last| lane.now.max(last + 1));
            lane.last.insert(turn.of.clone(), round);
            round
        });
        self.tickets += 1;
        let ticket = Ticket { urgency: turn.urgency, round, number: self.tickets };
        self.waiting.insert(ticket);
        ticket
    }

    fn serve(&mut self, rate: Rate, ticket: Ticket) -> Next {
        if self.waiting.first() != Some(&ticket) {
            return Next::Behind;
        }
        let now = Instant::now();
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Next::At(until);
        }
        let from = self.closed_until.take().map_or(self.counted, |until| until.max(self.counted));
        self.tokens = (self.tokens + (now - from).as_secs_f64() * rate.per_second).min(rate.size);
        self.counted = now;
        if self.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.tokens) / rate.per_second);
            // The wait is never zero, whatever the rounding.
            return Next::At(now + wait + Duration::from_millis(1));
        }
        self.tokens -= 1.0;
        let lane = self.lanes.entry(ticket.urgency).or_default();
        lane.now = lane.now.max(ticket.round);
        lane.last.retain(|_, last| *last >= lane.now);
        Next::Served
    }
}

/// Three quarters of it, and a random part of the last quarter, so that several controllers
/// of one account do not continue at the same time.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const RATE: Rate = Rate { size: 3.0, per_second: 2.0 };

    fn turn(index: u32, urgency: Urgency) -> Turn {
        Turn { of: LbName::new("default", index, "cluster", "uid"), urgency, begin_by: None, place: None }
    }

    /// The order in which these turns get tokens, if they begin to wait in the given one.
    async fn order(turns: &[(u32, Urgency)]) -> Vec<(u32, Urgency)> {
        let (bucket, order) = (Arc::new(Bucket::new(RATE)), Arc::new(Mutex::new(Vec::new())));
        for _ in 0..3 {
            bucket.take(&turn(9, Urgency::Open)).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for &(index, urgency) in turns {
            let (bucket, order) = (bucket.clone(), order.clone());
            tasks.spawn(async move {
                bucket.take(&turn(index, urgency)).await.unwrap();
                order.lock().push((index, urgency));
            });
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        order.lock().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_bucket_is_spent_at_once_and_then_tokens_come_at_the_rate() {
        let (bucket, start) = (Bucket::new(RATE), Instant::now());
        for _ in 0..3 {
            bucket.take(&turn(0, Urgency::Open)).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            bucket.take(&turn(0, Urgency::Open)).await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((10.0..10.2).contains(&seconds), "20 tokens at 2 a second took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_opens_a_port_precedes_garbage_collection() {
        let (open, collect, finish) = ((0, Urgency::Open), (0, Urgency::GarbageCollect), (0, Urgency::Finish));
        assert_eq!(order(&[collect, collect, open, finish, open]).await, [finish, open, open, collect, collect]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_balancer_with_much_to_do_does_not_keep_the_others_waiting() {
        let of = |index| (index, Urgency::Open);
        let order = order(&[of(0), of(0), of(0), of(0), of(1), of(2), of(1)]).await;
        assert_eq!(order, [0, 1, 2, 0, 1, 0, 0].map(of));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_observation_is_complete_before_the_second_goes_on() {
        let bucket = Arc::new(Bucket::new(RATE));
        let mut observations = tokio::task::JoinSet::new();
        for index in 0..3 {
            let bucket = bucket.clone();
            observations.spawn(async move {
                let turn = Turn { place: Some(index.into()), ..turn(index, Urgency::Alter) };
                for _ in 0..20 {
                    futures::join!(bucket.take(&turn), bucket.take(&turn)).0.unwrap();
                }
                (index, Instant::now())
            });
        }
        let mut over = observations.join_all().await;
        over.sort();
        let gaps: Vec<f64> = over.windows(2).map(|two| (two[1].1 - two[0].1).as_secs_f64()).collect();
        assert!(gaps.iter().all(|gap| (18.0..22.0).contains(gap)), "40 tokens at 2 a second: {gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_begin_in_time_is_late_and_takes_no_token() {
        let bucket = Bucket::new(RATE);
        for _ in 0..3 {
            bucket.take(&turn(0, Urgency::Open)).await.unwrap();
        }
        let start = Instant::now();
        let hasty = Turn { begin_by: Some(start + Duration::from_millis(100)), ..turn(1, Urgency::Open) };
        assert_eq!(bucket.take(&hasty).await, Err(Late { paused: None }));
        bucket.take(&turn(0, Urgency::GarbageCollect)).await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_gets_a_token_while_calls_are_throttled_and_the_pause_grows() {
        let bucket = Bucket::new(RATE);
        let mut before = Duration::ZERO;
        for _ in 0..5 {
            let (pause, start) = (bucket.throttled(Duration::ZERO), Instant::now());
            assert!(pause > before, "{pause:?} after {before:?}");
            assert_eq!(bucket.throttled(Duration::ZERO), pause, "concurrent calls count once");
            let hasty = Turn { begin_by: Some(start + Duration::from_millis(1)), ..turn(1, Urgency::Open) };
            let late = bucket.take(&hasty).await.unwrap_err();
            assert!(late.paused.is_some_and(|left| left < pause));
            bucket.take(&turn(0, Urgency::Finish)).await.unwrap();
            assert!(start.elapsed() >= pause);
            before = pause;
        }
        bucket.fine();
        assert!(bucket.throttled(Duration::ZERO) < before);
    }
}

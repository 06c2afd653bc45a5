//! The stand-in for AWS reports every state of a region.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::aws::{AwsRegion, CONTROLLER};

/// Every call that is carried out in a region, whosoever it is, and what there is
/// after it.
#[derive(Debug)]
pub struct AwsFeed {
    region: AwsRegion,
    seen: u64,
}

/// What was carried out since it was last asked for.
#[derive(Clone, Debug)]
pub struct AwsNews {
    /// Up to this time there was no other call
    pub until: Instant,
    /// The calls in their order: there is never more than one at a time
    pub calls: Vec<AwsDone>,
}

/// A call that was carried out.
#[derive(Clone, Debug)]
pub struct AwsDone {
    /// When that began: until then, all was as after the call before
    pub began: Instant,
    /// When all was as after this one
    pub ended: Instant,
    /// Whether it is of the program under test, and not foreign
    pub of_controller: bool,
    /// Its name in the API: `CreateListener`
    pub action: String,
    /// Its parameters by their names on the wire: `Targets.member.1.Id`
    pub parameters: BTreeMap<String, String>,
    /// What there was after it; None: what there was before
    pub state: Option<AwsState>,
}

/// All that there is in a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AwsState {
    /// The load balancers
    pub balancers: Vec<AwsBalancer>,
    /// The target groups
    pub groups: Vec<AwsGroup>,
}

/// A load balancer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AwsBalancer {
    /// Its ARN
    pub arn: String,
    /// Its name
    pub name: String,
    /// Its DNS name
    pub address: String,
    /// Its tags
    pub tags: BTreeMap<String, String>,
    /// What is open on it
    pub listeners: Vec<AwsListener>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AwsListener {
    /// Its ARN
    pub arn: String,
    /// Its port
    pub port: u16,
    /// `TCP`, `UDP` or `TCP_UDP`
    pub protocol: String,
    /// Its tags
    pub tags: BTreeMap<String, String>,
    /// The ARNs of the target groups that it forwards to
    pub groups: Vec<String>,
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AwsGroup {
    /// Its ARN
    pub arn: String,
    /// Its name
    pub name: String,
    /// `TCP`, `UDP` or `TCP_UDP`
    pub protocol: String,
    /// Its tags
    pub tags: BTreeMap<String, String>,
    /// `<id>:<port>` of those that are registered, and do not drain
    pub targets: Vec<String>,
}

impl AwsRegion {
    /// Follows what happens from now on, in a region without a follower.
    pub async fn follow(&self) -> anyhow::Result<AwsFeed> {
        self.ask::<Value>("follow", json!({})).await?;
        Ok(AwsFeed { region: self.clone(), seen: 0 })
    }
}

impl AwsFeed {
    /// What was carried out since it was last asked for, for which it waits so
    /// long. After an error, the next call reports what is missing.
    pub async fn next(&mut self, limit: Duration) -> anyhow::Result<AwsNews> {
        let request = json!({"after": self.seen, "seconds": limit.as_secs_f64()});
        let News { until, calls } = self.region.ask("calls", request).await?;
        self.seen = calls.last().map_or(self.seen, |call| call.number);
        let start = start_of_clock();
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        let done = |call: Call| AwsDone {
            began: at(call.began),
            ended: at(call.ended),
            of_controller: call.who == CONTROLLER,
            action: call.action,
            parameters: call.parameters,
            state: call.state,
        };
        Ok(AwsNews { until: at(until), calls: calls.into_iter().map(done).collect() })
    }
}

/// The time that the stand-in counts seconds from. That of an `Instant` is the
/// same, but no `Instant` tells its number.
fn start_of_clock() -> Instant {
    let read = || {
        let before = Instant::now();
        let clock = clock_gettime(ClockId::Monotonic);
        let seconds = Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec.try_into().unwrap_or(0));
        (before.elapsed(), before - seconds)
    };
    // That of some readings which was interrupted the least.
    let best = (0..5).map(|_| read()).min();
    best.unwrap_or_else(read).1
}

#[derive(Deserialize)]
struct News {
    until: f64,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    number: u64,
    began: f64,
    ended: f64,
    who: String,
    action: String,
    parameters: BTreeMap<String, String>,
    state: Option<AwsState>,
}

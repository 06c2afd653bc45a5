//! Leader election by client-go's rules, without a clock and without I/O.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::Moment;

/// The most jitter of the retry period, as a fraction of it, so that candidates do not all
/// send their requests at the same time.
pub(super) const JITTER: f64 = 0.2;

/// How long a lease holds, and how often it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// How long other candidates wait after the last change that they saw: whole seconds
    pub lease: Duration,
    /// How long a leader acts after the last renewal that it began and that
    /// succeeded
    pub renew_deadline: Duration,
    /// The time between two attempts
    pub retry_period: Duration,
}

/// Why durations cannot be used as terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTerms {
    /// It is written into the Lease in seconds.
    #[error("the lease duration must be whole seconds, at least 1 and at most {}", i32::MAX)]
    Lease,
    /// Requests that are in flight when the leader stops need time to end.
    #[error("the lease duration must be at least a second longer than the renew deadline")]
    RenewDeadline,
    /// A leader needs more than one attempt.
    #[error("the renew deadline must be more than 1.2 times the retry period, which must be more than 0")]
    RetryPeriod,
}

impl Default for LeaseTerms {
    /// The defaults of Kubernetes' own controllers.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl LeaseTerms {
    /// Checks that there are never two leaders with these terms: client-go's conditions, and
    /// a second for the last requests.
    ///
    /// # Errors
    /// When a condition is violated.
    pub fn validate(&self) -> Result<(), InvalidTerms> {
        if self.lease.subsec_nanos() != 0 || self.lease.is_zero() || self.lease.as_secs() > i32::MAX as u64 {
            return Err(InvalidTerms::Lease);
        }
        if self.lease < self.renew_deadline.saturating_add(Duration::from_secs(1)) {
            return Err(InvalidTerms::RenewDeadline);
        }
        if self.retry_period.is_zero() || self.renew_deadline <= self.retry_period.mul_f64(1.0 + JITTER) {
            return Err(InvalidTerms::RetryPeriod);
        }
        Ok(())
    }

    /// How long sent bytes may stay unacknowledged on this machine, so that the kernel drops
    /// them before another process may be the leader.
    pub(crate) fn unacknowledged(&self) -> Duration {
        self.lease.saturating_sub(self.renew_deadline).mul_f64(0.8)
    }
}

/// The next step of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LeaseStep {
    /// There is no Lease: create one with this.
    Create(LeaseSpec),
    /// The Lease is ours, or free: replace it by this.
    Write(LeaseSpec),
    /// The Lease is held by another process, until this moment if it does not change.
    Wait(Moment, String),
}

/// The state of the lease as a candidate sees it.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    terms: LeaseTerms,
    /// The record as last seen, if there is one
    record: Option<LeaseSpec>,
    /// Until when another process holds it, by the record as last seen
    held_until: Option<Moment>,
}

impl Election {
    pub(super) fn new(identity: String, terms: LeaseTerms) -> Self {
        Self { identity, terms, record: None, held_until: None }
    }

    /// Takes in the current record.
    pub(super) fn saw(&mut self, record: Option<LeaseSpec>, now: Moment) {
        // The holder of a Lease that was deleted may not know it yet, and still acts.
        let changed = record.is_some() && record != self.record;
        self.record = record;
        if changed {
            self.held_until = self.others_duration().map(|duration| now.after(duration));
        }
    }

    /// How long the record gives the lease to another process; `None`: it does not.
    fn others_duration(&self) -> Option<Duration> {
        let record = self.record.as_ref()?;
        record.holder_identity.as_ref().filter(|holder| !holder.is_empty() && **holder != self.identity)?;
        let seconds = record.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Some(seconds.map_or(self.terms.lease, Duration::from_secs))
    }

    /// The holder in the record.
    fn holder(&self) -> &str {
        self.record.as_ref().and_then(|record| record.holder_identity.as_deref()).unwrap_or_default()
    }

    /// The next step.
    pub(super) fn next(&self, now: Moment, time: Timestamp) -> LeaseStep {
        if let Some(until) = self.held_until.filter(|until| *until > now) {
            return LeaseStep::Wait(until, self.holder().to_owned());
        }
        let ours = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.terms.lease.as_secs()).ok(),
            acquire_time: Some(MicroTime(time)),
            renew_time: Some(MicroTime(time)),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some(record) = &self.record else { return LeaseStep::Create(ours) };
        let transitions = record.lease_transitions.unwrap_or_default();
        LeaseStep::Write(if self.holder() == self.identity {
            let acquire_time = record.acquire_time.clone().or(ours.acquire_time.clone());
            LeaseSpec { acquire_time, lease_transitions: Some(transitions), ..ours }
        } else {
            LeaseSpec { lease_transitions: Some(transitions.saturating_add(1)), ..ours }
        })
    }

    /// The record that releases the lease, if it is ours: without a holder, and with a
    /// duration of one second for clients that go by the duration alone.
    pub(super) fn released(&self, time: Timestamp) -> Option<LeaseSpec> {
        (self.holder() == self.identity).then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(MicroTime(time)),
            renew_time: Some(MicroTime(time)),
            lease_transitions: self.record.as_ref().and_then(|record| record.lease_transitions),
            ..LeaseSpec::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(1_000 + seconds))
    }

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn election(identity: &str) -> Election {
        Election::new(identity.to_owned(), LeaseTerms::default())
    }

    /// What `holder` writes when it takes the lease for the first time, and when
    /// it has renewed it at this time.
    fn record(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            acquire_time: Some(MicroTime(time(0))),
            renew_time: Some(MicroTime(time(renewed))),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn waits_until(election: &Election, now: Moment) -> Option<Moment> {
        match election.next(now, time(0)) {
            LeaseStep::Wait(until, _) => Some(until),
            _ => None,
        }
    }

    #[test]
    fn a_lease_that_is_not_there_is_created() {
        let mut one = election("one");
        one.saw(None, at(0));
        let LeaseStep::Create(spec) = one.next(at(0), time(5)) else { panic!("it does not create it") };
        assert_eq!(spec.holder_identity.as_deref(), Some("one"));
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(15), Some(0)));
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(time(5))), Some(MicroTime(time(5)))));
    }

    #[test]
    fn a_foreign_lease_expires_by_the_time_of_its_last_observed_change() {
        let mut one = election("one");
        // What it says of its times is an hour old, and counts for nothing.
        one.saw(Some(record("other", -3600)), at(0));
        assert_eq!(waits_until(&one, at(0)), Some(at(15)));
        one.saw(Some(record("other", -3600)), at(10));
        assert_eq!(waits_until(&one, at(10)), Some(at(15)), "nothing changed");
        one.saw(Some(record("other", -3598)), at(12));
        assert_eq!(waits_until(&one, at(14)), Some(at(27)), "it was renewed");
        assert_eq!(waits_until(&one, at(27)), None);
    }

    #[test]
    fn a_lease_that_ran_out_is_taken_with_one_more_transition() {
        let mut one = election("one");
        one.saw(Some(record("other", 0)), at(0));
        let LeaseStep::Write(spec) = one.next(at(15), time(20)) else { panic!("it does not take it") };
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("one"), Some(4)));
        assert_eq!(spec.acquire_time, Some(MicroTime(time(20))));
    }

    #[test]
    fn our_own_is_renewed_and_stays_acquired_when_it_was() {
        let mut one = election("one");
        one.saw(Some(record("one", 2)), at(0));
        let LeaseStep::Write(spec) = one.next(at(0), time(4)) else { panic!("it does not renew it") };
        assert_eq!(spec, record("one", 4));
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (mut one, mut other) = (election("one"), election("other"));
        other.saw(Some(record("other", 2)), at(0));
        one.saw(Some(record("other", 2)), at(0));
        assert_eq!(one.released(time(3)), None, "it is not its own to give");
        one.saw(other.released(time(3)), at(3));
        let LeaseStep::Write(spec) = one.next(at(3), time(3)) else { panic!("it does not take it") };
        assert_eq!(spec.lease_transitions, Some(4));
    }

    #[test]
    fn a_lease_that_was_deleted_does_not_end_its_holder() {
        let mut one = election("one");
        one.saw(Some(record("other", 0)), at(0));
        one.saw(None, at(1));
        assert_eq!(waits_until(&one, at(14)), Some(at(15)), "the other does not know yet");
        assert!(matches!(one.next(at(15), time(0)), LeaseStep::Create(_)));
    }

    #[test]
    fn the_holders_own_duration_counts() {
        let mut one = election("one");
        one.saw(Some(LeaseSpec { lease_duration_seconds: Some(40), ..record("other", 0) }), at(0));
        assert_eq!(waits_until(&one, at(20)), Some(at(40)));
        one.saw(Some(LeaseSpec { lease_duration_seconds: None, ..record("other", 1) }), at(20));
        assert_eq!(waits_until(&one, at(20)), Some(at(35)), "ours, if it has none");
    }

    #[test]
    fn a_leader_stops_before_anybody_may_start() {
        let terms = LeaseTerms::default();
        // The others see a renewal after it was begun, and wait for the whole lease.
        let (begun, seen) = (at(0), at(0));
        let mut other = election("other");
        other.saw(Some(record("one", 0)), seen);
        let stopped = begun.after(terms.renew_deadline).after(terms.unacknowledged());
        assert!(waits_until(&other, stopped).is_some());
    }

    #[test]
    fn terms_under_which_two_could_lead_are_refused() {
        let terms = |lease, renew_deadline, retry_period| {
            let [lease, renew_deadline, retry_period] =
                [lease, renew_deadline, retry_period].map(Duration::from_millis);
            LeaseTerms { lease, renew_deadline, retry_period }.validate()
        };
        assert_eq!(LeaseTerms::default().validate(), Ok(()));
        assert_eq!(terms(3_000, 2_000, 500), Ok(()));
        assert_eq!(terms(0, 0, 0), Err(InvalidTerms::Lease));
        assert_eq!(terms(15_500, 10_000, 2_000), Err(InvalidTerms::Lease));
        assert_eq!(terms(10_000, 10_000, 2_000), Err(InvalidTerms::RenewDeadline));
        assert_eq!(terms(10_000, 9_500, 2_000), Err(InvalidTerms::RenewDeadline));
        assert_eq!(terms(15_000, 10_000, 0), Err(InvalidTerms::RetryPeriod));
        assert_eq!(terms(15_000, 2_400, 2_000), Err(InvalidTerms::RetryPeriod));
    }
}

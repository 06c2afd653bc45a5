//! The endpoints to choose from, and the choice.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Endpoint, Policy};

/// A request that is in flight: where it goes, until this is dropped.
///
/// Keep it for as long as the request takes, since endpoints are chosen by how many requests they
/// have: also while a body is streamed, or for the life of a connection.
#[derive(Debug)]
#[must_use = "a request counts as ended when this is dropped"]
pub struct InFlight(Arc<Endpoint>);

impl Deref for InFlight {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.0
    }
}

/// The endpoints that take traffic at one time. There is always at least one.
///
/// The requests that an endpoint has in flight are the references to it, but for that of the pool:
/// with a counter beside, two threads would pass two cache lines to and fro instead of one. (For
/// the moment in which two pools have an endpoint, it seems to have one request more.)
#[derive(Debug)]
pub(crate) struct Pool(Vec<Arc<Endpoint>>);

impl Pool {
    /// The pool that follows `before`, whose requests go on being counted. None: there are no
    /// endpoints.
    pub(crate) fn new(endpoints: BTreeSet<Endpoint>, before: Option<&Self>) -> Option<Self> {
        let known: BTreeSet<Arc<Endpoint>> = before.into_iter().flat_map(|pool| &pool.0).cloned().collect();
        let counted = endpoints.into_iter().map(|endpoint| match known.get(&endpoint) {
            Some(counted) => counted.clone(),
            None => Arc::new(endpoint),
        });
        let counted: Vec<_> = counted.collect();
        (!counted.is_empty()).then_some(Self(counted))
    }

    /// The endpoints, in order.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter().map(Arc::as_ref)
    }

    /// Begins a request to the endpoint whose turn it is.
    pub(crate) fn next(&self, choice: &Choice) -> InFlight {
        let endpoint = match choice {
            Choice::PowerOfTwo => self.less_busy_of_two(),
            Choice::RoundRobin(turn) => &self.0[turn.fetch_add(1, Ordering::Relaxed) % self.0.len()],
        };
        InFlight(endpoint.clone())
    }

    /// Of two endpoints drawn at random, the one with fewer requests in flight.
    fn less_busy_of_two(&self) -> &Arc<Endpoint> {
        let first = fastrand::usize(..self.0.len());
        if self.0.len() == 1 {
            return &self.0[first];
        }
        // Another one: as far from the first as chance has it.
        let second = (first + fastrand::usize(1..self.0.len())) % self.0.len();
        let [first, second] = [&self.0[first], &self.0[second]];
        if Arc::strong_count(second) < Arc::strong_count(first) { second } else { first }
    }
}

/// How endpoints are chosen, with what has to be remembered for it.
#[derive(Debug)]
pub(crate) enum Choice {
    PowerOfTwo,
    RoundRobin(AtomicUsize),
}

impl Choice {
    pub(crate) fn new(policy: Policy) -> Self {
        match policy {
            Policy::PowerOfTwoChoices => Self::PowerOfTwo,
            Policy::RoundRobin => Self::RoundRobin(AtomicUsize::new(fastrand::usize(..))),
        }
    }
}

#[cfg(test)]
mod tests;

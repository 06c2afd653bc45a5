//! The changes of the endpoints, one by one.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;

use crate::Endpoint;
use crate::load_balancer::Snapshot;

/// A change of the endpoints that take traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This endpoint takes traffic now.
    Added(Endpoint),
    /// This endpoint takes no new requests any more. Those in flight may go on for as long as the
    /// server lets them.
    Removed(Endpoint),
}

/// The changes of the endpoints: [`LoadBalancer::changes`](crate::LoadBalancer::changes).
#[must_use = "streams do nothing unless polled"]
pub struct Changes(BoxStream<'static, Change>);

impl Changes {
    /// The changes from no endpoints at all through what is published, until `stop` is done.
    pub(crate) fn new(
        mut published: watch::Receiver<Arc<Snapshot>>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        published.mark_changed();
        let changes = stream::unfold((published, BTreeSet::new()), async |(mut published, known)| {
            published.changed().await.ok()?;
            let endpoints = endpoints(&published.borrow_and_update());
            Some((stream::iter(between(&known, &endpoints)), (published, endpoints)))
        });
        Self(changes.flatten().take_until(stop).boxed())
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        self.0.poll_next_unpin(context)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Changes").finish_non_exhaustive()
    }
}

/// The endpoints of a snapshot.
pub(crate) fn endpoints(snapshot: &Snapshot) -> BTreeSet<Endpoint> {
    snapshot.iter().flat_map(|pool| pool.endpoints()).cloned().collect()
}

/// The changes by which one set becomes another: removals first, since another pod may have the
/// address of an earlier one.
fn between(before: &BTreeSet<Endpoint>, after: &BTreeSet<Endpoint>) -> Vec<Change> {
    let removed = before.difference(after).cloned().map(Change::Removed);
    let added = after.difference(before).cloned().map(Change::Added);
    removed.chain(added).collect()
}

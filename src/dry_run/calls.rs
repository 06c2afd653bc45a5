//! Counts calls in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the calls to the API server and to load balancers that are in flight.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<AtomicUsize>);

impl Calls {
    /// Counts a call until the returned value is dropped.
    pub(super) fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::SeqCst);
        Call(self.clone())
    }

    /// The number of calls in flight.
    pub(super) fn under_way(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

//! Which calls are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the calls of the API server and of load balancers that are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Arc<AtomicUsize>);

impl Calls {
    /// A call begins, and ends when what is returned is dropped.
    pub(super) fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::SeqCst);
        Call(self.clone())
    }

    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

//! Wakes an LB loop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::kubernetes::ObjectKey;

/// Wakes an LB loop.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    notify: Notify,
    observe: AtomicBool,
    changed: Mutex<BTreeSet<ObjectKey>>,
}

impl Signal {
    /// A Service that it depends on has changed, or its endpoints; or the nodes have.
    pub(crate) fn service_changed(&self, service: &ObjectKey) {
        self.changed.lock().insert(service.clone());
        self.notify.notify_one();
    }

    /// Waits until the loop is woken.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Wakes the loop and has the load balancer observed: it has changed.
    pub(crate) fn observe_again(&self) {
        self.observe.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// The Services that have changed since this was asked last. What is read after this
    /// is as new, or newer.
    pub(crate) fn take_changed(&self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut *self.changed.lock())
    }

    /// Whether it is to be observed again, for once.
    pub(crate) fn take_observe(&self) -> bool {
        self.observe.swap(false, Ordering::AcqRel)
    }
}

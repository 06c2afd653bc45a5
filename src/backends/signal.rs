//! What wakes an LB loop.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Wakes an LB loop.
#[derive(Debug, Default)]
pub struct Signal {
    notify: Notify,
    observe: AtomicBool,
}

impl Signal {
    /// Something that it depends on has changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits until it is woken.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// The load balancer itself has changed: it is to be observed again.
    pub fn observe_again(&self) {
        self.observe.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Whether it is to be observed again, for once.
    pub(crate) fn take_observe(&self) -> bool {
        self.observe.swap(false, Ordering::AcqRel)
    }
}

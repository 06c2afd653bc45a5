//! Whether this process is doing its work yet, and what it waits for.

use std::sync::{PoisonError, RwLock};

use tracing::info;

/// Whether this process is ready.
#[derive(Debug)]
pub struct Readiness(RwLock<Option<String>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(RwLock::new(Some("starting".to_owned())))
    }
}

impl Readiness {
    /// What is still missing; `None`: nothing.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These kinds of objects have not been listed yet.
    pub fn waiting_for(&self, kinds: &[&str]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("waiting for the lists of {}", kinds.join(", ")));
    }

    /// Every cache has filled, and every class has been run once.
    pub fn ready(&self) {
        if self.missing().is_some() {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
            info!("ready: every cache has filled, and every class has been run");
        }
    }
}

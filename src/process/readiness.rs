//! Whether this process is ready, and what it waits for.

use std::sync::Arc;

use parking_lot::RwLock;
use tracing::info;

/// Whether this process is ready: each of its parts is.
#[derive(Debug, Default)]
pub(crate) struct Readiness(RwLock<Vec<Option<String>>>);

impl Readiness {
    /// Adds a part, which is starting.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        let mut parts = self.0.write();
        parts.push(Some("starting".to_owned()));
        Part { all: self.clone(), index: parts.len() - 1 }
    }

    /// What the process still waits for; `None`: nothing.
    pub(crate) fn missing(&self) -> Option<String> {
        let parts = self.0.read();
        if parts.is_empty() { Some("starting".to_owned()) } else { parts.iter().flatten().next().cloned() }
    }
}

/// One loop of this process.
#[derive(Debug)]
pub(crate) struct Part {
    all: Arc<Readiness>,
    index: usize,
}

impl Part {
    /// Reports that these kinds of objects have not been listed yet.
    pub(crate) fn waiting_for(&self, kinds: &[&str]) {
        self.waiting(format!("waiting for the lists of {}", kinds.join(", ")));
    }

    /// Reports what this part waits for.
    pub(crate) fn waiting(&self, what: String) {
        self.set(Some(what));
    }

    /// Reports that this part waits for nothing.
    pub(crate) fn clear(&self) {
        self.set(None);
    }

    /// Reports that its caches have filled, and that everything has been reconciled once.
    pub(crate) fn ready(&self) {
        if self.set(None) && self.all.missing().is_none() {
            info!("ready: every cache has filled, and every class has been reconciled");
        }
    }

    /// Returns whether that has changed.
    fn set(&self, missing: Option<String>) -> bool {
        let mut parts = self.all.0.write();
        let changed = parts[self.index] != missing;
        parts[self.index] = missing;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_ready_once_each_of_its_parts_is() {
        let all = Arc::new(Readiness::default());
        assert!(all.missing().is_some(), "nothing has begun");
        let (one, other) = (all.part(), all.part());
        one.ready();
        other.waiting_for(&["configmaps"]);
        assert_eq!(all.missing().as_deref(), Some("waiting for the lists of configmaps"));
        other.ready();
        assert_eq!(all.missing(), None);
    }
}

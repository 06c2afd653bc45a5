//! What was done, counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What became of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    Done,
    /// There was nothing to do it to, or it had been done.
    Void,
    /// The API server was away, or refused it.
    Failed,
}

impl Became {
    /// By the answer of the API server.
    pub(crate) fn of<T>(result: &anyhow::Result<T>) -> Self {
        let error = match result {
            Ok(_) => return Self::Done,
            Err(error) => error,
        };
        match error.downcast_ref() {
            Some(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Self::Void,
            _ => Self::Failed,
        }
    }
}

/// Counts of acts by their names.
#[derive(Default)]
pub(crate) struct Report(Mutex<BTreeMap<String, [u64; 3]>>);

impl Report {
    /// Counts one act. Its name is what its value is called in the code.
    pub(crate) fn count(&self, who: &str, act: impl fmt::Debug, became: Became) {
        let text = format!("{act:?}");
        let name = text.split([' ', '{', '(']).next().unwrap_or_default();
        let mut counts = self.lock();
        let count = counts.entry(format!("{who}: {name}")).or_default();
        count[became as usize] += 1;
    }

    /// How many were done whose names begin like this.
    pub(crate) fn done(&self, prefix: &str) -> u64 {
        self.lock().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count[0]).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, [u64; 3]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, [done, void, failed]) in &*self.lock() {
            writeln!(f, "  {name:<28} {done:>5} done {void:>5} void {failed:>5} failed")?;
        }
        Ok(())
    }
}

//! A load balancer in memory whose answers get lost.

use std::sync::Mutex;

use async_trait::async_trait;
use sharedlb_providers::memory::{self, Memory};
use sharedlb_providers::{Applied, Change, ChangeSet, Decorator, Error, LbName, Observed, Provider};

/// How a load balancer answers from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answers {
    /// As it should
    Fine,
    /// It cannot be observed.
    None,
    /// It carries so many changes out, and then does not answer.
    LostAfter(u8),
    /// It carries everything out, and cannot be observed after that.
    ThenNone,
    /// It carries everything out, and reports the first listener as failed.
    OneDenied,
    /// It carries everything out, but serves nothing yet.
    NotReady,
    /// It carries out the change of one listener at a time.
    OneAtATime,
    /// It closes what is to be closed, and fails then.
    ClosesOnly,
    /// It takes no settings, and goes on with the listeners.
    NoSettings,
    /// It changes the options of no listener that is open.
    NoOptions,
}

/// A load balancer in memory whose answers a test chooses.
pub(super) struct FaultyProvider {
    cloud: memory::Cloud,
    memory: Memory,
    answers: Mutex<Answers>,
}

impl FaultyProvider {
    pub(super) fn new(cloud: memory::Cloud) -> Self {
        Self { memory: Memory::new(cloud.clone()), cloud, answers: Mutex::new(Answers::Fine) }
    }

    /// From now on it answers like this.
    pub(super) fn answer(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn answers(&self) -> Answers {
        *self.answers.lock().unwrap()
    }
}

#[async_trait]
impl Decorator for FaultyProvider {
    fn inner(&self) -> &dyn Provider {
        &self.memory
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        if self.answers() == Answers::None {
            return Err(Error::Transient("no answer".into()));
        }
        let mut observed = self.memory.observe(name).await?;
        match (self.answers(), &mut observed) {
            (Answers::NotReady, Some(observed)) => observed.not_ready = Some("it is being set up".into()),
            (Answers::NoSettings, Some(observed)) => observed.load_balancer.attributes.clear(),
            _ => {}
        }
        Ok(observed)
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        match self.answers() {
            Answers::Fine | Answers::NotReady => self.memory.apply(name, set).await,
            Answers::OneAtATime => {
                let first = set.changes.len().min(1);
                let mut applied = self.memory.apply(name, set.with_changes(&set.changes[..first])).await?;
                applied.postponed = set.changes[first..].iter().flat_map(Change::listeners).collect();
                Ok(applied)
            }
            Answers::ClosesOnly => {
                let (closes, others): (Vec<Change>, Vec<Change>) =
                    set.changes.iter().cloned().partition(|change| matches!(change, Change::Close(_)));
                let applied = self.memory.apply(name, set.with_changes(&closes)).await?;
                if others.is_empty() { Ok(applied) } else { Err(Error::Transient("no answer".into())) }
            }
            Answers::NoOptions => {
                self.cloud.changes_options(false);
                let applied = self.memory.apply(name, set).await;
                self.cloud.changes_options(true);
                applied
            }
            Answers::NoSettings => {
                let mut applied = self.memory.apply(name, set).await?;
                let configures = set.changes.iter().any(|change| change.listeners().is_empty());
                applied.unconfigured = configures.then(|| Error::Refused("no such security group".into()));
                Ok(applied)
            }
            Answers::None => Err(Error::Transient("no answer".into())),
            Answers::ThenNone => {
                self.answer(Answers::None);
                self.memory.apply(name, set).await
            }
            Answers::LostAfter(count) => {
                self.answer(Answers::None);
                self.memory
                    .apply(name, set.with_changes(&set.changes[..set.changes.len().min(usize::from(count))]))
                    .await?;
                Err(Error::Transient("the answer is lost".into()))
            }
            Answers::OneDenied => {
                let mut applied = self.memory.apply(name, set).await?;
                if let Some(key) = set.changes.iter().flat_map(Change::listeners).next() {
                    applied.failed.entry(key).or_insert(Error::Transient("the answer is lost".into()));
                }
                Ok(applied)
            }
        }
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        match self.answers() {
            Answers::Fine
            | Answers::ThenNone
            | Answers::OneDenied
            | Answers::NotReady
            | Answers::OneAtATime
            | Answers::ClosesOnly
            | Answers::NoSettings
            | Answers::NoOptions => self.memory.delete(name).await,
            Answers::None | Answers::LostAfter(0) => Err(Error::Transient("no answer".into())),
            Answers::LostAfter(_) => {
                self.memory.delete(name).await?;
                Err(Error::Transient("the answer is lost".into()))
            }
        }
    }
}

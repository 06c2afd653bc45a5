//! Providers that wrap another provider.

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{Applied, Attributes, Backend, Capabilities, ChangeSet, Error, LbName, Observed, Provider};

/// A provider that wraps another one, and passes on every call that it does not implement. A
/// method that is added to [`Provider`] is passed on here, for all decorators.
#[async_trait]
pub trait Decorator: Send + Sync {
    /// The wrapped provider.
    fn inner(&self) -> &dyn Provider;

    /// As [`Provider::observe`].
    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        self.inner().observe(name).await
    }

    /// As [`Provider::apply`].
    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.inner().apply(name, set).await
    }

    /// As [`Provider::delete`].
    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.inner().delete(name).await
    }
}

#[async_trait]
impl<D: Decorator> Provider for D {
    fn capabilities(&self) -> Capabilities {
        self.inner().capabilities()
    }

    fn attributes(&self, index: u32) -> Attributes {
        self.inner().attributes(index)
    }

    fn object(&self, name: &LbName) -> String {
        self.inner().object(name)
    }

    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        self.inner().as_observed(backend)
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        Decorator::observe(self, name).await
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        Decorator::apply(self, name, set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        Decorator::delete(self, name).await
    }

    fn changes(&self) -> BoxStream<'static, LbName> {
        self.inner().changes()
    }
}

//! A provider whose calls are counted and timed.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use sharedlb_providers::{Applied, ChangeSet, Decorator, Error, LbName, Observed, Provider};

use super::metrics::Metrics;

/// A provider whose calls are counted and timed.
pub(crate) struct CountedProvider {
    /// The provider that carries out the calls
    pub provider: Box<dyn Provider>,
    /// Its kind, as in the API
    pub kind: &'static str,
    /// Counts its calls
    pub metrics: Arc<Metrics>,
}

impl CountedProvider {
    async fn count<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = call.await;
        self.metrics.provider_call(self.kind, operation, began.elapsed(), &result);
        result
    }
}

#[async_trait]
impl Decorator for CountedProvider {
    fn inner(&self) -> &dyn Provider {
        &*self.provider
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        self.count("observe", self.provider.observe(name)).await
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let applied = self.count("apply", self.provider.apply(name, set)).await?;
        let errors = applied.failed.values().chain(&applied.unconfigured);
        errors.for_each(|error| self.metrics.provider_change_error(self.kind, error));
        Ok(applied)
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.count("delete", self.provider.delete(name)).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sharedlb_providers::memory::{Cloud, Memory};
    use sharedlb_providers::{Change, LoadBalancer};

    use super::*;

    /// A provider whose calls succeed, in which one setting is not carried out.
    struct Unconfigured(Memory);

    #[async_trait]
    impl Decorator for Unconfigured {
        fn inner(&self) -> &dyn Provider {
            &self.0
        }

        async fn apply(&self, _: &LbName, _: ChangeSet<'_>) -> Result<Applied, Error> {
            let mut applied = Applied::default();
            applied.unconfigured = Some(Error::Throttled { retry_after: Duration::ZERO, details: "slow down".into() });
            Ok(applied)
        }

        async fn delete(&self, _: &LbName) -> Result<(), Error> {
            Err(Error::Refused("no".into()))
        }
    }

    #[tokio::test]
    async fn calls_are_counted_by_result_and_so_are_changes_that_fail_in_a_call_that_succeeds() {
        let metrics = Arc::new(Metrics::default());
        let provider = Box::new(Unconfigured(Memory::new(Cloud::default())));
        let counted = CountedProvider { provider, kind: "memory", metrics: metrics.clone() };
        let (name, target) = (LbName::new("c", 0, "cluster", "uid"), LoadBalancer::default());
        Provider::observe(&counted, &name).await.unwrap();
        Provider::apply(&counted, &name, ChangeSet::new(&target, &[Change::Configure])).await.unwrap();
        Provider::delete(&counted, &name).await.unwrap_err();
        let page = metrics.encode().unwrap();
        for sample in [
            "sharedlb_provider_calls_total{provider=\"memory\",operation=\"observe\",result=\"ok\"} 1",
            "sharedlb_provider_calls_total{provider=\"memory\",operation=\"apply\",result=\"ok\"} 1",
            "sharedlb_provider_calls_total{provider=\"memory\",operation=\"delete\",result=\"refused\"} 1",
            "sharedlb_provider_change_errors_total{provider=\"memory\",result=\"throttled\"} 1",
            "sharedlb_provider_call_duration_seconds_count{provider=\"memory\",operation=\"delete\"} 1",
        ] {
            assert!(page.lines().any(|line| line == sample), "{sample} is not in {page}");
        }
    }
}

//! A provider behind the fence.

use async_trait::async_trait;
use sharedlb_providers::{Applied, ChangeSet, Decorator, Error, LbName, Provider};

use super::Fence;

/// A provider that changes no load balancer unless the fence is open. A change that
/// does not pass never returns: the process is about to end.
pub(crate) struct FencedProvider {
    /// The provider that carries out the calls
    pub provider: Box<dyn Provider>,
    /// The fence that changes have to pass
    pub fence: Fence,
}

#[async_trait]
impl Decorator for FencedProvider {
    fn inner(&self) -> &dyn Provider {
        &*self.provider
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.fence.pass().await;
        self.provider.apply(name, set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.fence.pass().await;
        self.provider.delete(name).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use sharedlb_providers::LoadBalancer;
    use sharedlb_providers::memory::{Cloud, Memory};

    use super::*;
    use crate::leader::Moment;

    #[test]
    fn a_load_balancer_is_not_changed_by_a_process_that_is_no_longer_the_leader() {
        let (cloud, name) = (Cloud::default(), LbName::new("default", 0, "cluster", "uid"));
        let with = |fence| -> Box<dyn Provider> {
            Box::new(FencedProvider { provider: Box::new(Memory::new(cloud.clone())), fence })
        };
        let former = with(Fence::until(Moment::now()));
        let wanted = LoadBalancer::default();
        assert!(
            former.apply(&name, ChangeSet::new(&wanted, &[])).now_or_never().is_none(),
            "the process is about to end"
        );
        assert!(former.delete(&name).now_or_never().is_none());
        assert_eq!(cloud.calls(), 0);
        with(Fence::open())
            .apply(&name, ChangeSet::new(&wanted, &[]))
            .now_or_never()
            .expect("it is done")
            .expect("it is created");
        assert!(cloud.calls() > 0);
    }
}

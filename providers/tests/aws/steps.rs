//! What the LB loop does, step by step, and the load balancers that tests do it with.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use sharedlb_providers::{
    Applied, Backend, BackendSet, ChangeSet, LbName, Listener, ListenerKey, LoadBalancer, Observed, Owner, Protocol,
    Provider, diff,
};

pub(crate) fn lb(index: u32) -> LbName {
    LbName::new("conformance", index, "cluster", "class-uid")
}

pub(crate) fn tcp(number: u16) -> ListenerKey {
    ListenerKey { port: NonZeroU16::new(number).expect("not zero"), protocol: Protocol::Tcp }
}

/// A listener with backends of these hosts.
pub(crate) fn listener(claim: &str, hosts: impl IntoIterator<Item = u8>) -> Listener {
    let backend = |host| Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, host)),
        port: NonZeroU16::new(6379).expect("not zero"),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    };
    let owner = Owner { namespace: "team-a".into(), claim: claim.into(), port: "".into() };
    Listener::new(owner, hosts.into_iter().map(backend).collect::<BackendSet>())
}

pub(crate) fn wanted(
    provider: &dyn Provider,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) -> LoadBalancer {
    LoadBalancer { attributes: provider.attributes(0), listeners: listeners.into_iter().collect() }
}

pub(crate) async fn observe(provider: &dyn Provider, index: u32) -> Observed {
    provider.observe(&lb(index)).await.expect("it can be observed").expect("it is there")
}

/// Looks, and does what is to be done, until nothing is postponed.
pub(crate) async fn converge(
    provider: &dyn Provider,
    index: u32,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) -> Applied {
    let desired = wanted(provider, listeners);
    loop {
        let observed = provider.observe(&lb(index)).await.expect("it can be observed").unwrap_or_default();
        let changes = observed.changes_to(&desired, &BTreeSet::new());
        let applied =
            provider.apply(&lb(index), ChangeSet::new(&desired, &changes)).await.expect("the changes are carried out");
        if applied.postponed.is_empty() {
            return applied;
        }
    }
}

/// Carries out what leads from what is known to what is wanted, without a look:
/// as the LB loop does while nothing fails.
pub(crate) async fn alter(
    provider: &dyn Provider,
    from: &[(ListenerKey, Listener)],
    to: &[(ListenerKey, Listener)],
) -> Applied {
    let (from, to) = (wanted(provider, from.to_vec()), wanted(provider, to.to_vec()));
    provider.apply(&lb(0), ChangeSet::new(&to, &diff(&from, &to))).await.expect("the changes are carried out")
}

/// What there is, as a process sees it that was just started, is what is wanted.
pub(crate) async fn is_as_wanted(
    provider: &dyn Provider,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) {
    assert_eq!(observe(provider, 0).await.load_balancer, wanted(provider, listeners));
}

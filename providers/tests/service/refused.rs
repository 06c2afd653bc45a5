//! What the API server refuses: quotas, and what an admission policy denies.

use super::*;

pub(crate) async fn an_exhausted_quota_is_reported_and_delays_no_closing(server: &ApiServer, _: &Cluster) {
    let provider = ServiceProvider::new(Settings { allocate_load_balancer_node_ports: true, ..server.settings() });
    converge(&provider, 0, [(tcp(20000), listener("first", 1)), (tcp(20001), listener("second", 1))]).await;
    server.quota("services.nodeports", 2, 2).await;
    let desired = [(tcp(20001), listener("second", 1)), (tcp(20002), listener("third", 1))];
    let applied = converge(&provider, 0, desired.clone()).await;
    let error = &applied.failed[&tcp(20002)];
    assert!(
        matches!(error, Error::Exhausted(why) if format!("{why:#}").contains("exceeded quota") && format!("{why:#}").contains("raise"))
    );
    assert!(!error.to_string().contains("the role in deploy/"), "{error}");
    assert_eq!(open(&provider, 0).await, [tcp(20001)], "the first is closed");

    server.quota("services.nodeports", 2, 1).await;
    assert!(converge(&provider, 0, desired).await.failed.is_empty());
    assert_eq!(open(&provider, 0).await, [tcp(20001), tcp(20002)]);
}

pub(crate) async fn a_load_balancer_beyond_a_quota_is_reported_and_not_created(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 0, []).await;
    server.quota("services.loadbalancers", 1, 1).await;
    let desired = wanted(&*provider, [(tcp(20000), listener("a", 1))]);
    let refused = provider.apply(&lb(1), ChangeSet::new(&desired, &diff(&LoadBalancer::default(), &desired))).await;
    assert!(
        matches!(&refused, Err(Error::Exhausted(why)) if format!("{why:#}").contains("exceeded quota") && format!("{why:#}").contains(lb(1).as_str())),
        "{refused:?}"
    );
}

pub(crate) async fn refused_listeners_among_many_are_found_in_few_writes(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 0, [(tcp(19999), listener("stays", 1))]).await;
    server.admit_only("object.spec.ports.all(p, !(p.port in [20007, 20050]))").await;
    let all: Vec<_> = (19999..20064).map(|port| (tcp(port), listener("a", 0))).collect();
    let mut failed: Vec<ListenerKey> = Vec::new();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let before = server.service(&lb(0)).await.metadata.generation;
        let still = all.iter().filter(|(key, _)| !failed.contains(key)).cloned();
        let applied = converge(&*provider, 0, still).await;
        failed.extend(applied.failed.keys());
        assert!(!applied.failed.is_empty() || before != server.service(&lb(0)).await.metadata.generation);
        if applied.postponed.is_empty() {
            break;
        }
    }
    assert!(rounds <= 2, "{rounds} applies");
    assert_eq!(failed, [tcp(20007), tcp(20050)]);
    let wanted: Vec<_> = all.iter().map(|(key, _)| *key).filter(|key| !failed.contains(key)).collect();
    assert_eq!(open(&*provider, 0).await, wanted);
}

pub(crate) async fn listeners_whose_slices_are_refused_fail_alone(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("goes", 1)), (tcp(20001), listener("stays", 1))]).await;
    // The slice of `stays` takes one of the two; that of `goes` is still there.
    server.quota("count/endpointslices.discovery.k8s.io", 2, 2).await;
    let desired = [(tcp(20001), listener("stays", 1)), (tcp(20002), listener("comes", 1))];
    let applied = converge(&*provider, 0, desired.clone()).await;
    assert!(matches!(&applied.failed[&tcp(20002)], Error::Exhausted(_)), "{:?}", applied.failed);
    assert_eq!(open(&*provider, 0).await, [tcp(20001)]);
    server.quota("count/endpointslices.discovery.k8s.io", 2, 1).await;
    assert!(converge(&*provider, 0, desired).await.failed.is_empty());
}

pub(crate) async fn refused_settings_delay_no_port(server: &ApiServer, _: &Cluster) {
    converge(&*server.provider().await, 0, [(tcp(20000), listener("goes", 1))]).await;
    server
        .admit_only("!has(object.metadata.annotations) || !('example.com/forbidden' in object.metadata.annotations)")
        .await;
    let annotations = BTreeMap::from([("example.com/forbidden".to_owned(), "yes".to_owned())]);
    let provider = ServiceProvider::new(Settings { annotations, ..server.settings() });
    for (port, claim) in [(20001, "comes"), (20002, "comes too")] {
        let applied = converge(&provider, 0, [(tcp(port), listener(claim, 1))]).await;
        assert_eq!(applied.failed, BTreeMap::new());
        assert!(
            matches!(&applied.unconfigured, Some(Error::Refused(why)) if format!("{why:#}").contains("refused on demand"))
        );
        assert_eq!(open(&provider, 0).await, [tcp(port)]);
    }
    server.admit_only("true").await;
    let applied = converge(&provider, 0, [(tcp(20002), listener("comes too", 1))]).await;
    assert_eq!(applied.unconfigured, None);
    assert_eq!(observe(&provider, 0).await.load_balancer.attributes, provider.attributes(0));
}

pub(crate) async fn a_listener_whose_successor_is_refused_stays(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let both = ListenerKey { protocol: Protocol::TcpUdp, ..tcp(20000) };
    let neighbour = (tcp(20001), listener("neighbour", 1));
    let before = converge_to(&*provider, 0, [(tcp(20000), listener("claim", 1)), neighbour.clone()]).await;
    server.refuse(both).await;
    let after = [(both, listener("claim", 1)), neighbour];
    let applied = converge(&*provider, 0, after.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20000), &both]);
    assert_eq!(observe(&*provider, 0).await.load_balancer, before);

    server.accept_all().await;
    converge(&*provider, 0, after.clone()).await;
    assert_eq!(observe(&*provider, 0).await.load_balancer, wanted(&*provider, after));
}

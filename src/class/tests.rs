//! The class loop: what it makes of answers.

use kube::client::Body;
use kube::runtime::watcher::Event;
use sharedlb_providers::memory::Memory;

use super::effect::{ClaimChange, ClaimWrite};
use super::*;
use crate::fixtures::claim;
use crate::load_balancer::ADDRESS_WITHIN;
use crate::process::readiness::Readiness;

/// A class loop whose writes are never answered.
fn class_loop() -> ClassLoop {
    let silent =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, kube::Error>>());
    let client = Client::new(silent, "default");
    let (events, _) = Events::new(client.clone(), |_| {});
    let settings = Settings {
        client,
        cluster_id: "cluster".into(),
        resync: Duration::from_secs(600),
        address_within: Some(ADDRESS_WITHIN),
        make_provider: Box::new(|_, _| Box::new(Memory::default())),
        backends: Arc::default(),
        events,
        reporting_sources: Vec::new(),
        metrics: Arc::default(),
        readiness: Arc::new(Readiness::default()).part(),
        tasks: Arc::default(),
        fence: Fence::open(),
    };
    ClassLoop::new(settings).0
}

#[tokio::test]
async fn a_claim_whose_class_changes_while_a_write_is_in_flight_may_be_written_after_the_answer() {
    let mut class_loop = class_loop();
    // It names no class, so it follows the one that its status names.
    let named = claim("a").unnamed().holds(0, 20001).protected();
    let sent = named.clone().version(1).build();
    class_loop.watched(ClusterEvent::Claim(Event::Apply(ClaimObject::clone(&sent))));
    class_loop.state(&sent).unwrap().writes.begin();

    // The watch is before the answer, and the new status names none.
    let written = claim("a").unnamed().protected().version(2).build();
    class_loop.watched(ClusterEvent::Claim(Event::Apply(ClaimObject::clone(&written))));
    assert_ne!(class_loop.class_of(&sent), class_loop.class_of(&written));
    let status = Box::new(written.status.clone());
    let what = ClaimChange::Status { status, lost: Vec::new() };
    class_loop.claim_answered(ClaimWrite { claim: sent, what, awaited_by: None }, Ok(ClaimObject::clone(&written)));

    assert!(class_loop.state(&written).unwrap().writes.are_free(Instant::now()));
}

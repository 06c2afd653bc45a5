//! Load balancers without an address, that cannot be made, and that lose their
//! address for a listener.

use super::super::ADDRESS_WITHIN;
use super::*;

async fn without_address() -> Running {
    let running = Running::start().await;
    running.cloud.gives_addresses(false);
    running.changes().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    running
}

#[tokio::test(start_paused = true)]
async fn an_overdue_address_is_reported_once_and_costs_no_call() {
    let running = without_address().await;
    assert_eq!((running.last().no_address, running.last().listeners[&tcp(20001)].open), (None, true));
    let (calls, reported) = (running.cloud.calls(), running.reported.lock().unwrap().len());
    tokio::time::sleep(ADDRESS_WITHIN).await;
    let outcome = running.last();
    assert!(outcome.is_unusable());
    let Failure { reason, message } = outcome.no_address.unwrap();
    assert_eq!(reason, Reason::AddressNotAssigned);
    let object = running.provider.object(&name());
    assert_eq!(
        &*message,
        format!("load balancer 0 of class default has no address yet: ask the admin to look at {object}")
    );
    tokio::time::sleep(RESYNC / 2).await;
    assert_eq!((running.cloud.calls(), running.reported.lock().unwrap().len()), (calls, reported + 1));

    running.cloud.gives_addresses(true);
    running.changes().await;
    assert_eq!(running.last().no_address, None);
    assert!(!running.last().is_unusable());
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_that_cannot_be_made_is_unusable_until_it_is_made() {
    let running = Running::with(|cloud| {
        cloud.refuse_new(true);
        Arc::new(Memory::new(cloud))
    });
    let running = running.await;
    let outcome = running.last();
    assert!(outcome.is_unusable());
    let message = outcome.failure.unwrap().message;
    let object = running.provider.object(&name());
    let expected =
        format!("load balancer 0 of class default ({object}) cannot be made: no further load balancer can be made");
    assert_eq!(&*message, expected);
    running.cloud.refuse_new(false);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert!(!running.last().is_unusable());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_loses_the_address_is_withdrawn_and_reported() {
    let running = Running::start().await;
    let (a, b) = (claim("a").holds(0, 20001), claim("b").holds(0, 20002));
    running.plan(std::slice::from_ref(&a)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    running.cloud.takes_address(tcp(20002));
    running.plan(&[a, b]).await;
    running.changes().await;
    // The load balancer gets its address back as soon as the port is closed.
    running.changes().await;
    assert_eq!(running.open().await.into_keys().collect::<Vec<_>>(), [20001]);
    let outcome = running.last();
    assert!(!outcome.addresses.is_empty());
    assert_eq!(outcome.listeners[&tcp(20001)].failure, None);
    let Failure { reason, message } = outcome.listeners[&tcp(20002)].failure.clone().unwrap();
    assert_eq!(reason, Reason::ProviderRefused);
    assert!(message.contains("lost its address when port 20002/TCP was opened"), "{message}");
    assert!(message.contains("ask for another port"), "{message}");
    assert_eq!(outcome.no_room(), BTreeSet::new());

    running.plan(&[claim("a").holds(0, 20001), claim("c").holds(0, 20003)]).await;
    assert_eq!(running.open().await.into_keys().collect::<Vec<_>>(), [20001, 20003]);
    assert!(!running.last().listeners.contains_key(&tcp(20002)), "nobody wants it any more");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_listener_opens_when_what_was_in_its_way_is_gone() {
    let running = Running::start().await;
    running.cloud.takes_address(tcp(20001));
    running.plan(&[claim("a").holds(0, 20001)]).await;
    running.changes().await;
    running.changes().await;
    assert_eq!(running.open().await, BTreeMap::new());
    running.cloud.accept_all();
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
    assert_eq!(running.last().listeners[&tcp(20001)].failure, None);
}

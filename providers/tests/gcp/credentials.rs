//! Credentials: where they come from, when they expire, and that no log has them.

use serde_json::json;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{Error, Provider as _};
use sharedlb_testbed::{GoogleUser, logged_by};

use crate::cloud::Cloud;
use crate::steps::{alter, converge, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_key_of_a_service_account_is_enough,
    a_token_that_expires_is_replaced,
    credentials_that_are_refused_are_reported_with_what_to_do,
    no_log_has_a_credential,
];

async fn a_key_of_a_service_account_is_enough(cloud: &Cloud) {
    converge(&*cloud.provider().await, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!(cloud.project.tokens().len(), 1, "it is used for all calls");
}

/// By workload identity federation, whose tokens the stand-in gives out.
async fn a_token_that_expires_is_replaced(cloud: &Cloud) {
    let folder = tempfile::tempdir().expect("there is a folder");
    let federation = cloud.project.federation(&folder.path().join("token")).expect("it is written");
    let provider = cloud.provider_by(&federation);
    let before = [(tcp(20000), listener("a", [1]))];
    converge(&provider, 0, before.clone()).await;
    let tokens = cloud.project.tokens().len();
    cloud.project.expire_tokens();
    let after = [before[0].clone(), (tcp(20001), listener("b", [2]))];
    let applied = alter(&provider, &before, &after).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert!(cloud.project.tokens().len() > tokens);

    cloud.project.expire_tokens();
    cloud.project.refuse_tokens(true);
    let observed = observe(&cloud.provider_by(&federation), 0).await;
    assert_eq!(observed.load_balancer.listeners.len(), 2, "the Services need no credentials of Google's");
    let why = &observed.load_balancer.attributes["googleCloud"];
    assert!(why.contains("access_denied"), "{why}");
}

async fn credentials_that_are_refused_are_reported_with_what_to_do(cloud: &Cloud) {
    let provider = cloud.provider_by(&json!({"type": "none"}));
    let refused = provider.observe(&lb(0)).await;
    let why = match &refused {
        Err(Error::Refused(why)) => format!("{why:#}"),
        _ => panic!("{refused:?}"),
    };
    assert!(why.contains("credentials.json") && why.contains("provider.gcp.credentials"), "{why}");
    assert!(cloud.project.calls().is_empty());
}

async fn no_log_has_a_credential(cloud: &Cloud) {
    let log = logged_by(async || {
        let provider = cloud.provider().await;
        converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
        // A call that is refused is logged too.
        cloud.project.withdraw("compute.addresses.get");
        let observed = observe(&*cloud.provider().await, 0).await;
        assert!(observed.load_balancer.attributes["googleCloud"].contains("compute.addresses.get"));
    });
    assert!(log.contains("forwardingRules"), "calls are logged");
    let mut secrets = cloud.project.tokens();
    secrets.push(cloud.project.token(GoogleUser::Controller));
    let key = cloud.key["private_key"].as_str().expect("it has a key");
    secrets.extend(key.lines().filter(|line| !line.is_empty() && !line.starts_with("-----")).map(str::to_owned));
    assert!(secrets.len() > 10);
    let found: Vec<&String> = secrets.iter().filter(|secret| log.contains(secret.as_str())).collect();
    assert!(found.is_empty(), "{found:?}");
}

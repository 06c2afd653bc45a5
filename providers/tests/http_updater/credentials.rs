//! Credentials and TLS, as a reverse proxy before the updater wants them; and that no log has
//! them.

use sharedlb_kubernetes::names::ALLOWED_HOSTS_ANNOTATION;
use sharedlb_providers::http_updater::{HttpUpdater, Settings};
use sharedlb_providers::{Applied, ChangeSet, Error, LoadBalancer, Provider, SecretData, diff};
use sharedlb_testbed::{Updater, UpdaterFault, logged_by};

use crate::host::{Host, SECRET};
use crate::steps::{lb, listener, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_token_is_sent_by_tls_that_an_authority_of_the_class_vouches_for,
    a_certificate_of_an_unknown_authority_is_not_trusted,
    a_token_that_was_replaced_is_read_again,
    credentials_that_are_refused_are_reported_with_what_to_do,
    a_secret_is_not_sent_to_a_host_or_port_that_it_does_not_name,
    a_bundle_without_certificates_is_refused,
    no_log_has_a_credential,
];

const TOKEN: &str = "first-token-of-the-test";

/// An updater behind TLS that wants this token.
async fn proxied(host: &Host, folder: &tempfile::TempDir, token: &str) -> Updater {
    let updater = Updater::start_with_tls(folder.path()).await.expect("it starts");
    updater.bind_ports(host.address).expect("no port is in use");
    updater.want_authorization(&format!("Bearer {token}"));
    updater
}

fn settings(host: &Host, updater: &Updater) -> Settings {
    Settings {
        url: updater.url().to_owned(),
        ca_bundle: updater.authority().unwrap_or_default().to_owned(),
        secret_name: Some(SECRET.to_owned()),
        ..host.settings()
    }
}

fn put_token(host: &Host, updater: &Updater, token: &str) {
    let authority = updater.url().split('/').nth(2).expect("it is a URL");
    *host.secret.0.lock() = SecretData {
        values: [("token".to_owned(), token.to_owned().into())].into(),
        annotations: [(ALLOWED_HOSTS_ANNOTATION.to_owned(), format!("lb1.example.com,{authority}"))].into(),
    };
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is a folder")
}

/// Opens a port with these backends.
async fn open(provider: &HttpUpdater, hosts: &[u8]) -> Result<Applied, Error> {
    let desired = wanted(provider, [(tcp(20000), listener("a", hosts.iter().copied()))]);
    let found = provider.observe(&lb(0)).await?.map_or_else(LoadBalancer::default, |observed| observed.load_balancer);
    provider.apply(&lb(0), ChangeSet::new(&desired, &diff(&found, &desired))).await
}

fn refusal(result: Result<Applied, Error>) -> String {
    match &result {
        Err(Error::Refused(why)) => format!("{why:#}"),
        _ => panic!("{result:?}"),
    }
}

async fn a_token_is_sent_by_tls_that_an_authority_of_the_class_vouches_for(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, TOKEN).await;
    put_token(host, &updater, TOKEN);
    let applied = open(&host.provider_with(settings(host, &updater)), &[1]).await.expect("it is carried out");
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(updater.take_calls().len(), 1);
}

async fn a_certificate_of_an_unknown_authority_is_not_trusted(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, TOKEN).await;
    put_token(host, &updater, TOKEN);
    let provider = host.provider_with(Settings { ca_bundle: String::new(), ..settings(host, &updater) });
    let error = open(&provider, &[1]).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    assert!(updater.take_calls().is_empty());
}

async fn a_token_that_was_replaced_is_read_again(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, TOKEN).await;
    put_token(host, &updater, TOKEN);
    let provider = host.provider_with(settings(host, &updater));
    open(&provider, &[1]).await.expect("the first token is good");
    updater.want_authorization("Bearer second-token");
    put_token(host, &updater, "second-token");
    open(&provider, &[2]).await.expect("the second token is read");
}

async fn credentials_that_are_refused_are_reported_with_what_to_do(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, "another-token").await;
    put_token(host, &updater, TOKEN);
    let provider = host.provider_with(settings(host, &updater));
    let why = refusal(open(&provider, &[1]).await);
    assert!(why.contains("provider.httpUpdater.credentials"), "{why}");

    updater.want_authorization(&format!("Bearer {TOKEN}"));
    updater.faults(|_| Some(UpdaterFault::Status(403)));
    let why = refusal(open(&provider, &[1]).await);
    assert!(why.contains("POST and DELETE"), "{why}");

    host.secret.0.lock().values.clear();
    let why = refusal(open(&host.provider_with(settings(host, &updater)), &[1]).await);
    assert!(why.contains(SECRET) && why.contains("token"), "{why}");
}

/// Else the author of a class could have any of these Secrets sent to a host of their own, or to a
/// port of a claim on the host of the updater.
async fn a_secret_is_not_sent_to_a_host_or_port_that_it_does_not_name(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, TOKEN).await;
    put_token(host, &updater, TOKEN);
    for others in ["lb1.example.com", "127.0.0.1"] {
        host.secret.0.lock().annotations.insert(ALLOWED_HOSTS_ANNOTATION.to_owned(), others.to_owned());
        let why = refusal(open(&host.provider_with(settings(host, &updater)), &[1]).await);
        assert!(why.contains(ALLOWED_HOSTS_ANNOTATION) && why.contains("127.0.0.1:"), "{why}");
    }
    assert!(updater.take_calls().is_empty());
}

async fn a_bundle_without_certificates_is_refused(host: &Host) {
    let ca_bundle = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n".to_owned();
    let provider = host.provider_with(Settings { ca_bundle, ..host.settings() });
    let why = refusal(open(&provider, &[1]).await);
    assert!(why.contains("provider.httpUpdater.caBundle"), "{why}");
}

async fn no_log_has_a_credential(host: &Host) {
    let folder = folder();
    let updater = proxied(host, &folder, TOKEN).await;
    put_token(host, &updater, TOKEN);
    let log = logged_by(async || {
        let provider = host.provider_with(settings(host, &updater));
        open(&provider, &[1]).await.expect("it is carried out");
        // A call that is refused is logged too.
        updater.want_authorization("Bearer another");
        tracing::info!(error = %refusal(open(&provider, &[2]).await), "refused");
    });
    assert!(log.contains("POST lb") && log.contains("refused"), "calls are logged");
    assert!(!log.contains(TOKEN), "{log}");
}

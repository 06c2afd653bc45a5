//! The credentials of calls to an updater that is behind a reverse proxy: a bearer token, or a
//! user with a password, of a Secret.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use sharedlb_kubernetes::names::ALLOWED_HOSTS_ANNOTATION;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::endpoint::canonical_authority;
use crate::http::{Credentials, SecretData, Secrets, Unavailable};

/// The key of a bearer token in the Secret.
const TOKEN: &str = "token";
/// The keys of a user and a password in the Secret, as in one of the type
/// `kubernetes.io/basic-auth`.
const USER: &str = "username";
const PASSWORD: &str = "password";

/// How long a Secret is used before it is read again, so that a token that was renewed in time
/// is never seen to expire.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// How long before its end a token is reported: for some readings of the Secret, in which it may
/// be replaced.
const WARNS_BEFORE: Duration = Duration::from_secs(900);

/// No credentials.
pub(super) struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn headers(&self) -> Result<HeaderMap, Unavailable> {
        Ok(HeaderMap::new())
    }

    async fn renew(&self) {}
}

/// The credentials in a Secret. It is read at the first call, every five minutes, and when the
/// updater refuses them.
pub(super) struct OfSecret {
    secrets: Arc<dyn Secrets>,
    name: String,
    /// The canonical host and port that they are sent to
    authority: String,
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

impl OfSecret {
    pub(super) fn new(secrets: Arc<dyn Secrets>, name: String, authority: String) -> Self {
        Self { secrets, name, authority, current: Mutex::default() }
    }

    async fn read(&self) -> Result<HeaderValue, Unavailable> {
        let read = self.secrets.read(&self.name).await;
        let data = read.map_err(|error| Unavailable { transient: !error.is_refusal(), why: format!("{error:#}") })?;
        let left = data.values.get(TOKEN).and_then(|token| lifetime(token.expose_secret(), SystemTime::now()));
        if let Some(left) = left.filter(|left| *left < WARNS_BEFORE) {
            warn!(secret = self.name, seconds = left.as_secs(), "the token of an updater expires: replace it");
        }
        let value = permit(&data, &self.authority).and_then(|()| authorization(&data));
        value.map_err(|why| Unavailable { transient: false, why: format!("the Secret {} {why}", self.name) })
    }
}

#[async_trait]
impl Credentials for OfSecret {
    async fn headers(&self) -> Result<HeaderMap, Unavailable> {
        let mut current = self.current.lock().await;
        let known = current.take().filter(|(_, read)| read.elapsed() < READ_AGAIN_AFTER);
        let known = match known {
            Some(known) => known,
            None => (self.read().await?, Instant::now()),
        };
        let (value, _) = current.insert(known);
        Ok([(AUTHORIZATION, value.clone())].into_iter().collect())
    }

    async fn renew(&self) {
        *self.current.lock().await = None;
    }
}

/// How long a token is valid from `now` on, if it is a JSON Web Token with an end (RFC 7519, section
/// 4.1.4). Of any other token, only its issuer knows.
fn lifetime(token: &str, now: SystemTime) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let [_, claims, _] = token.trim().split('.').collect::<Vec<_>>().try_into().ok()?;
    let claims: Claims = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)?;
    Some(end.duration_since(now).unwrap_or_default())
}

/// Whether the Secret may be sent to this host and port: its author says so, since the author of a
/// class may be another one, and would have it sent to a host, or to a port of a tenant, of its own.
fn permit(data: &SecretData, authority: &str) -> Result<(), String> {
    let listed = data.annotations.get(ALLOWED_HOSTS_ANNOTATION).map(String::as_str).unwrap_or_default();
    if listed.split(',').filter_map(|listed| listed_authority(listed.trim())).any(|allowed| allowed == authority) {
        return Ok(());
    }
    Err(format!(
        "may not be sent to {authority}: its annotation {ALLOWED_HOSTS_ANNOTATION} must have this host and port"
    ))
}

/// The host and port of an entry of the annotation, which has port 443 unless it names another one.
fn listed_authority(listed: &str) -> Option<String> {
    let is_ipv6 = listed.parse::<Ipv6Addr>().is_ok();
    canonical_authority(&if is_ipv6 { format!("https://[{listed}]/") } else { format!("https://{listed}/") })
}

/// The value of the header, marked so that no log shows it.
fn authorization(data: &SecretData) -> Result<HeaderValue, String> {
    let values = &data.values;
    let text = match (values.get(TOKEN), values.get(USER), values.get(PASSWORD)) {
        (Some(token), ..) => format!("Bearer {}", token.expose_secret().trim()),
        (None, Some(user), Some(password)) => {
            let pair = format!("{}:{}", user.expose_secret(), password.expose_secret());
            format!("Basic {}", BASE64_STANDARD.encode(pair))
        }
        _ => return Err(format!("has neither the key {TOKEN} nor the keys {USER} and {PASSWORD}")),
    };
    // The error of the conversion has none of the text in it, and neither has this one.
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| format!("has a {TOKEN} with a line break or another control character"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &[(&str, &str)]) -> Result<HeaderValue, String> {
        let values = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        authorization(&SecretData { values, ..SecretData::default() })
    }

    #[test]
    fn a_secret_is_sent_only_to_hosts_that_it_names() {
        let permitted = |annotation: Option<&str>, host| {
            let annotations = annotation.map(|hosts| (ALLOWED_HOSTS_ANNOTATION.to_owned(), hosts.to_owned()));
            permit(&SecretData { annotations: annotations.into_iter().collect(), ..SecretData::default() }, host)
        };
        assert!(permitted(Some("lb1.example.com, LB2.example.com."), "lb2.example.com:443").is_ok());
        assert!(permitted(Some("lb1.example.com:8443"), "lb1.example.com:8443").is_ok());
        assert!(permitted(Some("2001:db8::1"), "[2001:db8::1]:443").is_ok());
        assert!(permitted(Some("[2001:db8::1]:8443"), "[2001:db8::1]:8443").is_ok());
        for annotation in [None, Some(""), Some("lb1.example.com"), Some("example.com"), Some("lb2.example.com:8443")] {
            let why = permitted(annotation, "lb2.example.com:443").unwrap_err();
            assert!(why.contains("lb2.example.com:443") && why.contains(ALLOWED_HOSTS_ANNOTATION), "{why}");
        }
        assert!(permitted(Some("lb1.example.com"), "lb1.example.com:20417").is_err(), "a port of a tenant");
    }

    #[test]
    fn a_token_or_a_user_with_a_password_is_sent() {
        assert_eq!(of(&[("token", "abc\n")]).unwrap(), "Bearer abc");
        // The example of RFC 7617, section 2.
        assert_eq!(
            of(&[("username", "Aladdin"), ("password", "open sesame")]).unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert!(of(&[("token", "abc")]).unwrap().is_sensitive());
    }

    #[test]
    fn the_end_of_a_json_web_token_is_known() {
        let token = |claims: &str| format!("e30.{}.c2lnbmF0dXJl", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let left = |token: &str| lifetime(token, now).map(|left| left.as_secs());
        assert_eq!(left(&token(r#"{"sub":"controller","exp":1060}"#)), Some(60));
        assert_eq!(left(&token(r#"{"exp":900}"#)), Some(0), "it has expired");
        for other in
            ["abc", "a.b.c", &token(r#"{"sub":"controller"}"#), &token(r#"{"exp":-1}"#), &token(r#"{"exp":1e300}"#)]
        {
            assert_eq!(left(other), None, "{other}");
        }
    }

    #[test]
    fn a_secret_without_credentials_is_reported_and_none_of_its_values_is_shown() {
        for data in [&[("username", "hidden")][..], &[("tokens", "hidden")], &[("token", "hid\nden")]] {
            let why = of(data).unwrap_err();
            assert!(why.contains("token") && !why.contains("hid"), "{why}");
        }
    }
}

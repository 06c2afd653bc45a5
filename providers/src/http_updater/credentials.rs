//! The credentials of calls to an updater that is behind a reverse proxy: a bearer token, or a
//! user with a password, of a Secret.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

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
    current: Mutex<Option<(HeaderValue, Instant)>>,
}

impl OfSecret {
    pub(super) fn new(secrets: Arc<dyn Secrets>, name: String) -> Self {
        Self { secrets, name, current: Mutex::default() }
    }

    async fn read(&self) -> Result<HeaderValue, Unavailable> {
        let read = self.secrets.read(&self.name).await;
        let data = read.map_err(|error| Unavailable { transient: !error.is_refusal(), why: format!("{error:#}") })?;
        authorization(&data)
            .map_err(|why| Unavailable { transient: false, why: format!("the Secret {} {why}", self.name) })
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

/// The value of the header, marked so that no log shows it.
fn authorization(data: &SecretData) -> Result<HeaderValue, String> {
    let text = match (data.get(TOKEN), data.get(USER), data.get(PASSWORD)) {
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
        authorization(&data.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect())
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
    fn a_secret_without_credentials_is_reported_and_none_of_its_values_is_shown() {
        for data in [&[("username", "hidden")][..], &[("tokens", "hidden")], &[("token", "hid\nden")]] {
            let why = of(data).unwrap_err();
            assert!(why.contains("token") && !why.contains("hid"), "{why}");
        }
    }
}

//! The calls for load balancers of Google Cloud, as golden files: those that are made side by side
//! are sorted. (The Services are as those of the provider `vip`.)

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fake::Fake;
use super::tests::provider;
use super::{Managed, Scheme, Settings, fixture};
use crate::golden;

/// The settings of a class.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Class {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    internal: bool,
    /// All of 20000 to 29999 are allowed
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    range: bool,
}

#[tokio::test]
async fn calls_are_as_in_the_golden_files() {
    golden::check("gcp", |class: &Class| {
        let mut settings = fixture::settings();
        if class.internal {
            settings = Settings { scheme: Scheme::Internal, global_access: true, ..settings };
        }
        if class.range {
            settings.firewall.manage = Managed::Range(vec![20_000..=29_999]);
        }
        let fake = Fake::default();
        let provider = provider(settings, &fake, &["a/node-1", "a/node-2", "b/node-3"]).0;
        let call = |(call, body): (String, Value)| {
            if body.is_null() { json!({"call": call}) } else { json!({"call": call, "body": body}) }
        };
        (provider, move || fake.take_written().into_iter().map(call).collect())
    })
    .await;
}

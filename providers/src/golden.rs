//! Golden files: the writes of a provider for a load balancer, in files that a reviewer
//! sees. Each file in `tests/golden/PROVIDER` is a case: its settings, the listeners, and
//! the writes for these. With `UPDATE_GOLDEN=1` the writes are updated instead of compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{LbName, Listener, ListenerKey, LoadBalancer};
use crate::{ChangeSet, Provider, diff};

/// Updates the files.
const UPDATE: &str = "UPDATE_GOLDEN";

/// Listeners of the model.
type Listeners = BTreeMap<ListenerKey, Listener>;

/// The content of a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case<S> {
    /// What the case is about, in a sentence
    about: String,
    /// The settings of the class
    settings: S,
    /// The existing listeners; none: the load balancer does not exist
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Listeners>,
    /// The desired listeners
    listeners: Listeners,
    /// The writes, in their order
    #[serde(default)]
    written: Vec<Value>,
}

/// The name of the load balancer in every case.
fn name() -> LbName {
    LbName::new("default", 0, "cluster", "uid")
}

/// Checks every case of a provider. `play` returns the provider, and a function that returns
/// the writes since its last call.
pub(crate) async fn check<S, P, W>(provider: &str, play: impl Fn(&S) -> (P, W))
where
    S: Serialize + DeserializeOwned,
    P: Provider,
    W: FnMut() -> Vec<Value>,
{
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(provider);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut differing = Vec::new();
    let mut count = 0;
    for file in files {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let mut case: Case<S> =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (provider, written) = play(&case.settings);
        case.written = writes(&provider, written, case.before.as_ref(), &case.listeners).await;
        let now = serde_saphyr::to_string(&case).expect("any case can be YAML");
        count += 1;
        if now == text {
            continue;
        }
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&path, now).expect("it can be written");
        } else {
            differing.push(format!("{}:\n{}", path.display(), first_difference(&text, &now)));
        }
    }
    assert!(count > 0, "there are no cases in {}", folder.display());
    assert!(differing.is_empty(), "{}\n{UPDATE}=1 writes these files again", differing.join("\n"));
}

/// The writes of a provider from the existing to the desired listeners.
async fn writes(
    provider: &impl Provider,
    mut written: impl FnMut() -> Vec<Value>,
    before: Option<&Listeners>,
    wanted: &Listeners,
) -> Vec<Value> {
    let name = name();
    let mut now = LoadBalancer::default();
    provider.observe(&name).await.expect("it is observed");
    for listeners in before.into_iter().chain([wanted]) {
        written();
        let attributes = provider.attributes(0);
        let desired = LoadBalancer { attributes, listeners: listeners.clone() };
        let changes = diff(&now, &desired);
        let applied = provider.apply(&name, ChangeSet::new(&desired, &changes)).await.expect("it is carried out");
        assert!(applied.failed.is_empty() && applied.postponed.is_empty(), "{applied:?}");
        now = desired;
    }
    written()
}

/// The first line that differs, in both texts.
fn first_difference(expected: &str, found: &str) -> String {
    let lines = expected.lines().map(Some).chain(std::iter::repeat(None));
    let both = lines.zip(found.lines().map(Some).chain(std::iter::repeat(None)));
    let longest = expected.lines().count().max(found.lines().count());
    let differing = both.take(longest).enumerate().find(|(_, (expected, found))| expected != found);
    differing.map_or_else(String::new, |(at, (expected, found))| {
        let [expected, found] = [expected, found].map(|line| line.unwrap_or("(the end)"));
        format!("line {}:\n  {expected}\nis now\n  {found}", at + 1)
    })
}

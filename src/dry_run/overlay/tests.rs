use std::convert::Infallible;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::*;

/// The API server: it has one ConfigMap, sends the watch what it is told, and is asked
/// for nothing but reads.
fn client(overlay: &Overlay) -> (Client, mpsc::UnboundedSender<&'static str>) {
    let (send, events) = mpsc::unbounded_channel();
    let events = Arc::new(tokio::sync::Mutex::new(events));
    let server = tower::service_fn(move |request: Request<Body>| {
        let events = events.clone();
        async move {
            assert_eq!(request.method(), Method::GET, "{}", request.uri());
            let there = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {"theirs": "1"},
                "metadata": {"namespace": "team", "name": "there", "uid": "u", "resourceVersion": "7"},
            });
            let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
            if query.contains("watch=true") {
                let events = futures::stream::unfold(events, |events| async move {
                    let event = events.lock().await.recv().await?;
                    Some((Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(event))), events))
                });
                let body = http_body_util::StreamBody::new(events.map_err(|never| match never {})).boxed_unsync();
                return Ok::<_, Infallible>(Response::new(body));
            }
            Ok(match path.as_str() {
                "/api/v1/namespaces/team/configmaps/there" => reply(StatusCode::OK, &there),
                "/api/v1/namespaces/team/configmaps/hidden" => status(403, "Forbidden", "configmaps is forbidden"),
                "/api/v1/namespaces/team/configmaps" => {
                    let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": [there], "metadata": {"resourceVersion": "9"}});
                    reply(StatusCode::OK, &list)
                }
                _ => status(404, "NotFound", "not found"),
            })
        }
    });
    (Client::new(overlay.layer(server), "default"), send)
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "team")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).expect("a ConfigMap")
}

async fn change(maps: &Api<ConfigMap>, value: &str) -> ConfigMap {
    let patch = Patch::Merge(json!({"data": {"ours": value}}));
    maps.patch("there", &PatchParams::default(), &patch).await.expect("it is written")
}

/// An event in a word.
fn word(event: &WatchEvent<ConfigMap>) -> String {
    let value = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("ours").cloned()).unwrap_or_default();
    match event {
        WatchEvent::Added(map) => format!("added {} {}", map.name_any(), value(map)),
        WatchEvent::Modified(map) => format!("modified {} {}", map.name_any(), value(map)),
        WatchEvent::Deleted(map) => format!("deleted {} {}", map.name_any(), value(map)),
        WatchEvent::Bookmark(_) => "bookmark".to_owned(),
        WatchEvent::Error(status) => format!("error {}", status.code),
    }
}

#[tokio::test]
async fn what_is_written_is_read_and_listed() {
    let (client, _server) = client(&Overlay::default());
    let maps = maps(&client);
    let names = async || -> Vec<String> {
        let list = maps.list(&ListParams::default()).await.expect("it is listed");
        list.iter().map(|map| map.name_any()).collect()
    };
    assert_eq!(names().await, ["there"]);
    maps.create(&PostParams::default(), &map("new")).await.expect("it is created");
    change(&maps, "2").await;
    assert_eq!(names().await, ["there", "new"]);
    let data = maps.get("there").await.expect("it is there").data.expect("it has data");
    assert_eq!(data.into_iter().collect::<Vec<_>>(), [("ours".into(), "2".into()), ("theirs".into(), "1".into())]);
    maps.delete("there", &Default::default()).await.expect("it is deleted");
    assert_eq!(names().await, ["new"]);
    assert!(maps.get_opt("there").await.expect("it can be asked").is_none());
    let taken = maps.create(&PostParams::default(), &map("new")).await.expect_err("it exists");
    assert!(matches!(taken, kube::Error::Api(status) if status.code == 409));
}

#[tokio::test]
async fn a_watch_shows_what_is_written_before_and_after_it_began_between_whole_lines_of_the_server() {
    let overlay = Overlay::default();
    let (client, server) = client(&overlay);
    let maps = maps(&client);
    change(&maps, "1").await;
    let events = maps.watch(&WatchParams::default(), "9").await.expect("it begins");
    let mut events = events.map_ok(|event| word(&event)).boxed();
    assert_eq!(events.next().await.expect("an event").expect("no error"), "modified there 1");

    server.send(r#"{"type": "ADDED", "object": {"apiVersion": "v1", "kind": "ConfigMap","#).expect("it is watched");
    change(&maps, "2").await;
    assert_eq!(events.next().await.expect("an event").expect("no error"), "modified there 2");
    server.send("\"metadata\": {\"name\": \"real\"}}}\n").expect("it is watched");
    assert_eq!(events.next().await.expect("an event").expect("no error"), "added real ");
    maps.delete("there", &Default::default()).await.expect("it is deleted");
    assert_eq!(events.next().await.expect("an event").expect("no error"), "deleted there 2");

    assert!(overlay.watches_are_open());
    drop(server);
    assert!(events.next().await.is_none(), "the server has ended it");
    drop(events);
    assert!(!overlay.watches_are_open(), "until it is begun again");
    let again = maps.watch(&WatchParams::default(), "9").await.expect("it begins");
    assert!(overlay.watches_are_open());
    drop(again);
    assert!(overlay.watches_are_open(), "a watch that its reader has dropped is not missed");
}

#[tokio::test]
async fn a_watch_that_goes_on_after_a_version_of_the_overlay_makes_the_list_again() {
    let (client, _server) = client(&Overlay::default());
    let maps = maps(&client);
    let version = change(&maps, "1").await.resource_version().expect("it has a version");
    let events = maps.watch(&WatchParams::default(), &version).await.expect("it is answered");
    let events: Vec<String> = events.map_ok(|event| word(&event)).try_collect().await.expect("no error");
    assert_eq!(events, ["error 410"]);
}

#[tokio::test]
async fn a_change_that_the_overlay_does_not_know_is_refused_and_noted() {
    let overlay = Overlay::default();
    let (client, _server) = client(&overlay);
    let apply = Patch::Apply(map("there"));
    let refused = maps(&client).patch("there", &PatchParams::apply("sharedlb"), &apply).await;
    assert!(matches!(refused.expect_err("it is refused"), kube::Error::Api(status) if status.code == 405));
    let failure = overlay.failure().expect("it is noted");
    assert_eq!(
        failure,
        "the dry run cannot answer PATCH /api/v1/namespaces/team/configmaps/there with application/apply-patch+yaml"
    );
}

#[tokio::test]
async fn a_write_to_what_may_not_be_read_is_refused_and_noted() {
    let overlay = Overlay::default();
    let (client, _server) = client(&overlay);
    let patch = Patch::Merge(json!({"data": {}}));
    let refused = maps(&client).patch("hidden", &PatchParams::default(), &patch).await;
    assert!(matches!(refused.expect_err("it is refused"), kube::Error::Api(status) if status.code == 403));
    let failure = overlay.failure().expect("it is noted");
    assert_eq!(failure, "get of /api/v1/namespaces/team/configmaps/hidden: 403 Forbidden");
}

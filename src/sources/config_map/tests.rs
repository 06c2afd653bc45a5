//! ConfigMaps as the API has them, and what becomes of them write by write.

use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Event;

use super::super::simulation::World;
use super::*;

/// Where these Services are.
fn source(services: Value) -> Arc<ConfigMaps> {
    let backends = Arc::new(Backends::default());
    for mut service in services.as_array().unwrap().clone() {
        service["metadata"]["namespace"] = json!("team");
        service["metadata"]["uid"] = service["metadata"]["name"].clone();
        service["metadata"]["resourceVersion"] = json!("1");
        let service: Service = serde_json::from_value(service).unwrap();
        backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
    }
    Arc::new(ConfigMaps { backends })
}

fn services() -> Arc<ConfigMaps> {
    source(json!([
        {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}},
        {"metadata": {"name": "many"}, "spec": {"ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53},
        ]}},
    ]))
}

fn map(data: Value) -> Value {
    let mut all = json!({"namespace": "team", "target-service-name": "web", "theirs": "stays"});
    for (key, value) in data.as_object().unwrap() {
        all[key] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": all})
}

fn settled(data: Value) -> World<ConfigMaps> {
    World::new(services(), map(data)).settled()
}

fn data(world: &World<ConfigMaps>) -> &Value {
    &world.object.as_ref().unwrap()["data"]
}

fn port(world: &World<ConfigMaps>) -> &Value {
    &world.claim.as_ref().unwrap()["spec"]["ports"][0]
}

#[test]
fn a_port_is_assigned_and_written_back_and_all_else_stays() {
    let world = settled(json!({}));
    assert_eq!(world.done, ["create", "data"]);
    let wanted = json!({
        "namespace": "team", "target-service-name": "web", "theirs": "stays", "bind-ip": "10.0.0.1", "bind-port": "20000",
    });
    assert_eq!(*data(&world), wanted);
    let claim = world.claim.as_ref().unwrap();
    assert_eq!(claim["metadata"]["name"], "configmap-mine");
    assert_eq!(
        claim["spec"],
        json!({"serviceName": "web", "ports": [{"name": "", "protocol": "TCP", "targetPort": 80}]})
    );
    assert_eq!(world.events, ["Bound"]);
}

#[test]
fn what_was_written_back_is_not_a_new_ask_but_what_the_user_writes_is() {
    let mut world = settled(json!({}));
    assert!(port(&world)["port"].is_null());
    world.claim = None;
    let mut world = world.restarted().settled();
    assert!(port(&world)["port"].is_null(), "not even without a claim to compare with");
    world.edit(&json!({"data": {"bind-port": "5432"}}));
    let mut world = world.settled();
    assert_eq!(port(&world)["port"], 5432);
    assert_eq!(data(&world)["bind-port"], "5432");
    world.edit(&json!({"data": {"bind-port": null}}));
    assert!(port(&world.settled())["port"].is_null());
}

#[test]
fn one_of_several_ports_is_named_by_number_or_name() {
    let of = |target: &str| {
        let world = settled(json!({"target-service-name": "many", "target-port": target}));
        let port = port(&world);
        (port["protocol"].clone(), port["targetPort"].clone())
    };
    assert_eq!(of("80"), (json!("TCP"), json!(80)));
    assert_eq!(of("http"), (json!("TCP"), json!(80)));
    assert_eq!(of("53"), (json!("TCP_UDP"), json!(53)), "both by their number");
    assert_eq!(of("dns"), (json!("UDP"), json!(53)), "one by its name");
}

#[test]
fn a_mistake_is_reported_and_changes_nothing() {
    for (wrong, reason) in [
        (json!({"namespace": null}), "MissingKey"),
        (json!({"namespace": ""}), "MissingKey"),
        (json!({"target-service-name": null}), "MissingKey"),
        (json!({"namespace": "other"}), "OtherNamespace"),
        (json!({"target-service-name": "nobody"}), "ServiceNotFound"),
        (json!({"target-service-name": "many"}), "PortMissing"),
        (json!({"target-port": "81"}), "PortNotFound"),
        (json!({"target-port": "https"}), "PortNotFound"),
        (json!({"bind-port": "0"}), "InvalidPort"),
        (json!({"bind-port": "http"}), "InvalidPort"),
        (json!({"class": "My Class"}), "InvalidClass"),
    ] {
        let mut wrong = map(wrong);
        wrong["data"]["bind-ip"] = json!("192.0.2.1");
        let world = World::new(services(), wrong.clone()).settled();
        assert_eq!(world.events, [reason]);
        assert!(world.done.is_empty() && *data(&world) == wrong["data"], "{reason}");
    }
}

/// Everything that a ConfigMap may ask for, one of which may become any other.
fn variants() -> Vec<Value> {
    [
        json!({}),
        json!({"bind-port": "5432"}),
        json!({"bind-port": "5433", "class": "shared"}),
        json!({"class": "other"}),
        json!({"target-service-name": "many", "target-port": "dns"}),
        json!({"namespace": "other"}),
    ]
    .map(map)
    .into()
}

/// What a ConfigMap may say by mistake.
fn mistakes() -> Vec<Value> {
    [
        json!({"target-service-name": "many"}),
        json!({"target-service-name": null}),
        json!({"namespace": null}),
        json!({"bind-port": "nonsense"}),
        json!({"target-port": "nonsense"}),
        json!({"class": "My Class"}),
    ]
    .map(map)
    .into()
}

/// The edit that makes it of any other.
fn becomes(world: &mut World<ConfigMaps>, wanted: &Value) {
    let mut keys = json!({
        "namespace": null, "target-service-name": null, "target-port": null, "class": null, "bind-port": null, "bind-ip": null,
    });
    for (key, value) in wanted["data"].as_object().unwrap() {
        keys[key] = value.clone();
    }
    world.edit(&json!({ "data": keys }));
}

#[test]
fn whatever_is_edited_at_whatever_moment_all_ends_where_a_fresh_one_would() {
    for before in variants().into_iter().chain(mistakes()) {
        for after in variants() {
            let fresh = World::new(services(), after.clone()).settled().seen();
            for (at, mut world) in World::new(services(), before.clone()).on_the_way().into_iter().enumerate() {
                becomes(&mut world, &after);
                let seen = world.restarted().settled().seen();
                assert_eq!(seen, fresh, "{} became {} after {at} steps", before["data"], after["data"]);
            }
        }
    }
}

#[test]
fn a_mistake_releases_no_port_and_is_reported() {
    for before in variants() {
        for after in mistakes() {
            for (at, mut world) in World::new(services(), before.clone()).on_the_way().into_iter().enumerate() {
                let mut edit = json!({"namespace": null, "target-service-name": null, "target-port": null});
                edit.as_object_mut().unwrap().extend(after["data"].as_object().unwrap().clone());
                let (claim, address) = (world.claim.clone(), data(&world)["bind-ip"].clone());
                (world.done, world.events) = (Vec::new(), Vec::new());
                world.edit(&json!({ "data": edit }));
                let world = world.restarted().settled();
                let what = format!("{} became {} after {at} steps: {:?}", before["data"], after["data"], world.done);
                let spec = |claim: &Option<Value>| {
                    claim.as_ref().map(|claim| (claim["metadata"]["uid"].clone(), claim["spec"].clone()))
                };
                assert_eq!(spec(&world.claim), spec(&claim), "{what}");
                assert_eq!(data(&world)["bind-ip"], address, "{what}");
                assert_eq!(world.events.len(), 1, "{what}: {:?}", world.events);
            }
        }
    }
}

#[test]
fn killed_between_any_two_writes_it_ends_the_same() {
    for map in variants() {
        let whole = World::new(services(), map.clone()).settled();
        for world in World::new(services(), map).on_the_way() {
            let world = world.restarted().settled();
            assert_eq!((world.seen(), &world.done), (whole.seen(), &whole.done));
        }
    }
}

#[test]
fn a_claim_goes_with_its_config_map_and_also_if_that_is_no_longer_one_of_ours() {
    for mut world in World::new(services(), map(json!({}))).on_the_way() {
        world.object = None;
        assert!(world.restarted().settled().claim.is_none());
    }
}

#[test]
fn one_that_lingers_while_it_is_deleted_gives_its_port_back_all_the_same() {
    let mut kept = map(json!({}));
    kept["metadata"]["finalizers"] = json!(["team.dev/theirs"]);
    for mut world in World::new(services(), kept).on_the_way() {
        world.delete(|world| &mut world.object);
        let world = world.restarted().settled();
        assert!(world.object.is_some() && world.claim.is_none());
        assert!(data(&world)["bind-ip"].is_null() && data(&world)["bind-port"].is_null());
    }
}

#[test]
fn while_its_service_is_away_it_keeps_its_port_and_its_address() {
    let mut world = settled(json!({}));
    let kept = (data(&world).clone(), world.claim.clone());
    (world.done, world.events) = (Vec::new(), Vec::new());
    let mut world = world.with_source(source(json!([]))).restarted().settled();
    assert!(world.done.is_empty() && world.events.is_empty(), "{:?} {:?}", world.done, world.events);
    assert_eq!((data(&world).clone(), world.claim.clone()), kept);
    // What it asks for is followed all the same.
    world.edit(&json!({"data": {"bind-port": "5432", "target-service-name": "later"}}));
    let world = world.settled();
    assert_eq!(port(&world)["port"], 5432);
    assert_eq!(world.claim.as_ref().unwrap()["spec"]["serviceName"], "later");
    // It is made again, and its one port is another one.
    let later = source(json!([{"metadata": {"name": "later"}, "spec": {"ports": [{"port": 53, "protocol": "UDP"}]}}]));
    let world = world.with_source(later).settled();
    assert_eq!((&port(&world)["protocol"], &port(&world)["targetPort"]), (&json!("UDP"), &json!(53)));
    assert_eq!(data(&world)["bind-port"], "5432");
}

#[test]
fn another_class_is_taken_also_while_its_service_is_away() {
    let world = settled(json!({}));
    let mut world = world.with_source(source(json!([])));
    world.edit(&json!({"data": {"class": "other"}}));
    let world = world.settled();
    assert!(world.claim.is_none() && data(&world)["bind-ip"].is_null());
    assert_eq!(world.with_source(services()).settled().seen(), settled(json!({"class": "other"})).seen());
}

#[test]
fn while_its_claim_lingers_it_is_bound_to_nothing() {
    for asked in [json!({}), json!({"bind-port": "5432"})] {
        let mut world = settled(asked.clone());
        (world.done, world.events) = (Vec::new(), Vec::new());
        world.edit_claim(&json!({"metadata": {"finalizers": [sharedlb_crds::CLAIM_FINALIZER, "example.com/hold"]}}));
        world.delete(|world| &mut world.claim);
        let mut world = world.restarted().settled();
        assert_eq!(world.done, ["data", "released"], "first the address goes");
        assert_eq!(*data(&world), map(asked.clone())["data"], "what the user wrote stays");
        assert_eq!(world.events, ["NameTaken"]);
        world.edit_claim(&json!({"metadata": {"finalizers": []}}));
        assert_eq!(world.settled().seen(), settled(asked).seen());
    }
}

#[test]
fn a_claim_that_vanishes_takes_what_was_written_back_with_it() {
    let mut world = settled(json!({}));
    world.done.clear();
    world.claim = None;
    assert_eq!(world.restarted().settled().done, ["data", "create", "data"]);
}

#[test]
fn a_problem_and_its_end_are_reported_once() {
    let mut world = settled(json!({}));
    world.events.clear();
    let ready = |status: &str, reason: &str| {
        json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    for (status, reason) in [("False", "NoBackends"), ("False", "Pending"), ("False", "NoBackends"), ("True", "Ready")]
    {
        world.edit_claim(&ready(status, reason));
        world = world.settled();
    }
    assert_eq!(world.events, ["NoBackends", "Ready"]);
}

#[test]
fn a_partly_served_port_is_reported_once() {
    let mut world = settled(json!({}));
    world.events.clear();
    let said = |programmed: &str, ready: &str, message: &str| {
        let condition = |kind: &str, reason: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        json!({"status": {"conditions": [condition("Programmed", programmed), condition("Ready", ready)]}})
    };
    for (programmed, ready, message) in [
        ("BackendsLeftOut", "Ready", "120 of 1400"),
        ("BackendsLeftOut", "Ready", "120 of 1401"),
        ("Programmed", "AddressWithoutBackends", "nothing answers at fd00::1"),
        ("Programmed", "Ready", ""),
    ] {
        world.edit_claim(&said(programmed, ready, message));
        world = world.settled();
    }
    assert_eq!(world.events, ["BackendsLeftOut", "AddressWithoutBackends"]);
}

#[test]
fn a_refusal_of_the_api_server_is_reported() {
    let mut world = World::new(services(), map(json!({"class": "x"})));
    world.rejects = Some(Problem { reason: Reason::Rejected, message: "no".to_owned() });
    assert_eq!(world.settled().events, ["Rejected"]);
}

//! Malformed answers of AWS: nothing panics, foreign objects are not changed, and messages are
//! short and on one line.

pub(super) mod cloud;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::json;

use self::cloud::{Cloud, Paging, list, text};
use self::world::{LB, Scene, is_ours, lb_name, scenes, tells, true_scenes, used_by_others};
use super::Aws;
use crate::model::{Address, Listener, ListenerKey, LoadBalancer, Observed};
use crate::{Applied, ChangeSet, Error, Provider as _};

/// The longest message, in characters: a longer one would be cut in the middle of its advice.
const TOLD_MAX: usize = 800;

/// The number of cases of each property. `PROPTEST_CASES` raises it.
fn config() -> ProptestConfig {
    let tries = std::env::var("PROPTEST_CASES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(32);
    ProptestConfig { cases: tries, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() }
}

/// The messages to users and logs.
#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn note<'a>(&mut self, errors: impl IntoIterator<Item = &'a Error>, addresses: &[Address]) {
        self.0.extend(errors.into_iter().map(|error| format!("{error:#}")));
        self.0.extend(addresses.iter().map(ToString::to_string));
    }

    fn note_seen(&mut self, observed: &Result<Option<Observed>, Error>) {
        let seen = observed.iter().flatten().next();
        self.note(observed.as_ref().err(), seen.map_or(&[], |seen| &seen.addresses));
        self.0.extend(seen.and_then(|seen| seen.not_ready.clone()));
    }

    fn note_applied(&mut self, applied: &Result<Applied, Error>) {
        match applied {
            Ok(applied) => self.note(applied.failed.values().chain(&applied.unconfigured), &applied.addresses),
            Err(error) => self.note([error], &[]),
        }
    }
}

impl Scene {
    fn cloud(&self) -> Cloud {
        Cloud::new(self.world.clone(), self.paging.clone(), self.faults.clone())
    }

    /// Observes, compares and applies, twice, as an LB loop does; and deletes everything in
    /// the end.
    fn play(&self, cloud: &Cloud) -> Told {
        let (aws, name, mut told) = (Aws::new(self.settings.clone(), &cloud.clients()), lb_name(), Told::default());
        in_time_of_its_own(async {
            for _ in 0..2 {
                let observed = aws.observe(&name).await;
                told.note_seen(&observed);
                let Ok(observed) = observed else { continue };
                let found = observed.unwrap_or_default();
                let desired = LoadBalancer { attributes: aws.attributes(0), listeners: self.listeners(&aws) };
                told.note_applied(
                    &aws.apply(&name, ChangeSet::new(&desired, &found.changes_to(&desired, &BTreeSet::new()))).await,
                );
            }
            told.note(&aws.delete(&name).await.err(), &[]);
        });
        told
    }

    fn observe(&self) -> Result<Option<Observed>, Error> {
        let (aws, name) = (Aws::new(self.settings.clone(), &self.cloud().clients()), lb_name());
        in_time_of_its_own(aws.observe(&name))
    }

    /// The desired state, as this provider compares it.
    fn listeners(&self, aws: &Aws) -> BTreeMap<ListenerKey, Listener> {
        let mut listeners = BTreeMap::<ListenerKey, Listener>::new();
        for (key, listener) in self.wanted.iter().cloned() {
            // A number has one listener.
            listeners.retain(|other, _| other.port != key.port);
            let backends = listener.backends.iter().cloned().filter_map(|backend| aws.as_observed(backend)).collect();
            listeners.insert(key, Listener { backends, ..listener });
        }
        listeners
    }
}

fn in_time_of_its_own<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

/// Requires that each call that changes something is about objects of ours. An adopted load
/// balancer gets listeners, and nothing else.
fn only_ours_is_changed(scene: &Scene, cloud: &Cloud) -> Result<(), TestCaseError> {
    let adopted = scene.settings.load_balancer_arn.is_some();
    for call in cloud.calls().iter().filter(|call| !call.action.starts_with("Describe")) {
        for (parameter, arn) in call.arns() {
            let lent = adopted && arn == LB;
            let gets_listener = call.action == "CreateListener" && parameter == "LoadBalancerArn";
            let ours = is_ours(&scene.world, arn) || cloud.made(arn);
            prop_assert!(if lent { gets_listener } else { ours }, "{arn} is not ours: {call:?}");
        }
    }
    Ok(())
}

/// Requires that each listener exists, with the owner in its tags.
fn seen_is_there(scene: &Scene, seen: &Observed) -> Result<(), TestCaseError> {
    for (key, listener) in &seen.load_balancer.listeners {
        let owner = [
            ("sharedlb.dev/namespace", &*listener.owner.namespace),
            ("sharedlb.dev/claim", &*listener.owner.claim),
            ("sharedlb.dev/port", &*listener.owner.port),
        ];
        let named = !listener.owner.namespace.is_empty() && !listener.owner.claim.is_empty();
        prop_assert!(named, "{key} is nobody's: {:?}", listener.owner);
        let there = list(&scene.world, "DescribeListeners", "Listeners").any(|found| {
            let arn = text(&found["ListenerArn"]);
            text(&found["Port"]) == key.port.to_string()
                && is_ours(&scene.world, &arn)
                && tells(&scene.world, &arn, &owner)
        });
        prop_assert!(there, "{key} is {:?}", listener.owner);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn for_any_answer_only_our_objects_change_and_reports_are_valid(scene in scenes()) {
        let cloud = scene.cloud();
        let told = scene.play(&cloud);
        only_ours_is_changed(&scene, &cloud)?;
        for told in told.0 {
            prop_assert!(told.chars().count() <= TOLD_MAX && !told.chars().any(char::is_control), "{told}");
        }
    }

    #[test]
    fn what_others_use_is_left_alone_though_it_be_ours(scene in true_scenes()) {
        let cloud = scene.cloud();
        scene.play(&cloud);
        only_ours_is_changed(&scene, &cloud)?;
        let used = used_by_others(&scene.world);
        let mut listeners = list(&scene.world, "DescribeListeners", "Listeners");
        let alone = listeners.all(|found| is_ours(&scene.world, &text(&found["ListenerArn"])));
        for call in cloud.calls().iter().filter(|call| !call.action.starts_with("Describe")) {
            prop_assert!(!call.arns().any(|(_, arn)| used.contains(arn)), "others forward to it: {call:?}");
            prop_assert!(alone || call.action != "DeleteLoadBalancer", "others have listeners on it: {call:?}");
        }
    }

    #[test]
    fn a_listener_that_is_seen_is_there_and_is_whose_its_tags_say(scene in scenes()) {
        let Ok(Some(seen)) = scene.observe() else { return Ok(()) };
        seen_is_there(&scene, &seen)?;
    }

    #[test]
    fn a_listener_of_others_keeps_its_port(scene in true_scenes()) {
        let Ok(Some(seen)) = scene.observe() else { return Ok(()) };
        for found in list(&scene.world, "DescribeListeners", "Listeners") {
            let ours = is_ours(&scene.world, &text(&found["ListenerArn"]));
            let port = found["Port"].as_i64().unwrap_or_default();
            if !ours && (1..65536).contains(&port) {
                prop_assert!(seen.foreign.iter().any(|foreign| i64::from(foreign.port.get()) == port), "{port} is free");
            }
        }
    }

    #[test]
    fn paging_and_duplicates_make_no_difference(scene in true_scenes(), size in 1usize..4) {
        let mut twice = scene.clone();
        for (action, of) in [("DescribeListeners", "Listeners"), ("DescribeTargetGroups", "TargetGroups")] {
            let all = twice.world[action][of].as_array_mut().unwrap();
            all.extend(all.clone());
        }
        prop_assert_eq!(Scene { paging: Paging::Of(size), ..scene.clone() }.observe(), scene.observe());
        prop_assert_eq!(Scene { paging: Paging::Of(size), ..twice }.observe(), scene.observe());
    }

    #[test]
    fn target_groups_of_others_elsewhere_make_no_difference(scene in true_scenes(), others in true_scenes()) {
        let mut more = scene.clone();
        for (at, group) in list(&others.world, "DescribeTargetGroups", "TargetGroups").enumerate() {
            let mut group = group.clone();
            group["TargetGroupArn"] = format!("arn:other/{at}").into();
            group["LoadBalancerArns"] = json!(["arn:lb/other"]);
            more.world["DescribeTargetGroups"]["TargetGroups"].as_array_mut().unwrap().push(group);
        }
        prop_assert_eq!(more.observe(), scene.observe());
    }
}

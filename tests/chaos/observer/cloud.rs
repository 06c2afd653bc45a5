//! The load balancers at AWS: every state, and its author.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sharedlb_testbed::{AwsBalancer, AwsDone, AwsListener, AwsState};
use tokio::time::Instant;

use super::book::Book;
use super::continuity::Kept;
use super::objects::{Slot, transports};
use crate::cloud::{CLUSTER, LOAD_BALANCER, is_foreign};

/// What there is at AWS, and was.
#[derive(Default)]
pub(super) struct Cloud {
    pub(super) state: AwsState,
    /// States that were not judged yet, or not to their end
    shown: VecDeque<Shown>,
    /// What is so because the owner made it so by hand
    by_hand: BTreeSet<Fact>,
    /// When the controller last asked for the listeners of a load balancer, by ARN
    looked: BTreeMap<String, Instant>,
    /// When strangers' listeners were made, by ARN
    made: BTreeMap<String, Instant>,
    /// The values of all parameters of the owner's calls: the ARNs of what was altered
    /// by hand are among them
    altered: BTreeSet<String>,
    /// What the controller closed, and was not judged yet
    closed: Vec<Closed>,
}

/// A listener that the controller deleted.
struct Closed {
    at: Instant,
    slot: Slot,
    arn: String,
    /// The claim that had it then
    kept: Kept,
}

/// Where a listener leads, what a target group has, or what tags are: the ARN, and
/// what it says.
type Fact = (String, String);

/// The listeners of ours that there were for a time.
struct Shown {
    from: Instant,
    until: Option<Instant>,
    open: Vec<Open>,
}

/// One of them.
struct Open {
    slots: Vec<Slot>,
    arn: String,
    /// The addresses that it leads to, but for those that it does by hand
    addresses: BTreeSet<String>,
}

impl Book {
    /// Takes in a call, and what there is after it.
    pub(super) fn call_of_aws(&mut self, call: AwsDone) {
        self.note_call(&call);
        if call.of_controller && call.action == "DescribeListeners" {
            let balancer = call.parameters.get("LoadBalancerArn").cloned().unwrap_or_default();
            self.cloud.looked.insert(balancer, call.began.into());
        }
        let Some(now) = call.state.clone() else { return };
        self.events += 1;
        let before = std::mem::replace(&mut self.cloud.state, now);
        if call.of_controller {
            self.judge_strangers(&before, &call);
            self.note_closed(&before, call.ended.into());
        } else {
            self.cloud.altered.extend(call.parameters.values().cloned());
        }
        self.note_facts(&before, &call);
        self.note_strangers(&before, call.ended.into());
        if let Some(last) = self.cloud.shown.back_mut() {
            last.until = Some(call.began.into());
        }
        let open = self.open_at_aws();
        self.cloud.shown.push_back(Shown { from: call.ended.into(), until: None, open });
    }

    /// The controller changes nothing of strangers, and leads nobody to what is theirs.
    fn judge_strangers(&mut self, before: &AwsState, call: &AwsDone) {
        let (was, is) = (of_strangers(before), of_strangers(&self.cloud.state));
        for (arn, was) in &was {
            let is = is.get(arn).map_or("gone", String::as_str);
            if is != was && !self.may_go(arn, before, call) {
                self.wrong(format!("foreign: {} changed {arn}, which was\n{was}\nand is\n{is}", call.action));
            }
        }
        let theirs: BTreeSet<String> = is.into_keys().collect();
        let led = |state: &AwsState| -> BTreeSet<Fact> {
            facts(state).into_iter().filter(|(_, to)| theirs.contains(to)).collect()
        };
        for (listener, group) in led(&self.cloud.state).difference(&led(before)) {
            self.wrong(format!("foreign: {} has {listener} lead to {group}, which is a stranger's", call.action));
        }
    }

    /// A load balancer of ours is deleted with all that is on it. Only what was opened
    /// there after the controller had looked may go with it, since no call of AWS
    /// could keep it from that.
    fn may_go(&self, listener: &str, before: &AwsState, call: &AwsDone) -> bool {
        let has = |each: &&AwsBalancer| each.listeners.iter().any(|each| each.arn == *listener);
        let Some(on) = before.balancers.iter().find(has) else { return false };
        let deletes = call.action == "DeleteLoadBalancer" && call.parameters.get("LoadBalancerArn") == Some(&on.arn);
        deletes && self.cloud.made.get(listener) > self.cloud.looked.get(&on.arn)
    }

    /// Notes the listeners that are closed although their claims want them. What the
    /// owner altered is corrected, in any way.
    fn note_closed(&mut self, before: &AwsState, at: Instant) {
        let is_left = |arn: &String| all_listeners(&self.cloud.state).any(|(_, listener)| listener.arn == *arn);
        let altered = |arn: &String| self.cloud.altered.contains(arn);
        let gone = all_listeners(before).filter(|(on, listener)| {
            let any_altered = altered(&on.arn) || altered(&listener.arn) || listener.groups.iter().any(altered);
            self.is_ours(&listener.tags) && !any_altered && !is_left(&listener.arn)
        });
        let closed: Vec<Closed> = gone
            .flat_map(|(on, listener)| {
                let slots = slots(on, transports(&listener.protocol), listener.port);
                slots.into_iter().map(|slot| (slot, listener.arn.clone()))
            })
            .filter_map(|(slot, arn)| {
                let kept = self.kept.get(&slot).filter(|kept| kept.told)?.clone();
                Some(Closed { at, slot, arn, kept })
            })
            .collect();
        self.cloud.closed.extend(closed);
    }

    /// Judges them once all is known that was written before.
    fn judge_closed_at_aws(&mut self, written: Instant) {
        let (certain, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cloud.closed).into_iter().partition(|closed| closed.at <= written);
        self.cloud.closed = later;
        for Closed { slot, arn, kept, .. } in certain {
            if self.kept.get(&slot) == Some(&kept)
                && let Some(wrong) = self.closed_while_kept(&slot, &arn)
            {
                self.wrong(wrong);
            }
        }
    }

    /// Remembers what a stranger did to what is ours, until somebody undoes it.
    fn note_facts(&mut self, before: &AwsState, call: &AwsDone) {
        let (was, is) = (facts(before), facts(&self.cloud.state));
        self.cloud.by_hand.retain(|fact| is.contains(fact));
        if !call.of_controller {
            self.cloud.by_hand.extend(is.difference(&was).cloned());
        }
    }

    /// Remembers the strangers' listeners, and which numbers they ever had on load
    /// balancers of ours. A number is for one listener there, whatever it accepts.
    fn note_strangers(&mut self, before: &AwsState, at: Instant) {
        let was = of_strangers(before);
        let (mut made, mut taken) = (Vec::new(), Vec::new());
        for (on, listener) in all_listeners(&self.cloud.state) {
            if is_foreign(&listener.tags) && !was.contains_key(&listener.arn) {
                made.push((listener.arn.clone(), at));
            }
            if !self.is_ours(&listener.tags) && !is_foreign(&on.tags) {
                taken.extend(slots(on, &["TCP", "UDP"], listener.port));
            }
        }
        self.cloud.made.extend(made);
        self.taken.extend(taken);
    }

    fn is_ours(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(CLUSTER).is_some_and(|id| *id == self.cluster_id) && tags.contains_key(LOAD_BALANCER)
    }

    /// All listeners that bear our tags, each with its slots.
    fn our_listeners(&self) -> impl Iterator<Item = (Vec<Slot>, &AwsListener)> {
        let ours = all_listeners(&self.cloud.state).filter(|(_, listener)| self.is_ours(&listener.tags));
        ours.map(|(on, listener)| (slots(on, transports(&listener.protocol), listener.port), listener))
    }

    /// The slots of listeners that are open now, by whomsoever.
    pub(super) fn slots_at_aws(&self) -> Vec<Slot> {
        self.our_listeners().flat_map(|(slots, _)| slots).collect()
    }

    fn open_at_aws(&self) -> Vec<Open> {
        let by_hand = |fact: Fact| self.cloud.by_hand.contains(&fact);
        let groups: BTreeMap<&String, &Vec<String>> =
            self.cloud.state.groups.iter().map(|group| (&group.arn, &group.targets)).collect();
        // Nothing is known about one whose tags of ownership were changed by hand.
        let judged = self.our_listeners().filter(|(_, listener)| !by_hand(tags(&listener.arn, &listener.tags)));
        let open = judged.map(|(slots, listener)| {
            let led = listener.groups.iter().filter(|group| !by_hand((listener.arn.clone(), group.to_string())));
            let targets = led
                .flat_map(|group| groups.get(group).into_iter().copied().flatten().map(move |target| (group, target)));
            let targets = targets.filter(|(group, target)| !by_hand((group.to_string(), target.to_string())));
            let address = |target: &String| target.rsplit_once(':').map_or("", |(address, _)| address).to_owned();
            Open { slots, arn: listener.arn.clone(), addresses: targets.map(|(_, target)| address(target)).collect() }
        });
        open.collect()
    }

    /// Judges what there was up to now at AWS, where both that and whose slots were
    /// then are known for sure.
    pub(super) fn judge_aws(&mut self, known_until: Instant) {
        let Some(written) = self.clock.seen_all_before(self.revision) else { return };
        let known_until = known_until.min(written);
        self.judge_closed_at_aws(written);
        let mut wrongs = BTreeSet::new();
        while let Some(shown) = self.cloud.shown.front() {
            let until = shown.until.unwrap_or(known_until).min(known_until);
            for open in &shown.open {
                wrongs.extend(open.slots.iter().flat_map(|slot| self.judge_open(open, slot, shown.from, until)));
            }
            if shown.until.is_none_or(|end| end > known_until) {
                break;
            }
            self.cloud.shown.pop_front();
        }
        if let Some(shown) = self.cloud.shown.front_mut() {
            shown.from = shown.from.max(known_until);
        }
        self.wrong_once(wrongs);
    }

    fn judge_open(&self, open: &Open, slot: &Slot, from: Instant, until: Instant) -> Vec<String> {
        if from >= until {
            return Vec::new();
        }
        let Some(stints) = self.certainly(slot, from, until) else {
            return vec![format!("listener: {slot:?} is open ({}), and never was anybody's", open.arn)];
        };
        let mut wrongs = Vec::new();
        for stint in stints {
            if !stint.may_be_open {
                let owners = &stint.owners;
                wrongs.push(format!(
                    "listener: {slot:?} is open ({}), and is neither held nor recorded as given back by {owners:?}",
                    open.arn
                ));
            }
            let owners: Vec<_> = stint.owners.iter().collect();
            wrongs.extend(open.addresses.iter().filter_map(|address| self.judge_address(slot, &owners, address)));
        }
        wrongs
    }

    fn note_call(&mut self, call: &AwsDone) {
        let who = if call.of_controller { "controller" } else { "stranger" };
        self.note_line(&format!("AWS {who} {} {:?}", call.action, call.parameters));
    }
}

fn all_listeners(state: &AwsState) -> impl Iterator<Item = (&AwsBalancer, &AwsListener)> {
    state.balancers.iter().flat_map(|on| on.listeners.iter().map(move |listener| (on, listener)))
}

/// The slots of a port. The class is in a tag of the load balancer, and its index
/// in its name, `slb-<class>-<index>-<hash>`, which cannot be changed: the class'
/// status tells it only later.
fn slots(on: &AwsBalancer, transports: &[&'static str], port: u16) -> Vec<Slot> {
    let index = on.name.rsplit('-').nth(1).and_then(|index| index.parse().ok());
    let (Some(class), Some(index)) = (on.tags.get("sharedlb.dev/class"), index) else { return Vec::new() };
    let slot = |transport: &&'static str| Slot { class: class.clone(), index, transport, port: port.into() };
    transports.iter().map(slot).collect()
}

/// Everything of strangers, by ARN, as text that changes if anything of it does.
fn of_strangers(state: &AwsState) -> BTreeMap<String, String> {
    let balancers = state.balancers.iter().filter(|each| is_foreign(&each.tags));
    let balancers = balancers.map(|each| (each.arn.clone(), format!("{each:?}")));
    let listeners = all_listeners(state).filter(|(_, each)| is_foreign(&each.tags));
    let listeners = listeners.map(|(on, each)| (each.arn.clone(), format!("{each:?} on {}", on.arn)));
    let groups = state.groups.iter().filter(|each| is_foreign(&each.tags));
    balancers.chain(listeners).chain(groups.map(|each| (each.arn.clone(), format!("{each:?}")))).collect()
}

fn facts(state: &AwsState) -> BTreeSet<Fact> {
    let led =
        all_listeners(state).flat_map(|(_, each)| each.groups.iter().map(|group| (each.arn.clone(), group.clone())));
    let targets =
        state.groups.iter().flat_map(|group| group.targets.iter().map(|target| (group.arn.clone(), target.clone())));
    led.chain(targets).chain(all_listeners(state).map(|(_, each)| tags(&each.arn, &each.tags))).collect()
}

fn tags(arn: &str, tags: &BTreeMap<String, String>) -> Fact {
    (arn.to_owned(), format!("{tags:?}"))
}

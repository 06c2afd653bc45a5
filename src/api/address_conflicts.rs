//! Addresses that two classes have. Pure.

use std::net::IpAddr;

use sharedlb_crds::SharedLBClassSpec;

use super::addresses::{first_common, is_listed, recorded};
use super::class::{ClassObject, UpdaterHost};

/// Why the addresses of a class are not free for it, for its author: another class has them,
/// and is older or has a load balancer there.
pub(crate) fn conflict<'a>(class: &ClassObject, all: impl Iterator<Item = &'a ClassObject>) -> Option<String> {
    let spec = class.spec.as_ref().ok()?;
    let with = |other| match &class.updater {
        Some(updater) => conflict_at_host(class, updater, other),
        None if spec.addresses.is_empty() => None,
        None => conflict_with(class, spec, other),
    };
    let others = all.filter(|other| other.meta.key != class.meta.key);
    // By name, so that the message stays the same.
    others.filter_map(|other| Some((&other.meta.key, with(other)?))).min().map(|(_, why)| why)
}

/// Why a class cannot use the host of an updater. Its ports are those of the class alone: with two
/// classes, one would open a port that the other has, and NGINX would refuse both.
fn conflict_at_host(class: &ClassObject, updater: &UpdaterHost, other: &ClassObject) -> Option<String> {
    if age(class) < age(other) {
        // It is the other class that is refused.
        return None;
    }
    let name = &other.meta.key.name;
    if let Some(theirs) = &other.updater {
        return has_host_of(updater, theirs).then(|| {
            format!(
                "provider.httpUpdater: class {name}, which is older, has the same url or address, or one that cannot be \
                 read: one host is for one class"
            )
        });
    }
    let address: IpAddr = updater.address.as_ref()?.parse().ok()?;
    let theirs = other.spec.as_ref().ok()?;
    (other.gives_addresses() && is_listed(&theirs.addresses, address)).then(|| {
        format!("provider.httpUpdater: {address} is also an address of class {name}, which is older: give the host another one")
    })
}

/// Whether two classes may have one host. A name and the addresses that it has are not compared:
/// they change without a change of a class.
fn has_host_of(updater: &UpdaterHost, theirs: &UpdaterHost) -> bool {
    let may_be_same = |own: &Option<String>, theirs: &Option<String>| theirs.is_none() || own == theirs;
    may_be_same(&updater.url, &theirs.url) || may_be_same(&updater.address, &theirs.address)
}

fn age(class: &ClassObject) -> impl Ord {
    (class.meta.created, class.meta.key.clone())
}

fn conflict_with(class: &ClassObject, spec: &SharedLBClassSpec, other: &ClassObject) -> Option<String> {
    if !class.gives_addresses() && !other.gives_addresses() {
        // Other controllers assign them, and know networks that may have the same address,
        // and Services that may share one.
        return None;
    }
    let name = &other.meta.key.name;
    if let Some((address, index)) = in_use(spec, class, other) {
        return Some(format!(
            "spec.addresses: {address} is the address of load balancer {index} of class {name}: remove it from the list"
        ));
    }
    let theirs = other.spec.as_ref().ok()?;
    if age(class) < age(other) || in_use(theirs, other, class).is_some() {
        // It is the other class that is refused.
        return None;
    }
    let common = first_common(&spec.addresses, &theirs.addresses)?;
    Some(format!(
        "spec.addresses: {common} is also an address of class {name}, which is older: remove it from the list of one of the two"
    ))
}

/// An address in the spec of a class that a load balancer of the other class has, with the
/// index of that, if no load balancer of the class itself has it.
fn in_use(spec: &SharedLBClassSpec, class: &ClassObject, other: &ClassObject) -> Option<(IpAddr, u32)> {
    let of = |class: &ClassObject| -> Vec<(IpAddr, u32)> {
        let all = class.status.iter().flat_map(recorded);
        all.flat_map(|(index, addresses)| addresses.into_iter().map(move |address| (address, index))).collect()
    };
    let is_in_spec = |(address, _): &(IpAddr, u32)| is_listed(&spec.addresses, *address);
    let common: Vec<(IpAddr, u32)> = of(other).into_iter().filter(is_in_spec).collect();
    if common.is_empty() {
        return None;
    }
    let own = of(class);
    common.into_iter().filter(|(address, _)| own.iter().all(|(own, _)| own != address)).min()
}

/// Whether a change of a class may change what is [in conflict](conflict) with it.
pub(crate) fn occupy_alike(a: &ClassObject, b: &ClassObject) -> bool {
    fn occupied(class: &ClassObject) -> impl Iterator<Item = (u32, Vec<&str>)> {
        let listed = class.status.iter().flat_map(|status| &status.load_balancers);
        listed.map(|lb| (lb.index, lb.all_addresses().collect()))
    }
    let ranges = |class: &ClassObject| class.spec.as_ref().ok().map(|spec| spec.addresses.clone());
    a.meta.uid == b.meta.uid && ranges(a) == ranges(b) && occupied(a).eq(occupied(b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IPV4: (&str, &str) = ("203.0.113.10", "203.0.113.11");

    /// A class of this age with these ranges, whose load balancers have these addresses.
    fn class(name: &str, day: u8, provider: &str, ranges: &[(&str, &str)], has: &[&[&str]]) -> ClassObject {
        let ranges = ranges.iter().map(|(min, max)| json!({"min": min, "max": max}));
        let listed = has.iter().enumerate().map(|(index, addresses)| json!({"index": index, "addresses": addresses}));
        let object = json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
            "spec": {"provider": {provider: {}}, "addresses": ranges.collect::<Vec<_>>()},
            "status": {"loadBalancers": listed.collect::<Vec<_>>()},
        });
        ClassObject::parse(&serde_json::from_value(object).unwrap())
    }

    fn conflicts(all: &[ClassObject]) -> Vec<Option<String>> {
        all.iter().map(|class| conflict(class, all.iter())).collect()
    }

    #[test]
    fn of_two_classes_with_one_address_the_newer_is_refused() {
        let classes = [
            class("old", 1, "vip", &[("203.0.113.0", "203.0.113.99")], &[]),
            class("new", 2, "vip", &[("203.0.113.90", "203.0.113.199"), ("2001:db8::1", "2001:db8::9")], &[]),
            class("apart", 3, "vip", &[("203.0.113.200", "203.0.113.255")], &[]),
        ];
        let [None, Some(message), None] = &conflicts(&classes)[..] else { panic!("{:?}", conflicts(&classes)) };
        assert!(message.contains("203.0.113.90 is also an address of class old, which is older"), "{message}");
    }

    #[test]
    fn an_address_that_a_load_balancer_has_is_refused_to_all_other_classes_even_if_they_are_older() {
        let wide = ("203.0.113.0", "203.0.113.99");
        let classes = [class("old", 1, "vip", &[wide], &[]), class("new", 2, "vip", &[IPV4], &[&["203.0.113.10"]])];
        let [Some(message), None] = &conflicts(&classes)[..] else { panic!("{:?}", conflicts(&classes)) };
        assert!(message.contains("203.0.113.10 is the address of load balancer 0 of class new"), "{message}");

        let by_its_implementation = class("cloud", 2, "service", &[], &[&["203.0.113.10"]]);
        assert!(conflicts(&[classes[0].clone(), by_its_implementation])[0].is_some());
    }

    #[test]
    fn two_classes_that_both_have_a_load_balancer_at_an_address_are_compared_by_age() {
        let both = [1, 2].map(|day| class(&format!("of-{day}"), day, "vip", &[IPV4], &[&["203.0.113.10"]]));
        let [None, Some(message)] = &conflicts(&both)[..] else { panic!("{:?}", conflicts(&both)) };
        assert!(message.contains("class of-1, which is older"), "{message}");
    }

    #[test]
    fn two_classes_of_other_controllers_may_have_one_address() {
        let classes = [1, 2].map(|day| class(&format!("of-{day}"), day, "service", &[IPV4], &[&["203.0.113.10"]]));
        assert_eq!(conflicts(&classes), [None, None]);
        let mixed = [classes[0].clone(), class("vips", 3, "vip", &[IPV4], &[])];
        assert!(conflicts(&mixed)[1].is_some());
    }

    /// A class of this age for an updater.
    fn of_updater(name: &str, day: u8, url: &str, address: &str) -> ClassObject {
        let object = json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")},
            "spec": {"provider": {"httpUpdater": {"url": url, "address": address}}, "targets": "Node"},
        });
        ClassObject::parse(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn of_two_classes_with_one_host_the_newer_is_refused() {
        let [lb1, lb2] = ["https://lb1/api/v1/lb", "https://lb2/api/v1/lb"];
        let classes = [
            of_updater("old", 1, lb1, "203.0.113.10"),
            of_updater("same-url", 2, lb1, "203.0.113.20"),
            of_updater("same-address", 3, "http://203.0.113.10:3000/api/v1/lb", "203.0.113.10"),
            of_updater("apart", 4, lb2, "lb2.example.com"),
        ];
        let refused: Vec<bool> = conflicts(&classes).iter().map(Option::is_some).collect();
        assert_eq!(refused, [false, true, true, false]);
        let why = conflicts(&classes)[1].clone().unwrap();
        assert!(why.contains("class old, which is older"), "{why}");
    }

    #[test]
    fn spellings_of_one_host_are_one_host() {
        for (url, address) in [
            ("https://LB1.example.com:443/api/v1/lb", "203.0.113.20"),
            ("https://lb1.example.com./api/v1/lb", "203.0.113.20"),
            ("https://other/api/v1/lb", "lb1.example.com"),
        ] {
            let old = of_updater("old", 1, "https://lb1.example.com/api/v1/lb", "lb1.example.com");
            let found = conflicts(&[old, of_updater("new", 2, url, address)]);
            assert!(found[0].is_none() && found[1].is_some(), "{url}, {address}: {found:?}");
        }
    }

    /// An older class of an updater with a spec that this version cannot parse.
    #[test]
    fn the_host_of_a_class_that_cannot_be_parsed_stays_its_own() {
        let unparsable = |updater: serde_json::Value| {
            let object = json!({
                "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
                "metadata": {"name": "old", "uid": "old", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"provider": {"httpUpdater": updater}, "targets": "Moon"},
            });
            let class = ClassObject::parse(&serde_json::from_value(object).unwrap());
            assert!(class.spec.is_err());
            class
        };
        let new = of_updater("new", 2, "https://lb1/api/v1/lb", "203.0.113.10");
        for (updater, refused) in [
            (json!({"url": "https://lb1/api/v1/lb", "address": "203.0.113.99"}), true),
            (json!({"url": "https://lb9/api/v1/lb", "address": "203.0.113.10"}), true),
            (json!({"url": "https://lb9/api/v1/lb", "address": 7}), true),
            (json!({"url": "https://lb9/api/v1/lb", "address": "203.0.113.99"}), false),
        ] {
            let found = conflicts(&[unparsable(updater.clone()), new.clone()]);
            assert_eq!(found[1].is_some(), refused, "{updater}: {found:?}");
        }
    }

    #[test]
    fn a_host_and_a_virtual_address_of_a_class_are_told_apart() {
        let host = of_updater("host", 2, "https://lb1/api/v1/lb", "203.0.113.10");
        let vips = class("vips", 1, "vip", &[IPV4], &[]);
        assert!(conflicts(&[host.clone(), vips.clone()])[0].as_ref().is_some_and(|why| why.contains("class vips")));
        let later = class("vips", 3, "vip", &[IPV4], &[]);
        assert_eq!(conflicts(&[host, later])[0], None);
    }

    #[test]
    fn a_class_that_gets_or_loses_an_address_concerns_the_others() {
        let class_with = |ranges, has| class("a", 1, "vip", ranges, has);
        let before = class_with(&[IPV4], &[&["203.0.113.10"]]);
        assert!(occupy_alike(&before, &class_with(&[IPV4], &[&["203.0.113.10"]])));
        assert!(!occupy_alike(&before, &class_with(&[IPV4], &[])));
        assert!(!occupy_alike(&before, &class_with(&[], &[&["203.0.113.10"]])));
    }
}

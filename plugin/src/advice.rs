//! What helps against the reason of a condition, and who can do it: the words of README.md, which
//! a test compares.

use sharedlb_crds::Reason;

/// What helps against a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    reason: Reason,
    /// Who can act: `team` (the author of the claim), `admin` (the author of the class)
    pub(crate) who: &'static str,
    /// What to do
    pub(crate) what: &'static str,
}

/// What helps against the reason of this name. `None`: it needs no help, or is not known to this
/// version.
pub(crate) fn advice(reason: &str) -> Option<&'static Advice> {
    ALL.iter().find(|advice| advice.reason.as_str() == reason)
}

const fn entry(reason: Reason, who: &'static str, what: &'static str) -> Advice {
    Advice { reason, who, what }
}

const ALL: &[Advice] = &[
    entry(Reason::PortTaken, "team", "Ask for another number, or leave port out to get one assigned"),
    entry(Reason::PortNotAllowed, "team", "Ask for another number, or leave port out"),
    entry(
        Reason::PoolExhausted,
        "team, admin",
        "Delete claims or split this one; raise loadBalancers.max or widen ports.dynamic",
    ),
    entry(Reason::QuotaExceeded, "team, admin", "Delete claims, or wait for the cool-down; raise portsPerNamespace"),
    entry(Reason::NotPermitted, "team, admin", "Choose another class; change allowedNamespaces"),
    entry(
        Reason::Unsupported,
        "team",
        "As the message says: often give TCP and UDP the same numeric targetPort, or choose another class",
    ),
    entry(Reason::AddressUnknown, "team", "Correct or remove address"),
    entry(Reason::NoClass, "team, admin", "Create the claim again with another className; create the class"),
    entry(
        Reason::NoDefaultClass,
        "team, admin",
        "Set className; annotate a class with sharedlb.dev/is-default-class: \"true\"",
    ),
    entry(Reason::NameTaken, "team", "Delete or rename one of the two; remove the finalizer"),
    entry(
        Reason::Rejected,
        "team, admin",
        "As the message says: a class name that cannot exist, a quota, an admission policy, a missing right",
    ),
    entry(Reason::ProviderRefused, "team, admin", "Change what the message names, or ask for another port"),
    entry(Reason::PortInUse, "team, admin", "Ask for another number; remove the foreign listener"),
    entry(Reason::NoRoom, "admin", "Make room, or raise loadBalancers.max"),
    entry(
        Reason::AddressNotAssigned,
        "admin",
        "Look at the object that the message names: is the pool of addresses or a quota used up?",
    ),
    entry(Reason::Throttled, "–", "Wait until the time in the message; if it stays, see --aws-call-rate"),
    entry(
        Reason::Unreachable,
        "admin",
        "Nothing if it passes; else check network, credentials and the provider's status",
    ),
    entry(
        Reason::Pending,
        "–",
        "Wait. If it stays, read the message: a status that cannot be read is corrected or removed by the admin",
    ),
    entry(
        Reason::NoBackends,
        "team",
        "As the message says: start pods, correct selector, targetPort, serviceName or the Service",
    ),
    entry(
        Reason::BackendsLeftOut,
        "team, admin",
        "Nothing, if that part is enough. Else run fewer pods, or create a claim of that load balancer again in \
         another class",
    ),
    entry(Reason::AddressWithoutBackends, "team", "Give the Service both families, or use the other address"),
    entry(
        Reason::LoadBalancerGone,
        "admin",
        "Check the address. An adopted load balancer is not created again: make a class for another one",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const README: &str = include_str!("../../README.md");

    /// The table of reasons: who can act, and what to do. Of two rows about one reason, the first
    /// one is about claims.
    fn readme() -> BTreeMap<String, (String, String)> {
        let mut rows = BTreeMap::new();
        for line in README.lines().filter(|line| line.starts_with("| `")) {
            let columns: Vec<String> = line.trim_matches('|').split(" | ").map(|cell| cell.replace('`', "")).collect();
            if let [reason, _, who, what] = &columns[..] {
                let trimmed = |text: &String| text.trim().to_owned();
                rows.entry(trimmed(reason)).or_insert((trimmed(who), trimmed(what)));
            }
        }
        rows.retain(|reason, (_, what)| !reason.contains(',') && what != "–");
        rows
    }

    #[test]
    fn the_advice_is_that_of_the_readme() {
        let ours: BTreeMap<String, (String, String)> = ALL
            .iter()
            .map(|advice| (advice.reason.to_string(), (advice.who.to_owned(), advice.what.to_owned())))
            .collect();
        assert_eq!(ours, readme());
    }
}

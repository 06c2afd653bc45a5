//! The names of a load balancer's Services.

use std::fmt;
use std::sync::Arc;

use crate::model::{LbName, fnv1a};

/// The hexadecimal digits by which the name of a further Service differs from the load
/// balancer's.
const HASH_LEN: usize = 10;

/// What precedes the counter in the name of a further Service whose hash another one has.
const COUNTER: char = 'x';

/// The name of a Service of a load balancer: the load balancer's own, or that and a hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    load_balancer: LbName,
    name: Arc<str>,
}

impl ServiceName {
    /// The Service with the name of the load balancer.
    pub(crate) fn main(load_balancer: &LbName) -> Self {
        Self { load_balancer: load_balancer.clone(), name: load_balancer.as_str().into() }
    }

    /// The names that a further Service of the load balancer may have, the one that is
    /// preferred first. The hash in them is of this text, and must be the same in every version.
    /// If other texts have the same hash, a counter tells the Services apart.
    pub(crate) fn beside(load_balancer: &LbName, text: &str) -> impl Iterator<Item = Self> + use<> {
        let first = format!("{load_balancer}-{}", hash(text));
        let name = move |counter: u32| match counter {
            0 => first.clone(),
            counter => format!("{first}{COUNTER}{counter}"),
        };
        let load_balancer = load_balancer.clone();
        (0..).map(move |counter| Self { load_balancer: load_balancer.clone(), name: name(counter).into() })
    }

    /// Whether it is one of the names of a further Service with this text.
    pub(crate) fn has_hash_of(&self, text: &str) -> bool {
        let after = self.name.strip_prefix(self.load_balancer.as_str()).and_then(|after| after.strip_prefix('-'));
        after.is_some_and(|after| after.starts_with(&hash(text)))
    }

    /// The Service that an object of this load balancer is or belongs to, by the object's
    /// name, and what follows the Service's name in it.
    pub(super) fn split<'a>(name: &'a str, load_balancer: &LbName) -> Option<(Self, &'a str)> {
        let after = name.strip_prefix(load_balancer.as_str())?;
        if after.is_empty() {
            return Some((Self::main(load_balancer), ""));
        }
        let after = after.strip_prefix('-')?;
        let (first, rest) = after.split_once('-').unwrap_or((after, ""));
        if !is_hash(first) {
            return Some((Self::main(load_balancer), after));
        }
        let name = format!("{load_balancer}-{first}").into();
        Some((Self { load_balancer: load_balancer.clone(), name }, rest))
    }

    /// The load balancer.
    pub(crate) fn load_balancer(&self) -> &LbName {
        &self.load_balancer
    }

    /// Whether it has the name of the load balancer.
    pub(crate) fn is_main(&self) -> bool {
        &*self.name == self.load_balancer.as_str()
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }
}

fn hash(text: &str) -> String {
    format!("{:0HASH_LEN$x}", fnv1a([text.as_bytes()]) >> 24)
}

/// Whether this is a hash, maybe with a counter, and not the number of a port: that follows the
/// load balancer's name in the name of a slice, and is shorter.
fn is_hash(text: &str) -> bool {
    let Some((hash, counter)) = text.split_at_checked(HASH_LEN) else { return false };
    let is_counter = |counter: &str| counter.parse::<u32>().is_ok_and(|counter| counter > 0);
    hash.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        && (counter.is_empty() || counter.strip_prefix(COUNTER).is_some_and(is_counter))
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lb() -> LbName {
        LbName::from_recorded("slb-default-0-44d0a5b833")
    }

    /// The first two names of a further Service.
    fn beside(text: &str) -> Vec<ServiceName> {
        ServiceName::beside(&lb(), text).take(2).collect()
    }

    #[test]
    fn the_hash_in_a_name_is_the_same_in_every_version() {
        // FNV-1a of "foobar" is 85944171f73967e8.
        let expected = ["slb-default-0-44d0a5b833-85944171f7", "slb-default-0-44d0a5b833-85944171f7x1"];
        assert_eq!(beside("foobar").iter().map(ServiceName::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_name_says_of_which_text_its_hash_is() {
        for name in beside("foobar") {
            assert!(name.has_hash_of("foobar") && !name.has_hash_of("foo"), "{name}");
        }
        assert!(!ServiceName::main(&lb()).has_hash_of("foobar"));
    }

    #[test]
    fn the_name_of_a_slice_says_which_service_it_belongs_to() {
        for service in beside("foobar").into_iter().chain([ServiceName::main(&lb())]) {
            let split = |name: &str| {
                let (service, rest) = ServiceName::split(name, &lb())?;
                Some((service, rest.to_owned()))
            };
            assert_eq!(split(service.as_str()), Some((service.clone(), String::new())));
            let slice = format!("{service}-20417-tcp-v4-6379-0");
            assert_eq!(split(&slice), Some((service, "20417-tcp-v4-6379-0".to_owned())));
        }
        assert_eq!(ServiceName::split("slb-default-00-tcp", &lb()), None);
        assert_eq!(ServiceName::split("slb-default-0-44d0a5b8330", &lb()), None);
    }
}

//! The names of a load balancer's Services.

use std::fmt;
use std::sync::Arc;

use crate::model::{LbName, fnv1a};

/// The hexadecimal digits by which the name of a further Service differs from the load
/// balancer's.
const HASH_LEN: usize = 10;

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

    /// A further Service of the load balancer. The hash in its name is of this text, and must
    /// be the same in every version.
    pub(crate) fn beside(load_balancer: &LbName, text: &str) -> Self {
        let hash = fnv1a([text.as_bytes()]) >> 24;
        let name = format!("{load_balancer}-{hash:0HASH_LEN$x}").into();
        Self { load_balancer: load_balancer.clone(), name }
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
        // The number of a port, which follows the name in that of a slice, is shorter.
        let is_hash = first.len() == HASH_LEN && first.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash {
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

    #[test]
    fn the_hash_in_a_name_is_the_same_in_every_version() {
        // FNV-1a of "foobar" is 85944171f73967e8.
        assert_eq!(ServiceName::beside(&lb(), "foobar").as_str(), "slb-default-0-44d0a5b833-85944171f7");
    }

    #[test]
    fn the_name_of_a_slice_says_which_service_it_belongs_to() {
        for service in [ServiceName::main(&lb()), ServiceName::beside(&lb(), "foobar")] {
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

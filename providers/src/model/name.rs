//! Names of load balancers, and the hash in them.

use std::fmt;
use std::hash::Hasher as _;
use std::sync::Arc;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

/// The name of a load balancer: readable, unique among clusters and classes,
/// and at most 32 characters of lower-case letters, digits and hyphens. (32 is
/// the shortest limit there is: `Name` of AWS' CreateLoadBalancer.)
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LbName(Arc<str>);

impl LbName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 32;

    /// `slb-<class>-<index>-<hash>`, the class name cut to fit. The hash is of
    /// the cluster id and the class' uid, so that neither another cluster with
    /// the same class nor a class deleted and created again gets the same name.
    #[must_use]
    pub fn new(class: &str, index: u32, cluster_id: &str, class_uid: &str) -> Self {
        let identity = fnv1a([cluster_id.as_bytes(), class_uid.as_bytes()]);
        // 40 bits are enough to tell clusters and classes apart.
        let tail = format!("-{index}-{:010x}", identity >> 24);
        let class: String = class
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(Self::MAX_LEN - "slb-".len() - tail.len())
            .collect();
        Self(format!("slb-{}{tail}", class.trim_end_matches('-')).into())
    }

    /// Whether a load balancer of this class has the name. Those of a former class, which had
    /// the same name and another uid, do not.
    #[must_use]
    pub fn is_of(&self, class: &str, cluster_id: &str, class_uid: &str) -> bool {
        self.index().is_some_and(|index| *self == Self::new(class, index, cluster_id, class_uid))
    }

    /// A name that was read from where it was recorded.
    #[must_use]
    pub fn from_recorded(name: &str) -> Self {
        Self(name.into())
    }

    /// The index of the load balancer in its class; `None`: the name is of another form.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        self.0.rsplit('-').nth(1)?.parse().ok()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a, 64 bits, over the parts with a zero byte between each two. Names of load
/// balancers and preferred ports are derived from it, so every version must compute the
/// same.
#[must_use]
pub fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = FnvHasher::default();
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 {
            hasher.write(&[0]);
        }
        hasher.write(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_readable_and_never_longer_than_32_characters() {
        assert_eq!(LbName::new("default", 0, "cluster", "uid").as_str(), "slb-default-0-44d0a5b833");
        let long = LbName::new("a-class.with.a-very-long-name-indeed", 999, "cluster", "uid");
        assert!(long.as_str().len() <= LbName::MAX_LEN, "{long}");
        assert!(long.as_str().starts_with("slb-a-class-with-"), "{long}");
    }

    #[test]
    fn the_index_is_read_back_from_a_name() {
        for (class, index) in [("default", 0), ("a-class.with.a-very-long-name-indeed", 999), ("class-7", 12)] {
            assert_eq!(LbName::new(class, index, "cluster", "uid").index(), Some(index));
        }
        assert_eq!(LbName::from_recorded("slb").index(), None);
    }

    #[test]
    fn two_clusters_and_a_class_made_again_get_different_names() {
        let ours = LbName::new("default", 0, "cluster-a", "uid");
        assert_ne!(ours, LbName::new("default", 0, "cluster-b", "uid"));
        assert_ne!(ours, LbName::new("default", 0, "cluster-a", "another-uid"));
    }

    #[test]
    fn a_name_is_of_its_class_and_of_no_former_one() {
        for (class, index) in [("default", 0), ("a-class.with.a-very-long-name-indeed", 999)] {
            let name = LbName::new(class, index, "cluster", "uid");
            assert!(name.is_of(class, "cluster", "uid"), "{name}");
            assert!(!name.is_of(class, "cluster", "former-uid"), "{name}");
        }
        assert!(!LbName::from_recorded("nonsense").is_of("default", "cluster", "uid"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the FNV reference implementation.
        assert_eq!(fnv1a([b"".as_slice()]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([b"a".as_slice()]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a([b"foobar".as_slice()]), 0x8594_4171_f739_67e8);
    }
}

//! Names of labels and annotations, the field manager, and names with a hash.

use std::hash::Hasher as _;

use fnv::FnvHasher;

pub use sharedlb_crds::{
    ALLOWED_HOSTS_ANNOTATION, CLASS_LABEL, CLUSTER_ID_LABEL, FIELD_MANAGER, LOAD_BALANCER_LABEL, MANAGED_BY,
    MANAGED_BY_LABEL,
};

/// Label of an `EndpointSlice`: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of an `EndpointSlice`: the controller that writes it. Kubernetes' own controllers
/// ignore slices with another value than theirs.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The hyphen and the digits of a hash in a name.
const HASH_LEN: usize = 11;

/// A name of at most `max` bytes, which must be 11 or more: `readable`, cut to fit, and a
/// hash of `unique`. The hash is FNV-1a, of which 40 bits tell objects apart; every version
/// must compute the same.
#[must_use]
pub fn hashed(readable: &str, unique: &str, max: usize) -> String {
    let mut hasher = FnvHasher::default();
    hasher.write(unique.as_bytes());
    let readable = &readable[..readable.floor_char_boundary(max - HASH_LEN)];
    format!("{}-{:010x}", readable.trim_end_matches(['-', '.']), hasher.finish() >> 24)
}

/// The name itself if it has at most `max` bytes, else [`hashed`].
#[must_use]
pub fn shortened(name: String, unique: &str, max: usize) -> String {
    if name.len() <= max { name } else { hashed(&name, unique, max) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_hash_is_cut_to_fit_and_is_the_same_in_every_version() {
        // FNV-1a of "foobar" is 85944171f73967e8.
        assert_eq!(hashed("web", "foobar", 63), "web-85944171f7");
        assert_eq!(hashed("web.example.com", "foobar", 15), "web-85944171f7");
        assert_eq!(hashed("wéb", "foobar", 13), "w-85944171f7");
    }

    #[test]
    fn a_name_that_fits_has_no_hash() {
        assert_eq!(shortened("web".to_owned(), "foobar", 14), "web");
        assert_eq!(shortened("x".repeat(15), "foobar", 14), "xxx-85944171f7");
    }
}

//! The table of a fence as the kernel has it, from `nft --json list table`: pure.

use std::collections::HashSet;
use std::num::NonZeroU8;

use serde_json::Value;

/// A table as the kernel has it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Chains, rules and the set. `nft` prints them in its own way, so they are compared with an
    /// earlier listing
    pub(super) definition: Vec<Value>,
    /// The virtual routers that the fence is open for
    pub(super) open: HashSet<NonZeroU8>,
}

impl Listing {
    /// Reads the output of `nft`.
    ///
    /// # Errors
    /// If it is not JSON.
    pub(super) fn parse(output: &str) -> Result<Self, serde_json::Error> {
        let output: Value = serde_json::from_str(output)?;
        let mut listing = Self::default();
        for object in output["nftables"].as_array().into_iter().flatten() {
            listing.add(object.clone());
        }
        Ok(listing)
    }

    fn add(&mut self, mut object: Value) {
        let Some((kind, content)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else { return };
        // It names the version of `nft`.
        if kind == "metainfo" {
            return;
        }
        if let Some(fields) = content.as_object_mut() {
            // Handles are numbers that the kernel counts up.
            fields.remove("handle");
            let elements = fields.remove("elem");
            self.open.extend(elements.iter().filter_map(Value::as_array).flatten().filter_map(router_of));
        }
        self.definition.push(object);
    }
}

/// The number of the virtual router that an element of the set is for.
fn router_of(element: &Value) -> Option<NonZeroU8> {
    u8::try_from(element["elem"]["val"].as_u64()?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(handle: u32, elements: &str) -> Listing {
        let output = format!(
            r#"{{"nftables": [
                {{"metainfo": {{"version": "1.0.6", "json_schema_version": 1}}}},
                {{"set": {{"family": "netdev", "name": "open", "type": "mark", "handle": {handle}{elements}}}}},
                {{"rule": {{"family": "netdev", "chain": "leaving", "handle": {handle}, "expr": [{{"drop": null}}]}}}}
            ]}}"#
        );
        Listing::parse(&output).unwrap()
    }

    #[test]
    fn the_virtual_routers_that_it_is_open_for_are_those_of_the_set() {
        let open =
            listing(4, r#", "elem": [{"elem": {"val": 51, "timeout": 0}}, {"elem": {"val": 52, "timeout": 0}}]"#);
        assert_eq!(open.open, [51, 52].map(|id| NonZeroU8::new(id).unwrap()).into());
        assert_eq!(listing(4, "").open, HashSet::new());
    }

    #[test]
    fn tables_with_the_same_rules_are_equal() {
        let one = listing(4, r#", "elem": [{"elem": {"val": 51, "timeout": 0}}]"#);
        assert_eq!(one.definition, listing(7, "").definition);
        assert_eq!(one.definition.len(), 2);
    }
}

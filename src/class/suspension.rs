//! Why a class gives no new ports. Pure.

use sharedlb_crds::{Reason, SharedLBClassSpec};

use super::render::Unallocated;
use super::state::{Class, ClassSettings};
use crate::api::addresses;
use crate::api::class::{ClassObject, unsupported};

impl Class {
    /// Why the addresses of the class cannot be used: those of its spec, or of its host.
    pub(super) fn refuse_addresses(&self, spec: &SharedLBClassSpec) -> Option<String> {
        addresses::refusal(spec, &self.kept_addresses(spec)).or_else(|| self.address_conflict.clone())
    }

    /// Why the class gives no new ports. `addresses_refused`: why its addresses cannot be used
    pub(super) fn suspension(
        &self,
        class: &ClassObject,
        settings: &ClassSettings,
        addresses_refused: Option<&str>,
    ) -> Option<Unallocated> {
        let name = &class.meta.key.name;
        if let Some(message) = unreadable_spec(class) {
            return Some(Unallocated::new(Reason::Unsupported, message));
        }
        if class.meta.deleting {
            return Some(Unallocated::new(
                Reason::NoClass,
                format!("class {name} is being deleted: choose another class"),
            ));
        }
        if let Some(why) = unsupported(&settings.spec, &settings.provider.capabilities()) {
            return Some(Unallocated::new(Reason::Unsupported, why));
        }
        if let Some(why) = addresses_refused {
            return Some(Unallocated::new(Reason::Unsupported, why));
        }
        let unreadable = |what: String| {
            let message = format!(
                "the status of {what} can't be read, so nothing new is given in class {name}: correct or remove it"
            );
            Some(Unallocated { reason: None, message })
        };
        if class.status.is_err() {
            return unreadable(format!("class {name}"));
        }
        unreadable(format!("SharedLB {}", self.claims.first_unparsable()?))
    }
}

/// Why the spec of a class is not followed: it can't be parsed.
pub(super) fn unreadable_spec(class: &ClassObject) -> Option<String> {
    let error = class.spec.as_ref().err()?;
    Some(format!(
        "the spec of class {} can't be read ({error}): correct it; until then nothing of it is changed",
        class.meta.key.name
    ))
}

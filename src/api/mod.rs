//! Conversions of API objects to the controller's types.

pub(crate) mod address_conflicts;
pub(crate) mod addresses;
pub(crate) mod claim;
pub(crate) mod class;
pub(crate) mod companion_name;
pub(crate) mod target;

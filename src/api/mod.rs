//! Conversions of API objects to the controller's types.

pub mod address_conflicts;
pub mod addresses;
pub mod claim;
pub mod class;
pub mod companion_name;
pub mod target;

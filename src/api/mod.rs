//! API objects as the controller sees them: converted where they come in.

pub mod claim;
pub mod class;
pub mod companion_name;
pub mod target;

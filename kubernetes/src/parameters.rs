//! Parameters of writes: under the field manager of the controller, and only to the object
//! that was read.

use kube::api::{DeleteParams, PatchParams, PostParams, Preconditions};

use crate::ObjectMeta;
use crate::names::FIELD_MANAGER;

/// Those of a create, or of a replace.
#[must_use]
pub fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Those of a JSON patch or a merge patch.
#[must_use]
pub fn patch() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Those of the deletion of this object, whatever its version is now.
#[must_use]
pub fn delete(meta: &ObjectMeta) -> DeleteParams {
    preconditions(Preconditions { uid: Some(meta.uid.to_string()), resource_version: None })
}

/// Those of the deletion of this version of an object.
#[must_use]
pub fn delete_version(meta: &ObjectMeta) -> DeleteParams {
    let resource_version = Some(meta.version.to_string());
    preconditions(Preconditions { uid: Some(meta.uid.to_string()), resource_version })
}

fn preconditions(preconditions: Preconditions) -> DeleteParams {
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

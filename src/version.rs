//! Which build this is.

/// The version, as in `Cargo.toml`.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, or `unknown`: `build.rs` has the rules.
pub(crate) const COMMIT: &str = env!("SHAREDLB_COMMIT");

/// The version, and a line each for the commit and the features.
#[must_use]
pub fn long_version() -> String {
    format!("{VERSION}\ncommit: {COMMIT}\nfeatures: {}", features())
}

/// The optional parts of this build, which are its providers: `aws service`.
pub(crate) fn features() -> String {
    sharedlb_providers::FEATURES.join(" ")
}

//! The manifest for krew: that krew accepts it, and finds in each archive what it names. krew's
//! rules are those of `internal/index/validation` in its repository, and of the naming guide of
//! its index. No network is needed, so nothing is downloaded from the addresses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// The manifest, with the fields that krew knows and no others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: BTreeMap<String, String>,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    version: String,
    homepage: String,
    short_description: String,
    description: String,
    platforms: Vec<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Platform {
    selector: Selector,
    uri: String,
    sha256: String,
    bin: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

const PLATFORMS: [(&str, &str); 5] =
    [("darwin", "amd64"), ("darwin", "arm64"), ("linux", "amd64"), ("linux", "arm64"), ("windows", "amd64")];

/// Runs a script of `deploy/krew`, and returns what it prints.
fn script(name: &str, arguments: &[&str]) -> Result<String, String> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "krew", name].iter().collect();
    let output = Command::new(script).args(arguments).output().expect("the script starts");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A tool of the system.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn archive(folder: &Path, os: &str, arch: &str) -> PathBuf {
    let binary = folder.join("binary");
    std::fs::write(&binary, "stands in for the plugin").expect("the folder is ours");
    let [binary, folder] = [binary.as_path(), folder].map(|path| path.to_str().expect("it is UTF-8"));
    let printed = script("archive", &[binary, os, arch, folder]);
    PathBuf::from(printed.expect("it packs the binary").trim())
}

#[test]
fn the_manifest_names_an_archive_and_its_binary_for_each_platform() {
    let folder = tempfile::tempdir().expect("a folder");
    let archives = PLATFORMS.map(|(os, arch)| archive(folder.path(), os, arch));
    let text = script("manifest", &[folder.path().to_str().expect("it is UTF-8")]).expect("every archive is there");
    let manifest: Manifest = serde_saphyr::from_str(&text).expect("it has krew's fields");
    assert_eq!(manifest.api_version, "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(manifest.kind, "Plugin");
    // `kubectl sharedlb` is how krew runs this name.
    assert_eq!(manifest.metadata, BTreeMap::from([("name".to_owned(), "sharedlb".to_owned())]));
    let spec = manifest.spec;
    assert_eq!(spec.version, concat!("v", env!("CARGO_PKG_VERSION")));
    assert_eq!(spec.homepage, env!("CARGO_PKG_REPOSITORY"));
    assert!(!spec.short_description.contains('\n') && spec.short_description.len() <= 50, "{}", spec.short_description);
    assert!(!spec.description.is_empty());
    assert_eq!(spec.platforms.len(), PLATFORMS.len());
    for ((platform, (os, arch)), archive) in spec.platforms.iter().zip(PLATFORMS).zip(&archives) {
        let labels = &platform.selector.match_labels;
        assert_eq!((labels["os"].as_str(), labels["arch"].as_str(), labels.len()), (os, arch, 2));
        let file = archive.file_name().and_then(|name| name.to_str()).expect("it is UTF-8");
        let release = format!("{}/releases/download/{}/{file}", spec.homepage, spec.version);
        assert_eq!(platform.uri, release);
        let path = archive.to_str().expect("it is UTF-8");
        assert_eq!(run("sha256sum", &[path]).split(' ').next(), Some(platform.sha256.as_str()));
        let packed = run("tar", &["--list", "--gzip", "--file", path]);
        assert_eq!(packed.lines().collect::<Vec<_>>(), ["LICENSE", platform.bin.as_str()]);
        assert_eq!(platform.bin.ends_with(".exe"), os == "windows");
    }
}

#[test]
fn the_same_binary_gives_the_same_archive() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let contents = folders.map(|folder| {
        let archive = archive(folder.path(), "linux", "amd64");
        std::fs::read(archive).expect("it is there")
    });
    assert!(contents[0] == contents[1], "its checksum would change with each build of the release");
}

#[test]
fn a_platform_without_an_archive_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = script("manifest", &[folder.path().to_str().expect("it is UTF-8")]).expect_err("it is empty");
    assert!(error.contains("kubectl-sharedlb-darwin-amd64.tar.gz is missing"), "{error}");
}

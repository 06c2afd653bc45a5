//! Which binaries there are, and where each of them is.
//!
//! `KUBEBUILDER_ASSETS` is looked at first, as envtest does. The rest is built
//! once per machine into the user's cache folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::frr::FRR;
use crate::go_build::{self, Module};
use crate::keepalived::KEEPALIVED;
use crate::lan::CONNTRACK;
use crate::nginx::NGINX;
use crate::prometheus::PROMETHEUS;
use crate::{Parts, packages, python};

/// A binary that the testbed runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Binary {
    Etcd,
    ApiServer,
    Kubectl,
    ControllerManager,
    KubeProxy,
    MetalLb,
    Helm,
}

impl Binary {
    fn wanted(parts: Parts) -> Vec<Self> {
        let mut wanted = Vec::new();
        if parts.api {
            wanted.extend([Self::Etcd, Self::ApiServer, Self::Kubectl]);
        }
        if parts.controller_manager {
            wanted.push(Self::ControllerManager);
        }
        if parts.node {
            wanted.push(Self::KubeProxy);
        }
        if parts.metallb {
            wanted.push(Self::MetalLb);
        }
        if parts.helm {
            wanted.push(Self::Helm);
        }
        wanted
    }

    /// The name of its file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Kubectl => "kubectl",
            Self::ControllerManager => "kube-controller-manager",
            Self::KubeProxy => "kube-proxy",
            Self::MetalLb => "metallb-controller",
            Self::Helm => "helm",
        }
    }

    /// The Go package that it is built from.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::ApiServer => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Self::ControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
            Self::MetalLb => "go.universe.tf/metallb/controller",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
        }
    }
}

/// The files that a cluster is started from.
#[derive(Debug)]
pub(crate) struct Assets {
    binaries: BTreeMap<Binary, PathBuf>,
    metallb_crds: PathBuf,
    prometheus_crds: PathBuf,
    python: Option<PathBuf>,
    google_python: Option<PathBuf>,
    frr: Option<PathBuf>,
    keepalived: Option<PathBuf>,
    nginx: Option<PathBuf>,
    conntrack: Option<PathBuf>,
    prometheus: Option<PathBuf>,
}

impl Assets {
    /// Finds everything that the parts need, building what is missing.
    pub(crate) fn prepare(parts: Parts) -> anyhow::Result<Self> {
        let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let cache = cache_folder()?;
        let control_plane = Module::open(&sources.join("control-plane"), &cache)?;
        let metallb = Module::open(&sources.join("metallb"), &cache)?;
        let helm = Module::open(&sources.join("helm"), &cache)?;
        let prometheus_operator = Module::open(&sources.join("prometheus-operator"), &cache)?;

        let mut binaries = BTreeMap::new();
        let mut missing = Vec::new();
        for binary in Binary::wanted(parts) {
            let module = match binary {
                Binary::MetalLb => &metallb,
                Binary::Helm => &helm,
                _ => &control_plane,
            };
            let path = provided(binary).unwrap_or_else(|| module.built(binary));
            if !path.is_file() {
                missing.push((module, binary));
            }
            binaries.insert(binary, path);
        }
        go_build::build(&missing)?;
        let metallb_crds = metallb.cache.join("crds");
        if parts.metallb && !metallb_crds.is_dir() {
            metallb.copy_folder("go.universe.tf/metallb", "config/crd/bases", &metallb_crds)?;
        }
        let prometheus_crds = prometheus_operator.cache.join("crds");
        if parts.helm && !prometheus_crds.is_dir() {
            let folder = "example/prometheus-operator-crd";
            let package = "github.com/prometheus-operator/prometheus-operator";
            prometheus_operator.copy_folder(package, folder, &prometheus_crds)?;
        }
        let python = parts.aws.then(|| python::prepare(&sources.join("aws-peer"), &cache)).transpose()?;
        let google_python = parts.gcp.then(|| python::prepare(&sources.join("gcp-peer"), &cache)).transpose()?;
        let frr = if parts.frr { FRR.prepare(&cache) } else { None };
        let keepalived = if parts.keepalived { KEEPALIVED.prepare(&cache) } else { None };
        let nginx = if parts.nginx { NGINX.prepare(&cache) } else { None };
        let conntrack = if parts.conntrack { CONNTRACK.prepare(&cache) } else { None };
        let prometheus = if parts.prometheus { PROMETHEUS.prepare(&cache) } else { None };
        Ok(Self {
            binaries,
            metallb_crds,
            prometheus_crds,
            python,
            google_python,
            frr,
            keepalived,
            conntrack,
            nginx,
            prometheus,
        })
    }

    /// Where the binary is.
    pub(crate) fn path(&self, binary: Binary) -> anyhow::Result<&Path> {
        self.binaries
            .get(&binary)
            .map(PathBuf::as_path)
            .with_context(|| format!("{} is not among the testbed's parts", binary.name()))
    }

    /// The folder with MetalLB's CRDs.
    pub(crate) fn metallb_crds(&self) -> &Path {
        &self.metallb_crds
    }

    /// The folder with the CRDs of the Prometheus operator.
    pub(crate) fn prometheus_crds(&self) -> &Path {
        &self.prometheus_crds
    }

    /// The Python that has what the stand-in for AWS needs.
    pub(crate) fn python(&self) -> anyhow::Result<&Path> {
        self.python.as_deref().context("AWS is not among the testbed's parts")
    }

    /// The Python that has Google's client.
    pub(crate) fn google_python(&self) -> anyhow::Result<&Path> {
        self.google_python.as_deref().context("GCP is not among the testbed's parts")
    }

    /// FRR's files; `None`: it is not among the testbed's parts, or could not be unpacked.
    pub(crate) fn frr(&self) -> Option<&Path> {
        self.frr.as_deref()
    }

    /// keepalived's files; `None`: it is not among the testbed's parts, or could not be unpacked.
    pub(crate) fn keepalived(&self) -> Option<&Path> {
        self.keepalived.as_deref()
    }

    /// NGINX' files; `None`: it is not among the testbed's parts, or could not be unpacked.
    pub(crate) fn nginx(&self) -> Option<&Path> {
        self.nginx.as_deref()
    }

    /// conntrack's files; `None`: it is not among the testbed's parts, or could not be unpacked.
    pub(crate) fn conntrack(&self) -> Option<&Path> {
        self.conntrack.as_deref()
    }

    /// Prometheus' files; `None`: it is not among the testbed's parts, or could not be unpacked.
    pub(crate) fn prometheus(&self) -> Option<&Path> {
        self.prometheus.as_deref()
    }

    /// A `PATH` on which kubectl comes first, if it is there.
    pub(crate) fn search_path(&self) -> OsString {
        let mut path = OsString::new();
        if let Some(kubectl) = self.binaries.get(&Binary::Kubectl) {
            path.push(kubectl.parent().unwrap_or(kubectl));
            path.push(":");
        }
        path.push(packages::search_path());
        path
    }
}

fn provided(binary: Binary) -> Option<PathBuf> {
    let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    let path = std::path::absolute(assets.join(binary.name())).ok()?;
    path.is_file().then_some(path)
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if Path::new(&cache).is_absolute() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME says where the built binaries can be kept"),
    };
    let folder = cache.join("sharedlb-testbed");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

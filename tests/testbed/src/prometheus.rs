//! Prometheus and promtool, as [Debian](crate::debian) builds them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use http::Request;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::component::{Component, http_ok};
use crate::control_plane::READY_LIMIT;
use crate::debian::Debian;
use crate::http::send;

/// Of what the package depends on, only libc is needed without its web pages.
pub(crate) const PROMETHEUS: Debian = Debian { name: "Prometheus", packages: &["prometheus"] };

/// Where it listens, on 127.0.0.1.
const PORT: u16 = 9090;

/// A Prometheus that scrapes every second. It ends when this is dropped.
pub struct Prometheus {
    process: Component,
}

impl Cluster {
    /// The path of promtool. `None`: Prometheus could not be unpacked on this machine. Needs
    /// [`prometheus`](crate::Parts::prometheus).
    pub fn promtool(&self) -> Option<PathBuf> {
        self.testbed().assets.prometheus().map(|files| program(files, "promtool"))
    }

    /// Starts a Prometheus that scrapes these addresses. `None`: it could not be unpacked on this
    /// machine. Needs [`prometheus`](crate::Parts::prometheus).
    ///
    /// # Errors
    /// If it does not start.
    pub async fn prometheus(&self, targets: &[SocketAddr]) -> anyhow::Result<Option<Prometheus>> {
        let testbed = self.testbed();
        let Some(files) = testbed.assets.prometheus() else { return Ok(None) };
        let folder = testbed.dir.join("prometheus");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("prometheus.yml");
        let jobs = json!([{"job_name": "sharedlb", "static_configs": [{ "targets": targets }]}]);
        std::fs::write(&config, json!({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}).to_string())?;
        let arguments = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address=127.0.0.1:{PORT}"),
        ];
        let process = Component::of_program("prometheus", &program(files, "prometheus"), &testbed.logs, arguments);
        process.start()?;
        process.until_ready(READY_LIMIT, async || http_ok(PORT, "/-/ready").await).await?;
        Ok(Some(Prometheus { process }))
    }
}

impl Prometheus {
    /// The samples that an expression has now: objects with `metric`, the labels, and `value`.
    ///
    /// # Errors
    /// If it does not answer, or cannot evaluate the expression.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", expression).finish();
        let request = Request::post(format!("http://127.0.0.1:{PORT}/api/v1/query"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)?;
        let answer: Value = serde_json::from_str(send(request).await?.body())?;
        ensure!(answer["status"] == "success", "{expression}: {}", answer["error"]);
        let samples = answer["data"]["result"].as_array().context("an expression has a list of samples")?;
        Ok(samples.clone())
    }

    /// Kills it.
    ///
    /// # Errors
    /// If it had ended by itself.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

fn program(files: &Path, name: &str) -> PathBuf {
    files.join("usr/bin").join(name)
}

//! NGINX with its stream module, as Debian builds it, and the script that reloads it when a file
//! of its streams changes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cluster::Cluster;
use crate::component::Component;
use crate::control_plane::READY_LIMIT;
use crate::debian::{self, Debian};

pub(crate) const NGINX: Debian =
    Debian { name: "nginx", packages: &["nginx", "libnginx-mod-stream", "inotify-tools", "libinotifytools0"] };

/// NGINX in the network namespace of the cluster. It ends when this is dropped.
pub struct Nginx {
    folder: PathBuf,
    _nginx: Component,
    _reloads: Component,
}

impl Nginx {
    /// Where the files of its streams are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Cluster {
    /// Starts NGINX without streams. `None`: it could not be unpacked on this machine. Needs
    /// [`nginx`](crate::Parts::nginx).
    ///
    /// As in the README of nginx-lb-updater, a script reloads it after each change in the folder
    /// of its streams, unless the whole configuration has an error: a bad file has NGINX refuse
    /// all later changes too.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn nginx(&self) -> anyhow::Result<Option<Nginx>> {
        let testbed = self.testbed();
        let Some(files) = testbed.assets.nginx() else { return Ok(None) };
        let place = testbed.dir.join("nginx");
        let folder = place.join("streams.d");
        fs::create_dir_all(&folder)?;
        let (config, pid) = (place.join("nginx.conf"), place.join("nginx.pid"));
        fs::write(
            &config,
            format!(
                "load_module {}/usr/lib/nginx/modules/ngx_stream_module.so;\nuser root root;\ndaemon off;\n\
                 worker_processes 1;\nworker_shutdown_timeout 5s;\npid {};\nerror_log stderr notice;\n\
                 events {{ worker_connections 4096; }}\nstream {{ include {}/*.conf; }}\n",
                files.display(),
                pid.display(),
                folder.display()
            ),
        )?;
        let arguments = ["-e", "stderr", "-p", &place.display().to_string(), "-c", &config.display().to_string()];
        let command = debian::command(files, None, "usr/sbin/nginx", arguments.map(str::to_owned));
        let nginx = component("nginx", &command, &testbed.logs)?;
        nginx.start()?;
        nginx.until_ready(READY_LIMIT, async || Ok(pid.exists().then_some(()))).await?;

        let watch = ["--monitor", "--event", "create,modify,delete", &folder.display().to_string()];
        let watch = debian::command(files, None, "usr/bin/inotifywait", watch.map(str::to_owned));
        let (nginx_command, watch) = (command.join(" "), watch.join(" "));
        let script = format!("{watch} | while read -r _; do {nginx_command} -t && {nginx_command} -s reload; done");
        let shell = ["sh".to_owned(), "-c".to_owned(), script];
        let reloads = component("nginx-reloads", &shell, &testbed.logs)?;
        reloads.start()?;
        let log = testbed.logs.join("nginx-reloads.log");
        reloads
            .until_ready(READY_LIMIT, async || {
                Ok(fs::read_to_string(&log)?.contains("Watches established").then_some(()))
            })
            .await?;
        Ok(Some(Nginx { folder, _nginx: nginx, _reloads: reloads }))
    }
}

fn component(name: &str, command: &[String], logs: &Path) -> anyhow::Result<Component> {
    let (program, arguments) = command.split_first().context("a command")?;
    Ok(Component::of_program(name, Path::new(program), logs, arguments.iter().cloned()))
}

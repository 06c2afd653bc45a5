//! What an administrator gets: the answers, their formats, and exit statuses.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::Reason;
use sharedlb_harness::{Site, Tests};

use crate::world::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("status counts the claims and lists those that are not ready", |world| async move {
            let site = Site::with_pod(&world.cluster, "status", json!({})).await?;
            site.assigned("web").await?;
            let fine = world.plugin(&["status", "-n", "status", "--class", "status"]).await?;
            ensure!(fine.status == Some(0) && fine.stdout.contains("Claims: 1, 0 not ready"), "{fine:?}");
            site.claim("taken", json!([{"port": 99, "targetPort": "http"}])).await?;
            site.change_class(json!({"spec": {"ports": {"requestable": [{"min": 1, "max": 98}]}}})).await?;
            site.claim("outside", json!([{"port": 100, "targetPort": "http"}])).await?;
            site.refused("outside", Reason::PortNotAllowed, &[]).await?;
            let found = world.plugin(&["status", "-n", "status", "--class", "status"]).await?;
            ensure!(found.status == Some(3), "{found:?}");
            let message = "port 100/TCP is outside spec.ports.requestable of class status";
            ensure!(found.stdout.contains("status/outside") && found.stdout.contains(message), "{found:?}");
            Ok(())
        }),
        test.test("ports shows held, free and cooling ports of a load balancer", |world| async move {
            let ranges =
                json!({"ports": {"dynamic": [{"min": 20000, "max": 20009}], "requestable": [{"min": 80, "max": 81}]}});
            let site = Site::with_pod(&world.cluster, "ports", ranges).await?;
            site.claim("old", json!([{"port": 81, "targetPort": "http"}])).await?;
            site.ready("old").await?;
            site.claim("web", json!([{"port": 80, "targetPort": "http"}])).await?;
            site.ready("web").await?;
            site.delete("old").await?;
            site.released("old", 81).await?;
            let report = world.report(&["ports", "--class", "ports"]).await?;
            let ports = report["loadBalancers"][0]["ports"].as_array().cloned().unwrap_or_default();
            let shown: Vec<Value> = ports
                .iter()
                .map(|port| json!([port["first"], port["last"], port["protocol"], port["state"]]))
                .collect();
            let expected = [
                json!([80, 80, "TCP", "held"]),
                json!([80, 81, "UDP", "free"]),
                json!([81, 81, "TCP", "cooling-down"]),
                json!([20000, 20009, "TCP_UDP", "free"]),
            ];
            ensure!(shown == expected, "{report}");
            ensure!(report["unseen"] == json!([]), "{report}");
            Ok(())
        }),
        test.test("who-has says what has a port, and by its exit status whether anything has it", |world| async move {
            let site = Site::with_pod(&world.cluster, "who-has", json!({})).await?;
            site.claim("db", json!([{"port": 5432, "targetPort": "http"}])).await?;
            site.ready("db").await?;
            let found = world.plugin(&["who-has", "5432/tcp", "--class", "who-has"]).await?;
            ensure!(found.status == Some(0) && found.stdout.contains("who-has/db"), "{found:?}");
            let nothing = world.plugin(&["who-has", "5432/udp", "--class", "who-has"]).await?;
            ensure!(nothing.status == Some(3) && nothing.stdout == "nothing has it\n", "{nothing:?}");
            Ok(())
        }),
        test.test(
            "explain says what has a port that is taken, what is free, and what would help",
            |world| async move {
                let one = json!({"loadBalancers": {"max": 1}, "ports": {"requestable": [{"min": 5432, "max": 5433}]}});
                let site = Site::with_pod(&world.cluster, "explain", one).await?;
                site.claim("first", json!([{"port": 5432, "targetPort": "http"}])).await?;
                site.ready("first").await?;
                site.claim("second", json!([{"port": 5432, "targetPort": "http"}])).await?;
                site.refused("second", Reason::PortTaken, &[]).await?;
                let fine = world.plugin(&["explain", "explain/first"]).await?;
                ensure!(fine.status == Some(0) && !fine.stdout.contains("What helps"), "{fine:?}");
                ensure!(fine.stdout.contains("Class: explain (spec.className names it)"), "{fine:?}");
                let found = world.plugin(&["explain", "second", "-n", "explain"]).await?;
                ensure!(found.status == Some(3), "{found:?}");
                for words in [
                    "- 5432/TCP is held by explain/first on load balancer 0\n",
                    "- 5433/TCP is free on load balancer 0, and may be requested\n",
                    "What helps (team): Ask for another number",
                    "class explain may have 1 load balancer: ask for another port",
                ] {
                    ensure!(found.stdout.contains(words), "no {words:?} in {found:?}");
                }
                let report = world.report(&["explain", "explain/second"]).await?;
                let reasons: Vec<_> =
                    report["events"].as_array().into_iter().flatten().map(|event| &event["reason"]).collect();
                ensure!(reasons == ["PortTaken"], "{report}");
                let nothing = world.plugin(&["explain", "explain/third"]).await?;
                ensure!(
                    nothing.status == Some(1) && nothing.stderr.contains("no SharedLB explain/third"),
                    "{nothing:?}"
                );
                Ok(())
            },
        ),
        test.test("kubectl finds the plugin, and JSON and YAML have the same content", |world| async move {
            let json = world.kubectl(&["sharedlb", "version", "-o", "json"]).await?;
            let yaml = world.kubectl(&["sharedlb", "version", "-o", "yaml"]).await?;
            let json: Value = serde_json::from_str(&json.stdout)?;
            let yaml: Value = serde_saphyr::from_str(&yaml.stdout)?;
            ensure!(json == yaml, "{json} is not {yaml}");
            let version = env!("CARGO_PKG_VERSION");
            ensure!(json["plugin"] == version && json["controllers"][0]["version"] == version, "{json}");
            Ok(())
        }),
        test.test("there are no colours where stdout is no terminal", |world| async move {
            let answer = world.plugin(&["status"]).await?;
            ensure!(!answer.stdout.contains('\x1b') && !answer.stderr.contains('\x1b'), "{answer:?}");
            Ok(())
        }),
        test.test("a failure and a wrong command line have exit statuses of their own", |world| async move {
            let failed = world.plugin(&["status", "--context", "nowhere"]).await?;
            ensure!(failed.status == Some(1) && failed.stderr.contains("nowhere"), "{failed:?}");
            let wrong = world.plugin(&["who-has", "x"]).await?;
            ensure!(wrong.status == Some(2) && wrong.stderr.contains("a port is a number"), "{wrong:?}");
            Ok(())
        }),
        test.test("kubectl completes the words of the plugin by its script", |world| async move {
            let script = world.plugin(&["completion", "kubectl"]).await?;
            ensure!(script.stdout.contains("exec kubectl-sharedlb complete -- \"$@\""), "{script:?}");
            let words = world.plugin(&["complete", "--", "who"]).await?;
            ensure!(words.stdout.starts_with("who-has\t") && words.stdout.ends_with("\n:4\n"), "{words:?}");
            let words = world.plugin(&["complete", "--", "ports", "--state", "fo"]).await?;
            ensure!(words.stdout.starts_with("foreign"), "{words:?}");
            for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
                let script = world.plugin(&["completion", shell]).await?;
                ensure!(script.status == Some(0) && script.stdout.contains("who-has"), "{script:?}");
            }
            Ok(())
        }),
    ]
}

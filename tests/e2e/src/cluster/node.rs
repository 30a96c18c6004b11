//! The one node of our own cluster, as whoever stands at the machine sees it: its images, what runs on it, and the real kube-proxy, which gives Services
//! their addresses.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use super::{Cluster, Cut, PODS, folder};
use crate::{
    eventually,
    nginx::free_port,
    parts::{Parts, root},
    process,
};

/// Where pods find the API server, by the certificate that it has.
const API: &str = "https://10.96.0.1";

/// The node. While it is held, Services have addresses that lead somewhere.
pub struct Node {
    /// Its address, which pods reach and this machine has.
    pub address: std::net::IpAddr,
    run: PathBuf,
    programs: PathBuf,
    proxy: Child,
    _api: Cut,
}

impl Node {
    /// The node of a cluster of [`Cluster::with_pods`]; none where `KUBECONFIG` names one, whose nodes are others' machines.
    ///
    /// # Errors
    /// Where kube-proxy does not start.
    pub async fn of(cluster: &Cluster) -> anyhow::Result<Option<Self>> {
        if super::given().is_some() {
            return Ok(None);
        }
        let programs = Parts::get().cluster.clone().context("no Kubernetes")?;
        let run = folder(&programs, PODS)?;
        let node: k8s_openapi::api::core::v1::Node = Api::all(cluster.client.clone()).get("node").await?;
        let addresses = node.status.and_then(|s| s.addresses).unwrap_or_default();
        let address = addresses.iter().find(|a| a.type_ == "InternalIP").context("the node has no address")?;
        let address: std::net::IpAddr = address.address.parse()?;
        // The API server is at loopback, where no pod reaches it: a way leads there from the node's address.
        let api = Cut::between((address, 0).into(), cluster.address()?).await?;
        let subset = json!({
            "addresses": [{"ip": address.to_string()}], "ports": [{"name": "https", "port": api.address().port()}],
        });
        let endpoints =
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes"}, "subsets": [subset]});
        let all: Api<Endpoints> = Api::namespaced(cluster.client.clone(), "default");
        all.patch("kubernetes", &PatchParams::apply("tests").force(), &Patch::Apply(&endpoints)).await?;
        let log = fs::File::create(run.join("kube-proxy.log"))?;
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let proxy = Command::new(programs.join("kube-proxy"))
            .arg("--kubeconfig")
            .arg(run.join("kubeconfig"))
            .args(["--proxy-mode", "iptables", "--hostname-override", "node", "--bind-address", &address.to_string()])
            .args(["--healthz-port", "0", "--metrics-bind-address", &metrics, "--iptables-min-sync-period", "100ms"])
            .args(["--conntrack-max-per-core", "0", "--conntrack-min", "0", "--v", "1"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("kube-proxy")?;
        let node = Self { address, run, programs, proxy, _api: api };
        // Asked as a pod would: that somebody answers there is not enough.
        let mut kubeconfig = cluster.admin()?;
        for entry in kubeconfig["clusters"].as_array_mut().into_iter().flatten() {
            entry["cluster"]["server"] = json!(API);
        }
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        eventually("the API server is at its Service's address", async || client.apiserver_version().await.ok()).await;
        Ok(Some(node))
    }

    /// Puts an image of a program into the node, with the libraries that it needs.
    ///
    /// # Errors
    /// Where it is not taken.
    pub fn load(&self, image: &str, program: &Path) -> anyhow::Result<()> {
        let script = root().join("tests/cluster/image.py");
        let output = Command::new("python3")
            .arg("-B")
            .arg(script)
            .args([&self.programs, &self.run])
            .arg(image)
            .arg(program)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Runs a command in a pod's first container, as `kubectl exec` does.
    ///
    /// # Errors
    /// Where it can't be run; how it ended is in the output.
    pub fn exec(&self, pod: &Pod, command: &[&str]) -> anyhow::Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let id = statuses.and_then(|all| all.first()?.container_id.as_ref()).context("no container")?;
        let id = id.strip_prefix("containerd://").context("not containerd's")?;
        let number = format!("tests-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(self.programs.join("ctr"))
            .arg("--address")
            .arg(self.run.join("containerd.sock"))
            .args(["--namespace", "k8s.io", "tasks", "exec", "--exec-id", &number, id])
            .args(command)
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    }

    /// The processes of a pod by id, with their command lines.
    pub fn processes(&self, pod: &Pod) -> BTreeMap<u32, String> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = ids.filter(|id: &u32| {
            !uid.is_empty() && fs::read_to_string(format!("/proc/{id}/cgroup")).is_ok_and(|text| text.contains(&uid))
        });
        ours.map(|id| (id, process::command(id))).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
        // The rules that it made would lead nowhere.
        let _ = Command::new(self.programs.join("kube-proxy"))
            .arg("--cleanup")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

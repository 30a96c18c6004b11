//! A real Kubernetes: the one that `KUBECONFIG` names, or a small one of our own that all tests of a run share.
//!
//! Ours is etcd and the API server of `tests/cluster/build.sh`, started by whoever needs it first and ended by its supervisor
//! once nobody holds the lock of its folder any more. Each test has a namespace of its own.

mod customs;
mod cut;
mod node;

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, ServiceAccount},
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::parts::{self, Parts};

pub use customs::definitions;
pub use cut::Cut;
pub use node::Node;

/// How long a start may take on a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(180);

/// The end of the folder's name of the one that runs pods.
const PODS: &str = "-pods";

/// A cluster, and a namespace in it that is this test's own.
pub struct Cluster {
    kubeconfig: Kubeconfig,
    /// An administrator's client.
    pub client: Client,
    /// This test's own namespace.
    pub namespace: String,
    /// While it is held, the cluster stays. None where it is not ours.
    _lease: Option<File>,
}

impl Cluster {
    /// The cluster, started where it does not run yet, and a new namespace.
    ///
    /// # Errors
    /// Where there is none and none can be made.
    pub async fn get() -> anyhow::Result<Self> {
        match given() {
            Some(path) => Self::of(Kubeconfig::read_from(Path::new(&path))?, None).await,
            None => Self::ours("").await,
        }
    }

    /// One in which no controller and no node does anything, for tests that play them. None where `KUBECONFIG` names a cluster.
    ///
    /// # Errors
    /// Where none can be made.
    pub async fn without_nodes() -> anyhow::Result<Option<Self>> {
        if given().is_some() { Ok(None) } else { Self::ours("").await.map(Some) }
    }

    /// One of our own, among several.
    async fn ours(which: &'static str) -> anyhow::Result<Self> {
        let (path, lease) = tokio::task::spawn_blocking(move || own(which)).await??;
        Self::of(Kubeconfig::read_from(path)?, Some(lease)).await
    }

    async fn of(kubeconfig: Kubeconfig, lease: Option<File>) -> anyhow::Result<Self> {
        let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed()?.as_millis();
        let namespace = format!("test-{now:x}-{}-{number}", std::process::id());
        let mut cluster = Self { kubeconfig, client, namespace: String::new(), _lease: lease };
        cluster.namespace = cluster.make_namespace(&namespace).await?;
        Ok(cluster)
    }

    /// A cluster that runs pods, and an image with a shell at `/busybox` that is there or can be pulled. Ours is another one than
    /// that of [`Cluster::get`], whose tests play controllers and nodes themselves.
    ///
    /// # Errors
    /// Where this machine runs none.
    pub async fn with_pods() -> anyhow::Result<(Self, &'static str)> {
        if given().is_some() {
            return Ok((Self::get().await?, "docker.io/library/busybox:1.36-musl"));
        }
        let cluster = Self::ours(PODS).await?;
        let programs = Parts::get().cluster.as_ref().context("no Kubernetes")?;
        let run = folder(programs, PODS)?;
        fs::write(run.join("want-pods"), "")?;
        let until = tokio::time::Instant::now() + PATIENCE;
        while !run.join("pods").exists() {
            if let Ok(why) = fs::read_to_string(run.join("no-pods")).or_else(|_| fs::read_to_string(run.join("failed")))
            {
                bail!("the cluster runs no pods: {why}");
            }
            ensure!(tokio::time::Instant::now() < until, "no node is ready; see {}", run.join("log").display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((cluster, "portcullis.test/busybox:1"))
    }

    /// Another namespace.
    ///
    /// # Errors
    /// Where it can't be made.
    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<String> {
        let made = Namespace { metadata: named(name), ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &made).await?;
        Ok(name.to_owned())
    }

    /// Objects of a kind in this test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a service account, gives it these rights in this test's namespace, and writes a kubeconfig that speaks as it, with
    /// a token that the cluster made for it. Answers its path.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn account(&self, name: &str, rights: Value, home: &Path) -> anyhow::Result<PathBuf> {
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        self.api::<ServiceAccount>().create(&PostParams::default(), &account).await?;
        self.grant(name, rights).await?;
        let token = self.token(name, &[]).await?;
        let path = home.join(format!("kubeconfig-{name}"));
        fs::write(&path, self.config_of(&token, None)?.to_string())?;
        Ok(path)
    }

    /// Gives a service account rights in this test's namespace; those that it had are taken away.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn grant(&self, name: &str, rights: Value) -> anyhow::Result<()> {
        let rules: Vec<PolicyRule> = serde_json::from_value(rights)?;
        let role = Role { metadata: named(name), rules: Some(rules) };
        let roles = self.api::<Role>();
        if roles.get_opt(name).await?.is_some() {
            roles.delete(name, &DeleteParams::default()).await?;
        }
        roles.create(&PostParams::default(), &role).await?;
        let bindings = self.api::<RoleBinding>();
        if bindings.get_opt(name).await?.is_none() {
            let subject = Subject {
                kind: "ServiceAccount".into(),
                name: name.into(),
                namespace: Some(self.namespace.clone()),
                ..Subject::default()
            };
            let role_ref =
                RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: name.into() };
            let binding = RoleBinding { metadata: named(name), role_ref, subjects: Some(vec![subject]) };
            bindings.create(&PostParams::default(), &binding).await?;
        }
        Ok(())
    }

    /// A token of a service account, made by the cluster; for the API server itself where no audience is named.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn token(&self, account: &str, audiences: &[&str]) -> anyhow::Result<String> {
        let spec = TokenRequestSpec {
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts = self.api::<ServiceAccount>();
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        Ok(made.status.context("no token")?.token)
    }

    /// A kubeconfig that speaks with a token, by way of another address where one is given.
    ///
    /// # Errors
    /// Where the administrator's names no cluster.
    pub fn config_of(&self, token: &str, by_way_of: Option<std::net::SocketAddr>) -> anyhow::Result<Value> {
        let mut cluster = serde_json::to_value(self.entry()?)?;
        if let Some(address) = by_way_of {
            let name = url::Url::parse(&self.server()?)?.host_str().map(str::to_owned);
            cluster["cluster"]["server"] = json!(format!("https://{address}"));
            cluster["cluster"]["tls-server-name"] = json!(name);
        }
        cluster["name"] = json!("it");
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it", "clusters": [cluster],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": self.namespace}}],
        }))
    }

    /// An administrator's kubeconfig.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn admin(&self) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(&self.kubeconfig)?)
    }

    /// The API server's URL.
    ///
    /// # Errors
    /// Where the kubeconfig names none.
    pub fn server(&self) -> anyhow::Result<String> {
        self.entry()?.cluster.as_ref().and_then(|c| c.server.clone()).context("no server in the kubeconfig")
    }

    /// The API server's address, to be reached through something that can be cut.
    ///
    /// # Errors
    /// Where the kubeconfig names none.
    pub fn address(&self) -> anyhow::Result<String> {
        let url = url::Url::parse(&self.server()?)?;
        let host = url.host_str().context("no host")?;
        Ok(format!("{host}:{}", url.port_or_known_default().context("no port")?))
    }

    fn entry(&self) -> anyhow::Result<&kube::config::NamedCluster> {
        let config = &self.kubeconfig;
        let current = config.current_context.as_ref();
        let context = config.contexts.iter().find(|c| Some(&c.name) == current).and_then(|c| c.context.as_ref());
        let name = context.map(|c| &c.cluster).context("the kubeconfig has no current context")?;
        config.clusters.iter().find(|c| c.name == *name).context("the kubeconfig has no cluster")
    }
}

/// Metadata with a name.
pub fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// A Secret with these values.
pub fn secret(name: &str, values: &[(&str, &str)]) -> k8s_openapi::api::core::v1::Secret {
    let values: BTreeMap<String, String> =
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    k8s_openapi::api::core::v1::Secret { metadata: named(name), string_data: Some(values), ..Default::default() }
}

/// Our own cluster: its kubeconfig, and what keeps it.
fn own(which: &str) -> anyhow::Result<(PathBuf, File)> {
    let programs = Parts::get().cluster.clone();
    let programs = programs.context("no Kubernetes: set KUBECONFIG, or run `cargo xtask setup` on Debian 12")?;
    let run = folder(&programs, which)?;
    let open = |name: &str| File::options().create(true).append(true).open(run.join(name));
    let lease = open("users")?;
    // Waits where one is just ending.
    lease.lock_shared()?;
    let starting = open("starting")?;
    starting.lock()?;
    let supervisor = open("supervisor")?;
    let until = std::time::Instant::now() + PATIENCE;
    if supervisor.try_lock().is_ok() {
        supervisor.unlock()?;
        let _ = fs::remove_file(run.join("failed"));
        let script = parts::root().join("tests/cluster/supervise.py");
        let status = Command::new("python3").arg("-B").arg(script).arg(&programs).arg(&run).status()?;
        ensure!(status.success(), "the supervisor does not start: {status}");
    }
    loop {
        // One that was killed may have left its mark: it counts only while somebody holds the lock.
        let alive = supervisor.try_lock().map(|()| supervisor.unlock()).is_err();
        if alive && run.join("ready").exists() {
            return Ok((run.join("kubeconfig"), lease));
        }
        if let Ok(why) = fs::read_to_string(run.join("failed")) {
            let log = fs::read_to_string(run.join("log")).unwrap_or_default();
            let end = log.len().saturating_sub(4000);
            bail!("the cluster does not start: {why}\n{}", log.get(end..).unwrap_or_default());
        }
        ensure!(std::time::Instant::now() < until, "the cluster does not start; see {}", run.join("log").display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The cluster that `KUBECONFIG` names.
fn given() -> Option<std::ffi::OsString> {
    env::var_os("KUBECONFIG").filter(|v| !v.is_empty())
}

/// Where it lives: one for each checkout, since custom resource definitions are everybody's.
fn folder(programs: &Path, which: &str) -> anyhow::Result<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(parts::root().as_os_str().as_encoded_bytes());
    hash.update(programs.as_os_str().as_encoded_bytes());
    let word: String = hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect();
    let me = rustix::process::getuid().as_raw();
    let run = env::temp_dir().join(format!("portcullis-cluster-{me}-{word}{which}"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&run)?;
    ensure!(fs::metadata(&run)?.uid() == me, "{} is somebody else's", run.display());
    Ok(run)
}

//! What images start, asked of their registries: once for each, in the background, within bounds, and with the login that the definition has.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use portcullis_cluster::Servers;
use portcullis_model::{
    Name, Secret,
    oci::Reference,
    spec::{Kubernetes, PullLogin, PullSecret},
};
use portcullis_orchestrator::Startups;
use portcullis_outbound::Client;
use portcullis_package::{Credentials, Registry, RegistrySetting, Rules, image};
use portcullis_workload::Startup;
use tokio::sync::{Semaphore, watch};

/// The most images that are remembered, of all tenants and of one. What is beyond that is not known.
const MAX_IMAGES: usize = 4_096;
const MAX_OF_ONE: usize = 512;
/// An image that nobody has wanted for so long makes room for others.
const UNUSED: Duration = Duration::from_secs(3_600);
/// How many registries are asked at once.
const AT_ONCE: usize = 8;
/// How soon a registry that did not answer is asked again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Whose image: another tenant may know it only by a login of its own.
type Key = (Name, String);

struct Entry {
    known: Known,
    /// When somebody wanted to know it last.
    wanted: Instant,
}

enum Known {
    Asking,
    Is(Startup),
    Failed { why: String, again: Instant, tries: u32 },
}

/// Asks registries, and remembers what they said.
pub struct Asked(Arc<Inner>);

struct Inner {
    client: Arc<Client>,
    rules: Rules,
    known: Mutex<HashMap<Key, Entry>>,
    changes: watch::Sender<u64>,
    places: Semaphore,
}

impl Asked {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// Which of the settings makes no sense.
    pub fn new(client: Arc<Client>, servers: &Servers) -> Result<Self, String> {
        let registries: Vec<RegistrySetting> = (servers.registries.iter())
            .map(|r| RegistrySetting { host: r.host.clone(), private: r.private, plain_http: r.plain_http })
            .collect();
        Ok(Self(Arc::new(Inner {
            client,
            rules: Rules::of_setting("kubernetes.servers.registries", &registries)?,
            known: Mutex::default(),
            changes: watch::Sender::new(0),
            places: Semaphore::new(AT_ONCE),
        })))
    }
}

impl Startups for Asked {
    fn of(&self, tenant: &Name, spec: &Kubernetes, passwords: &[Secret]) -> Result<Startup, String> {
        let key = (tenant.clone(), spec.image.clone());
        let now = Instant::now();
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = match all.get_mut(&key) {
            Some(entry) => {
                entry.wanted = now;
                match &entry.known {
                    Known::Is(startup) => return Ok(startup.clone()),
                    Known::Asking => return Err(unknown("its registry is being asked")),
                    Known::Failed { why, again, .. } if *again > now => return Err(unknown(why)),
                    Known::Failed { tries, .. } => *tries,
                }
            }
            None => 0,
        };
        let reference = image(&spec.image).map_err(|why| unknown(&why.to_string()))?;
        if !make_room(&mut all, &key, now) {
            return Err(unknown("too many images are asked about"));
        }
        all.insert(key.clone(), Entry { known: Known::Asking, wanted: now });
        let login = login(spec, &reference, passwords);
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move { inner.find_out(key, &reference, login, tries).await });
        Err(unknown("its registry is being asked"))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}

impl Inner {
    async fn find_out(&self, key: Key, reference: &Reference, login: Option<Credentials>, tries: u32) {
        let asked = async {
            let _place = self.places.acquire().await;
            let mut registry = Registry::new(Arc::clone(&self.client), &self.rules, reference, login)?;
            registry.startup(reference, architecture()).await
        };
        let (found, wait) = match asked.await {
            Ok(startup) => {
                tracing::info!(image = key.1, entrypoint = ?startup.entrypoint, command = ?startup.command, "what an image starts was found out");
                (Known::Is(Startup { entrypoint: startup.entrypoint, command: startup.command }), None)
            }
            Err(error) => {
                let wait = AGAIN.0.saturating_mul(1 << tries.min(10)).min(AGAIN.1);
                tracing::warn!(image = key.1, %error, "what an image starts could not be found out; it is asked again");
                let again = Instant::now() + wait;
                (Known::Failed { why: error.to_string(), again, tries: tries.saturating_add(1) }, Some(wait))
            }
        };
        let wanted = Instant::now();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Entry { known: found, wanted });
        let tell = || self.changes.send_modify(|count| *count = count.wrapping_add(1));
        tell();
        if let Some(wait) = wait {
            // Whoever still wants to know asks then.
            tokio::time::sleep(wait).await;
            tell();
        }
    }
}

/// Whether there is room for one more image of this tenant, once what nobody wants any more is gone. One tenant's images never take the
/// place of another's that are in use.
fn make_room(all: &mut HashMap<Key, Entry>, key: &Key, now: Instant) -> bool {
    let full = |all: &HashMap<Key, Entry>| {
        !all.contains_key(key)
            && (all.len() >= MAX_IMAGES || all.keys().filter(|(tenant, _)| *tenant == key.0).count() >= MAX_OF_ONE)
    };
    if full(all) {
        all.retain(|_, e| matches!(e.known, Known::Asking) || now.saturating_duration_since(e.wanted) < UNUSED);
    }
    !full(all)
}

fn unknown(why: &str) -> String {
    format!("what the image starts is not known ({why}): write `kubernetes.command`, or wait where that changes")
}

/// The login for the image's registry.
fn login(spec: &Kubernetes, image: &Reference, passwords: &[Secret]) -> Option<Credentials> {
    let logins = spec.image_pull_secrets.iter().filter_map(|secret| match secret {
        PullSecret::Login(login) => Some(login),
        PullSecret::Existing(_) => None,
    });
    let is_its = |login: &PullLogin| {
        // As container runtimes read them: some are URLs.
        let named = login.registry.trim_start_matches("https://").trim_start_matches("http://");
        let host = named.split('/').next().unwrap_or_default();
        host == image.host() || (image.host() == "docker.io" && host == "index.docker.io")
    };
    let (login, password) = logins.zip(passwords).find(|(login, _)| is_its(login))?;
    Some(Credentials { username: Some(login.username.clone()), password: password.clone() })
}

/// This machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_goes_to_its_own_registry_only() {
        let spec: Kubernetes = serde_json::from_value(serde_json::json!({
            "image": "x", "imagePullSecrets": [
                {"existing": "theirs"},
                {"login": {"registry": "registry.example", "username": "a", "password": {"env": "A"}}},
                {"login": {"registry": "https://index.docker.io/v1/", "username": "b", "password": {"env": "B"}}},
            ],
        }))
        .unwrap();
        let passwords = [Secret::new("1"), Secret::new("2")];
        let who = |name: &str| {
            let found = login(&spec, &image(name).unwrap(), &passwords)?;
            Some((found.username.unwrap(), found.password.is_in(b"1"), found.password.is_in(b"2")))
        };
        assert_eq!(who("registry.example/x:1"), Some(("a".into(), true, false)));
        assert_eq!(who("busybox"), Some(("b".into(), false, true)));
        assert_eq!(who("registry.example:5000/x"), None);
        assert_eq!(who("evil.example/registry.example/x"), None);
    }

    #[test]
    fn one_tenants_images_leave_room_for_anothers_and_unused_ones_go() {
        let (mut all, now) = (HashMap::new(), Instant::now());
        let key = |tenant: &str, n: usize| (tenant.parse::<Name>().unwrap(), format!("image{n}"));
        for n in 0..MAX_OF_ONE {
            assert!(make_room(&mut all, &key("acme", n), now));
            all.insert(key("acme", n), Entry { known: Known::Is(Startup::default()), wanted: now });
        }
        assert!(!make_room(&mut all, &key("acme", MAX_OF_ONE), now), "all of them are in use");
        assert!(make_room(&mut all, &key("acme", 0), now), "asking again takes no more room");
        assert!(make_room(&mut all, &key("globex", 0), now));
        all.get_mut(&key("acme", 7)).unwrap().wanted = now;
        assert!(make_room(&mut all, &key("acme", MAX_OF_ONE), now + UNUSED));
        assert!(all.is_empty(), "nobody wanted them for an hour");
    }
}

//! Registries that redirect, are silent, or never end.

use portcullis_model::{Secret, Span, oci::Digest};
use portcullis_package::{Credentials, Need, PackageError, PackageSettings, layout};
use portcullis_telemetry::Metrics;

use crate::fake::{COMPONENT, Fake, Route, packages, with};

struct Bench {
    dir: tempfile::TempDir,
    fake: Fake,
    digest: Digest,
    blob: String,
}

impl Bench {
    async fn new() -> Self {
        let fake = Fake::start().await;
        let (digest, artifact) = fake.offer(COMPONENT);
        let layer = layout::component(&artifact.manifest).unwrap();
        let blob = fake.path(&format!("blobs/{}", layer.digest));
        Self { dir: tempfile::tempdir().unwrap(), fake, digest, blob }
    }

    fn leads_to(&self, place: &str) {
        self.fake.route(&self.blob, Route::Says(307, vec![("Location", place.to_owned())], Vec::new()));
    }

    async fn fetch(&self, login: Option<Credentials>) -> Result<(), String> {
        let fresh = tempfile::tempdir_in(&self.dir).unwrap();
        let packages = packages(fresh.path(), None, &Metrics::new());
        packages.component(&self.fake.oci(&self.digest), login).await.map(|_| ()).map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn a_redirect_leads_to_no_address_that_the_registry_could_not_have() {
    let bench = Bench::new().await;
    for place in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
    ] {
        bench.leads_to(place);
        let refused = bench.fetch(None).await.unwrap_err();
        assert!(refused.contains("registry 127.0.0.1"), "{place}: {refused}");
    }
    bench.leads_to(&bench.blob);
    assert!(bench.fetch(None).await.unwrap_err().contains("more than three times"));
}

#[tokio::test]
async fn a_redirect_takes_no_login_along() {
    let bench = Bench::new().await;
    let store = Fake::start().await;
    store.body("/store", COMPONENT);
    bench.leads_to(&format!("http://{}/store", store.address));
    let manifest = bench.fake.path(&format!("manifests/{}", bench.digest));
    let artifact = layout::Artifact::of(COMPONENT, Default::default()).unwrap();
    bench.fake.route(
        &manifest,
        Route::Guarded("Bearer own".into(), "Bearer realm=\"https://unused.example/\"".into(), artifact.manifest),
    );
    bench.fetch(Some(Credentials { username: None, password: Secret::new("own") })).await.unwrap();
    let at_blob = bench.fake.asked().into_iter().find(|(path, _)| *path == bench.blob).unwrap();
    assert_eq!(at_blob.1.as_deref(), Some("Bearer own"));
    assert_eq!(store.asked(), [("/store".to_owned(), None)]);
}

#[tokio::test]
async fn a_token_is_fetched_of_no_address_that_the_registry_could_not_have() {
    let bench = Bench::new().await;
    let manifest = bench.fake.path(&format!("manifests/{}", bench.digest));
    for realm in
        ["http://169.254.169.254/token", "https://169.254.169.254/token", "http://localhost:1/token", "nowhere"]
    {
        let challenge = format!("Bearer realm=\"{realm}\"");
        bench.fake.route(&manifest, Route::Guarded("never".into(), challenge, Vec::new()));
        let login = Credentials { username: Some("ci".into()), password: Secret::new("hunter2") };
        let refused = bench.fetch(Some(login)).await.unwrap_err();
        assert!(refused.contains("where nobody follows"), "{realm}: {refused}");
    }
    assert!(bench.fake.asked().iter().all(|(_, authorization)| authorization.is_none()));
}

#[tokio::test]
async fn what_never_ends_ends_at_its_size() {
    let bench = Bench::new().await;
    bench.fake.route(&bench.blob, Route::Endless);
    assert!(bench.fetch(None).await.unwrap_err().contains("the component has more than 8 bytes"));
    bench.fake.route(&bench.fake.path(&format!("manifests/{}", bench.digest)), Route::Endless);
    assert!(bench.fetch(None).await.unwrap_err().contains("the manifest has more than"));
}

#[tokio::test]
async fn a_silent_registry_holds_nobody_up() {
    let bench = Bench::new().await;
    bench.fake.route(&bench.blob, Route::Silent);
    let settings = PackageSettings { signatures: Need::None, wait: Span::millis(20), ..PackageSettings::default() };
    let packages = with(bench.dir.path(), &settings, &Metrics::new());
    let oci = bench.fake.oci(&bench.digest);
    for _ in 0..3 {
        let pending = packages.component(&oci, None).await.unwrap_err();
        assert!(matches!(pending, PackageError::Pending(_)), "{pending}");
    }
    // It is asked once, however often somebody wants to know.
    let asked = bench.fake.asked().into_iter().filter(|(path, _)| path.contains("manifests")).count();
    assert_eq!(asked, 1);
}

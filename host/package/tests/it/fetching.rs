//! What is fetched, believed and kept.

use portcullis_model::{Secret, oci::Digest};
use portcullis_package::{Credentials, PackageError, PrivateKey};
use portcullis_telemetry::Metrics;

use crate::fake::{COMPONENT, Fake, Route, packages};

#[tokio::test]
async fn a_signed_component_is_fetched_once_and_served_without_its_registry() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let key = PrivateKey::generate().unwrap();
    let fake = Fake::start().await;
    let (digest, _) = fake.offer(COMPONENT);
    fake.sign(&digest, &key);
    let oci = fake.oci(&digest);
    let first = packages(dir.path(), Some(&key), &metrics).component(&oci, None).await.unwrap();
    assert_eq!(&*first.component, COMPONENT);
    assert_eq!((&first.digest, &*first.signer.unwrap().name), (&digest, "platform"));
    let asked = fake.asked().len();
    drop(fake);
    // The next start, in a cluster that has lost its registry.
    let again = packages(dir.path(), Some(&key), &metrics);
    for _ in 0..2 {
        assert_eq!(&*again.component(&oci, None).await.unwrap().component, COMPONENT);
    }
    assert!(asked > 2);
    let text = metrics.encode();
    assert!(text.contains("portcullis_plugin_fetches_total{outcome=\"fetched\"} 1"), "{text}");
    assert!(text.contains("portcullis_plugin_fetches_total{outcome=\"kept\"} 1"), "{text}");
    assert!(text.contains("portcullis_plugin_disk_bytes{what=\"components\"}"), "{text}");
}

#[tokio::test]
async fn a_key_that_is_not_trusted_any_more_stops_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let (old, new) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let fake = Fake::start().await;
    let (digest, _) = fake.offer(COMPONENT);
    fake.sign(&digest, &old);
    let oci = fake.oci(&digest);
    packages(dir.path(), Some(&old), &metrics).component(&oci, None).await.unwrap();
    let rotated = packages(dir.path(), Some(&new), &metrics);
    let refused = rotated.component(&oci, None).await.unwrap_err();
    assert!(matches!(&refused, PackageError::WrongKey { keys, .. } if keys == "platform"), "{refused}");
    // Signed again, it serves again, with nothing but the signature fetched.
    fake.sign(&digest, &new);
    assert!(rotated.component(&oci, None).await.is_ok());
}

#[tokio::test]
async fn unsigned_altered_and_wrongly_signed_are_refused_saying_so() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let fake = Fake::start().await;
    let (digest, artifact) = fake.offer(COMPONENT);
    let oci = fake.oci(&digest);
    let packages = packages(dir.path(), Some(&key), &metrics);
    let refused = async || packages.component(&oci, None).await.unwrap_err();

    assert!(matches!(refused().await, PackageError::Unsigned(_)));
    fake.sign(&digest, &other);
    assert!(matches!(refused().await, PackageError::WrongKey { .. }));
    // What a trusted key signed is not this.
    let payload_of_another = Digest::of([7; 32]);
    fake.sign(&payload_of_another, &key);
    let theirs = fake.path(&format!("manifests/sha256-{}.sig", payload_of_another.hex()));
    let ours = fake.path(&format!("manifests/sha256-{}.sig", digest.hex()));
    fake.copy(&theirs, &ours);
    assert!(matches!(refused().await, PackageError::SignedOther(_)));

    fake.sign(&digest, &key);
    let layer = portcullis_package::layout::component(&artifact.manifest).unwrap();
    let blob = fake.path(&format!("blobs/{}", layer.digest));
    let mut altered = COMPONENT.to_vec();
    altered[4] ^= 1;
    fake.body(&blob, &altered);
    assert!(matches!(refused().await, PackageError::Altered { what: "the component", .. }));
    fake.body(&blob, COMPONENT);
    let manifest = fake.path(&format!("manifests/{digest}"));
    fake.body(&manifest, &[&artifact.manifest[..], b" "].concat());
    assert!(matches!(refused().await, PackageError::Altered { what: "the manifest", .. }));
    fake.body(&manifest, &artifact.manifest);
    assert!(packages.component(&oci, None).await.is_ok());

    let text = metrics.encode();
    for (outcome, count) in [("unsigned", 1), ("wrong-key", 1), ("altered", 3), ("verified", 1)] {
        let line = format!("portcullis_plugin_signatures_total{{outcome=\"{outcome}\"}} {count}");
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_login_goes_where_the_registry_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start().await;
    let (digest, artifact) = fake.offer(COMPONENT);
    let manifest = fake.path(&format!("manifests/{digest}"));
    let login = || Some(Credentials { username: Some("ci".into()), password: Secret::new("hunter2") });
    let basic = "Basic Y2k6aHVudGVyMg==";
    let fetch = async |credentials| {
        let fresh = tempfile::tempdir_in(&dir).unwrap();
        packages(fresh.path(), None, &Metrics::new()).component(&fake.oci(&digest), credentials).await
    };

    fake.route(&manifest, Route::Guarded(basic.into(), "Basic realm=\"x\"".into(), artifact.manifest.clone()));
    let refused = fetch(None).await.unwrap_err().to_string();
    assert!(refused.contains("no login"), "{refused}");
    fetch(login()).await.unwrap();
    assert_eq!(fake.asked()[0], (manifest.clone(), None), "nothing is sent before it is asked for");

    // A token, of an endpoint that the registry names.
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"registry\"", fake.address);
    fake.route(&manifest, Route::Guarded("Bearer abc".into(), realm, artifact.manifest));
    fake.body("/token", br#"{"token":"abc"}"#);
    fetch(login()).await.unwrap();
    let token = fake.asked().into_iter().find(|(path, _)| path.starts_with("/token")).unwrap();
    assert_eq!(token.1.as_deref(), Some(basic));
    assert!(
        token.0.contains("service=registry") && token.0.contains("scope=repository%3Ateam%2Fplugin%3Apull"),
        "{}",
        token.0
    );
}

//! Images that a cluster pulls: made of single static programs, and pushed to a real registry (OCI image and distribution specifications
//! 1.1), since nothing here builds them otherwise.

use std::path::Path;

use anyhow::{Context, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    http,
    registry::{PASSWORD, Registry, USER},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The most bytes of a file that the header of an archive can say.
const MOST: usize = 1 << 32;

impl Registry {
    /// Pushes an image of one program at `/NAME`, its file's name, with this part of the configuration (`Entrypoint`, `Cmd`, `Env`). Answers its name.
    ///
    /// # Errors
    /// Where the program can't be read, or the registry does not take it.
    pub async fn push(&self, name: &str, program: &Path, config: Value) -> anyhow::Result<String> {
        let file = program.file_name().and_then(|n| n.to_str()).context("a program has a name")?;
        let content = std::fs::read(program).with_context(|| program.display().to_string())?;
        let layer = archive(file, &content)?;
        let mut whole = json!({"User": "65532:65532", "Env": ["PATH=/"]});
        whole.as_object_mut().into_iter().zip(config.as_object()).for_each(|(whole, more)| whole.extend(more.clone()));
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": whole,
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let (repository, tag) = name.split_once(':').context("an image has a tag")?;
        let described =
            |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        for blob in [layer, config] {
            self.blob_of(repository, blob).await?;
        }
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        self.put(&url, MANIFEST, manifest.to_string().into_bytes()).await?;
        Ok(self.name(name))
    }

    async fn blob_of(&self, repository: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let login = login();
        let headers = [("authorization", &*login), ("content-length", "0")];
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = http::post(&url, &headers, "").await?;
        let place = begun.headers.get("location").and_then(|l| l.to_str().ok());
        let place = place.with_context(|| format!("{}: {}", begun.status, begun.text()))?;
        let with = if place.contains('?') { '&' } else { '?' };
        self.put(&format!("{place}{with}digest={}", digest(&bytes)), "application/octet-stream", bytes).await
    }

    async fn put(&self, url: &str, kind: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        let login = login();
        let done = http::send("PUT", url, &[("authorization", &login), ("content-type", kind)], bytes).await?;
        ensure!(done.status == 201, "{url}: {} {}", done.status, done.text());
        Ok(())
    }
}

fn login() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// An archive of one program (POSIX ustar).
fn archive(name: &str, content: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(name.len() < 100 && content.len() < MOST, "too large for the archive");
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    // The sum is taken with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\u{0} ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    // Whole blocks, and two empty ones at the end.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    Ok(archive)
}

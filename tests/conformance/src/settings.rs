//! What the fixture stands behind: a gateway of its own, or one that it shares with two other real servers.

use anyhow::Context;
use portcullis_e2e::{
    eventually,
    http::MODERN,
    product::{Product, resource},
    servers,
    wire::Wire,
};
use serde_json::json;

use crate::fixture::Fixture;

/// The name in reports of a client that reaches a server of the other era.
pub const BRIDGED: &str = "bridged";

/// Where the fixture is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Through a gateway that has nothing else.
    Gateway,
    /// Through a gateway that has two other servers.
    Federated,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Gateway, Self::Federated];

    /// Whether others are in the same lists.
    pub fn shared(self) -> bool {
        self == Self::Federated
    }

    /// Its name in reports and in the list of known differences; also the gateway's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Federated => "federated",
        }
    }
}

/// A Portcullis with the fixture behind it, in every setting.
pub struct Behind {
    product: Product,
    _folder: tempfile::TempDir,
}

impl Behind {
    /// Starts it and waits until the fixture's tools are there.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(fixture: &Fixture, legacy: &Fixture, modern: &Fixture) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        servers::prepare(folder.path())?;
        let others: Vec<_> =
            servers::all(folder.path()).into_iter().filter(|s| ["memory", "time"].contains(&s.name)).collect();
        let mut resources: Vec<_> = others.iter().map(|s| s.resource(&folder.path().join("memory.json"))).collect();
        resources.push(resource("McpServer", "fixture", json!({"remote": {"url": fixture.url, "allowPrivate": true}})));
        for (name, fixture) in [("legacy", legacy), ("modern", modern)] {
            resources.push(resource("McpServer", name, json!({"remote": {"url": fixture.url, "allowPrivate": true}})));
            let bare = json!({"server": name, "bareNames": true});
            resources.push(resource("Gateway", name, json!({"anonymous": true, "servers": [bare]})));
        }
        let bare = json!({"server": "fixture", "bareNames": true});
        resources.push(resource("Gateway", "gateway", json!({"anonymous": true, "servers": [bare]})));
        let all: Vec<_> = std::iter::once(bare).chain(others.iter().map(|s| json!({"server": s.name}))).collect();
        resources.push(resource("Gateway", "federated", json!({"anonymous": true, "servers": all})));
        let product = Product::start(&resources).await?;
        let behind = Self { product, _folder: folder };
        for setting in Setting::ALL {
            let url = behind.url(setting);
            let wanted = if setting == Setting::Gateway { "test_simple_text" } else { "time" };
            eventually("the tools are listed", || async {
                let mut wire = Wire::connect(&url, None, MODERN).await.ok()?;
                let tools = wire.list("tools/list", "tools").await.ok()?;
                tools.iter().any(|t| t.get().contains(wanted)).then_some(())
            })
            .await;
        }
        Ok(behind)
    }

    /// The MCP endpoint of a setting.
    pub fn url(&self, setting: Setting) -> String {
        self.product.url(setting.name())
    }

    /// The MCP endpoint where a client of a revision reaches a server that speaks only the other era.
    pub fn bridged(&self, revision: &str) -> String {
        self.product.url(if revision == MODERN { "legacy" } else { "modern" })
    }

    /// Stops the gateway and waits until its children are gone.
    ///
    /// # Errors
    /// Where its log holds a panic: whatever passed, passed by luck.
    pub async fn stop(self) -> anyhow::Result<()> {
        let panicked = self.product.log().lines().find(|l| l.contains("panicked at")).map(str::to_owned);
        self.product.stop().await;
        panicked.map_or(Ok(()), |line| Err(anyhow::anyhow!("{line}"))).context("the gateway panicked")
    }
}

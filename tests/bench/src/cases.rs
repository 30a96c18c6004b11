//! What is measured: every step between client and server, one connection and many, small and large.

use std::net::SocketAddr;

use anyhow::Context;

use crate::{
    gateway::{FEW, Gateway, MANY},
    load::{self, Pace, Sample, Target},
    nginx::Nginx,
    process,
    upstream::{CREDENTIAL, Upstream},
    wire,
};

/// One case at one number of connections.
pub struct Point {
    /// Such as `auth+policy/64kB`.
    pub name: String,
    /// The case of nginx that it is compared with.
    pub yardstick: String,
    pub connections: usize,
    address: SocketAddr,
    request: Vec<u8>,
    pid: u32,
    at_least: usize,
}

/// A measured point.
pub struct Figure {
    pub name: String,
    pub yardstick: String,
    pub connections: usize,
    pub sample: Sample,
    pub rss_mb: f64,
}

struct Way<'a> {
    name: &'a str,
    address: SocketAddr,
    path: String,
    token: Option<&'a str>,
    pid: u32,
}

/// Every point, in the order in which a round goes through them.
pub fn plan(
    upstream: &Upstream,
    nginx: Option<&Nginx>,
    few: Option<&Gateway>,
    many: Option<&Gateway>,
    only: Option<&str>,
) -> Vec<Point> {
    let mut points = Vec::new();
    let mut ways = vec![Way {
        name: "direct",
        address: upstream.address,
        path: format!("/mcp/{FEW}"),
        token: None,
        pid: upstream.pid(),
    }];
    if let Some(nginx) = nginx {
        // The same path with the credential is what nginx carries for the gateway's last step: its cost does not differ.
        let path = format!("/secret/{FEW}");
        ways.push(Way { name: "nginx", address: nginx.address, path, token: Some(CREDENTIAL), pid: nginx.pid() });
    }
    if let Some(few) = few {
        ways.extend(steps(few));
    }
    for connections in [1, 8, 32] {
        for way in &ways {
            add(&mut points, way, "", "small", connections);
        }
    }
    for connections in [1, 32] {
        for way in ways.iter().filter(|w| !w.name.contains("auth") || w.name.contains("credential")) {
            add(&mut points, way, "/64kB", "large", connections);
        }
    }
    if let Some(few) = few {
        for connections in [1, 32] {
            eras(&mut points, few, connections);
        }
    }
    if let Some(many) = many {
        for connections in [1, 32] {
            for way in steps(many).iter().filter(|w| w.name == "open" || w.name.contains("credential")) {
                add(&mut points, way, &format!("/{MANY}-tools"), "small", connections);
            }
        }
    }
    points.retain(|p| only.is_none_or(|o| p.name.contains(o) || p.name == "nginx"));
    points
}

/// Answers by events, and every pairing of a client's era with a server's; the pairing of 2026 with 2026 is `open` itself.
fn eras(points: &mut Vec<Point>, gateway: &Gateway, connections: usize) {
    let params = call("small");
    let [open, legacy] = &gateway.sessions;
    let modern = |path: &str| wire::request(gateway.address, path, None, "tools/call", &params);
    let session = |path: &str, id: &str| wire::in_session(gateway.address, path, id, "tools/call", &params);
    for (name, request) in [
        ("open/sse", modern("/mcp/sse")),
        ("open/2025-to-2025", session("/mcp/legacy", legacy)),
        ("open/2025-to-2026", session("/mcp/open", open)),
        ("open/2026-to-2025", modern("/mcp/legacy")),
    ] {
        points.push(Point {
            name: name.to_owned(),
            yardstick: "nginx".to_owned(),
            connections,
            address: gateway.address,
            request,
            pid: gateway.pid(),
            at_least: 64,
        });
    }
}

/// The parameters of the call that is measured.
fn call(tool: &str) -> String {
    format!(r#""name":"{tool}","arguments":{{"path":"/home/bench/notes.txt","line":42}}"#)
}

fn steps(gateway: &Gateway) -> Vec<Way<'_>> {
    [
        ("open", "open"),
        ("auth", "auth"),
        ("auth+policy", "auth-policy"),
        ("auth+policy+warm", "auth-policy-warm"),
        ("auth+policy+credential", "auth-policy-credential"),
        ("auth+policy+credential+warm", "auth-policy-credential-warm"),
    ]
    .into_iter()
    .map(|(name, step)| Way {
        name,
        address: gateway.address,
        path: format!("/mcp/{step}"),
        token: (step != "open").then_some(&*gateway.token),
        pid: gateway.pid(),
    })
    .collect()
}

fn add(points: &mut Vec<Point>, way: &Way<'_>, suffix: &str, tool: &str, connections: usize) {
    let params = call(tool);
    let sized = if suffix == "/64kB" { suffix } else { "" };
    points.push(Point {
        name: format!("{}{suffix}", way.name),
        yardstick: format!("nginx{sized}"),
        connections,
        address: way.address,
        request: wire::request(way.address, &way.path, way.token, "tools/call", &params),
        pid: way.pid,
        at_least: if tool == "large" { 64 * 1024 } else { 64 },
    });
}

/// Measures every point in rounds and takes the middle of each.
pub async fn measure(points: &[Point], pace: Pace) -> anyhow::Result<Vec<Figure>> {
    let mut samples: Vec<Vec<Sample>> = points.iter().map(|_| Vec::new()).collect();
    let mut memory = vec![0.0; points.len()];
    for round in 1..=pace.rounds {
        eprintln!("round {round} of {}", pace.rounds);
        for (at, point) in points.iter().enumerate() {
            let target =
                Target { address: point.address, request: &point.request, pid: point.pid, at_least: point.at_least };
            let sample = load::measure(&target, point.connections, pace).await;
            samples[at]
                .push(sample.with_context(|| format!("case {} with {} connections", point.name, point.connections))?);
            memory[at] = process::rss_mb(point.pid)?;
        }
    }
    points
        .iter()
        .zip(samples)
        .zip(memory)
        .map(|((point, samples), rss_mb)| {
            Ok(Figure {
                name: point.name.clone(),
                yardstick: point.yardstick.clone(),
                connections: point.connections,
                sample: load::middle(samples)?,
                rss_mb,
            })
        })
        .collect()
}

//! `deploy/`: the chart, the manifests, and what they give the gateway.

mod chart;
mod images;
mod install;
mod rights;

//! What can be done, a file for each verb.

pub mod apply;
pub mod bridge;
pub mod call;
pub mod connect;
pub mod crds;
pub mod delete;
pub mod demo_server;
pub mod describe;
pub mod doctor;
pub mod explain;
pub mod get;
pub mod logs;
pub mod plugin;
pub mod quickstart;
pub mod render;
pub mod restart;
pub mod scale;
pub mod serve;
pub mod signin;
pub mod start;
pub mod stop;
pub mod store;
pub mod token;

use portcullis_model::Kind;

use crate::exit::Failure;

/// A kind as people write it.
fn kind(text: &str) -> Result<Kind, Failure> {
    text.parse().map_err(|e: portcullis_model::resource::InvalidKind| Failure::usage(e.to_string()))
}

//! A real Kubernetes beside the gateway: secrets kept there, resources written there, and servers that run there.

mod customs;
mod definitions;
mod pods;
mod secrets;
mod servers;
mod stdio;

//! A real Kubernetes beside the gateway: secrets kept there, and resources written there.

mod customs;
mod definitions;
mod secrets;

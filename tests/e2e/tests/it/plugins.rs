//! Plugins and tools in the whole product, and other people's from nothing to serving.

mod distribution;
mod guide;
mod languages;
mod life;
mod places;
mod rate;
mod tools;
mod webhook;

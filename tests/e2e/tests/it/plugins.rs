//! Plugins and tools in the whole product, and other people's from nothing to serving.

mod beside;
mod distribution;
mod guide;
mod languages;
mod life;
mod places;
mod rate;
mod results;
mod tools;
mod webhook;

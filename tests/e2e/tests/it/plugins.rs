//! Plugins of other people, from nothing to serving.

mod distribution;
mod guide;

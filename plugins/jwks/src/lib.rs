//! Built-in plugin jwks.

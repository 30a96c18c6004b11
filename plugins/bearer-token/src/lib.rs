//! Built-in plugin bearer-token.

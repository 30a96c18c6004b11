//! Built-in plugin static.

//! Built-in plugin tool-access.

//! Built-in plugin call-time.

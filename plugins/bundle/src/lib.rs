//! The built-in plugins, built from source and embedded.

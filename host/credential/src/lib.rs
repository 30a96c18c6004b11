//! The vault, connections, and the resolver strategies' host side.

//! The admin doors: the admin API on a Unix socket, its client, and the watched files.

//! Server runtimes: desired state in, running servers out.

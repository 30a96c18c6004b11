//! The whole product against real servers and real clients.

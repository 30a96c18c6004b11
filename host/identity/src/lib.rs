//! Callers: tokens, principals, teams, and the auth plugins' host side.

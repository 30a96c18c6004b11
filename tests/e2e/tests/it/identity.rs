//! Who is calling, and whose credential: signing in, OAuth, connections.

mod pages;
mod sign_in;
mod upstream_oauth;

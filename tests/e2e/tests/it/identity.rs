//! Who is calling, and whose credential: signing in, OAuth, connections, roles.

mod admin_door;
mod headers;
mod pages;
mod sign_in;
mod upstream_oauth;

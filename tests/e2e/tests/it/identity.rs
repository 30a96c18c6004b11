//! Who is calling, and whose credential: signing in, OAuth, connections, roles, secrets.

mod admin_door;
mod canaries;
mod client_certificates;
mod exchange;
mod headers;
mod missing;
mod oauth_clients;
mod oauth_login;
mod oidc_login;
mod pages;
mod secrets;
mod sign_in;
mod upstream_oauth;
mod vault;
mod whose_account;

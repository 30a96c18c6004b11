//! Who is calling, and whose credential: signing in, OAuth, connections, roles, secrets.

mod admin_door;
mod api_key;
mod behind_proxy;
mod canaries;
mod client_certificates;
mod endings;
mod exchange;
mod explain;
mod external_server;
mod headers;
mod independent_clients;
mod login_tokens;
mod meanwhile;
mod missing;
mod oauth_clients;
mod oauth_login;
mod oidc_login;
mod pages;
mod passthrough;
mod secrets;
mod sign_in;
mod sign_in_age;
mod upstream_bad_day;
mod upstream_oauth;
mod vault;
mod whose_account;

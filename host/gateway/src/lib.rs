//! The life of a call, phases 1 to 11, and nothing else. ARCHITECTURE.md has the picture.
//!
//! | phase | where |
//! |---|---|
//! | 1 accept | [`accept`](accept::Settings), `serve` |
//! | 2 read, 3 authenticate | `serve` |
//! | 4 route | `routes`, `view`, `naming` |
//! | 5 admit | `admit`, and `upstream` for servers |
//! | 6 decide, 10 review | `call` for tools, `forward` and `judge` for everything else |
//! | 7 resolve, 9 call | `relayed` |
//! | 8 pick | `targets` |
//! | 8 and 9 where server and client talk before the answer | `conversation`, `held`, `relayed::talk` |
//! | a page that a person has to open | `elicit_url` |
//! | streams of clients | `session`, `subscriptions` |
//! | 9, the way back | `relay` |
//! | what ends with a credential | `revoked` |
//! | what ends with an account, or with a right | `standing` |
//! | 11 record | `record` |
//! | all of them, without making the call | `explain` |
//!
//! What servers offer is kept in `catalogue`; `list`, `offer` and `search` show it, `uris` and `tasks` lead addresses back.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod accept;
pub mod compile;
mod connecting;
pub mod explain;
pub mod gateways;

mod admit;
mod answer;
mod asked;
mod call;
mod catalogue;
mod conversation;
mod currency;
mod elicit_url;
mod enrich;
mod failure;
mod forward;
mod held;
mod in_flight;
mod judge;
mod legacy;
mod list;
mod members;
mod naming;
mod offer;
mod pinned;
mod policy;
mod reads;
mod record;
mod relay;
mod relayed;
mod revoked;
mod routes;
mod scopes;
mod search;
mod serve;
mod session;
mod standing;
mod subscriptions;
mod targets;
mod tasks;
mod template;
mod uris;
mod view;
mod visits;
mod watch;

pub use accept::Settings;
pub use compile::{Condition, Sources, places};
pub use currency::Currency;
pub use gateways::{Gateways, Parts};

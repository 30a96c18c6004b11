//! Stand-ins for what the host lends, for a plugin's own tests. Native only.
//!
//! What a hook is lent is made and handed over with `lend()`; what a plugin asks of the host (configuration, tokens,
//! connections, secrets) is answered by the [`Host`] that the test's thread has installed.
//!
//! ```
//! use portcullis_sdk::{Kind, fake};
//!
//! let ann = fake::Caller::new("user:ann").team("blue").with_header("x-env", "test");
//! assert_eq!(ann.lend().kind(), Kind::User);
//! assert_eq!(ann.lend().teams(), ["blue"]);
//! ```

mod auth;
mod context;
mod credential;
mod host;
mod http;
mod list;
mod patch;
pub(crate) mod raw;
mod request;
mod session;
mod state;
mod token;

pub use auth::{Certificate, Identity, Request, SignedToken};
pub use context::{Call, Caller, ToolOutcome};
pub use credential::{Connection, Resolution, Target};
pub use host::{Host, Installed, Secret};
pub use http::{Response, Sent};
pub use list::List;
pub use request::{Prompt, Question, Read};
pub use session::{Metadata, Session};
pub use token::{CallerToken, Earlier, TokenSent};

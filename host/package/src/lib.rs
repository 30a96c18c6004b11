//! Components from elsewhere: fetched from registries by digest, believed by their signatures, kept for the next start.
//!
//! Nothing here compiles or runs anything. [`Packages`] is the gateway's side: it fetches what a resource names, and hands a
//! component on only when its bytes are those of the digest and a key that the operator trusts has signed them. [`Registry`],
//! [`PrivateKey`] and [`layout`] are the author's side, which the command line uses.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod dirs;
mod error;
mod keep;
mod key;
pub mod layout;
mod names;
mod packages;
mod patience;
mod registry;
mod settings;
mod signature;
mod trust;

pub use dirs::private_dir;
pub use error::PackageError;
pub use key::{KeyError, PrivateKey, PublicKey};
pub use names::{Names, names};
pub use packages::{Package, Packages};
pub use registry::{Credentials, Registry, Rules, Startup, image};
pub use settings::{KeySetting, Need, PackageSettings, RegistrySetting};
pub use signature::{MAX_SIGNATURES, Signed, detached, read_detached};
pub use trust::{Signer, Trust};

/// The most bytes of a component that is fetched. What is compiled may be bounded further.
pub const MAX_COMPONENT: usize = 64 << 20;

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

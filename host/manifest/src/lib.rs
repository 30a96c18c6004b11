//! What a plugin's component says of itself: its manifest, and the schema of its configuration.
//!
//! Both are custom sections of the component, or of a core module in it, where a linker leaves them: [`MANIFEST_SECTION`] and
//! [`SCHEMA_SECTION`], each JSON. Nothing here runs the component, and nothing that it says is believed: a manifest asks, an
//! operator grants. No I/O.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod manifest;
mod schema;
mod sections;

pub use manifest::{GRANTS, Manifest, Want};
pub use schema::{Complaint, Schema};
pub use sections::{MANIFEST_SECTION, SCHEMA_SECTION};

/// What a component says of itself; nothing where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// Who it is and what it wants.
    pub manifest: Option<Manifest>,
    /// What its configuration looks like.
    pub schema: Option<Schema>,
}

/// Why what a component says of itself can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclaredError {
    /// The bytes are no component, or are broken.
    #[error("not a WebAssembly component, or a broken one")]
    Broken,
    /// Two parts of it say different things.
    #[error("the component holds two different sections \"{0}\"")]
    Twice(&'static str),
    /// Larger than anybody reads.
    #[error("the section \"{section}\" has more than {max} bytes")]
    TooLarge {
        /// Which one.
        section: &'static str,
        /// The most bytes.
        max: usize,
    },
    /// It is not what it should be.
    #[error("the section \"{section}\": {problem}")]
    Invalid {
        /// Which one.
        section: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Reads what a component says of itself.
///
/// # Errors
/// Where it says something that makes no sense. Saying nothing is no error.
pub fn read(component: &[u8]) -> Result<Declared, DeclaredError> {
    let found = sections::find(component)?;
    let manifest = found.manifest.map(manifest::parse).transpose();
    let manifest = manifest.map_err(|problem| DeclaredError::Invalid { section: MANIFEST_SECTION, problem })?;
    let schema = found.schema.map(Schema::parse).transpose();
    let schema = schema.map_err(|problem| DeclaredError::Invalid { section: SCHEMA_SECTION, problem })?;
    Ok(Declared { manifest, schema })
}

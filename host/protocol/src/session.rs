//! What a sealed session id and a sealed cursor say.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Name;
use sha2::{Digest, Sha256};

use crate::{
    Version,
    seal::{Domain, SealError, Sealer},
};

/// The most bytes of a client's capabilities in a session id.
pub const MAX_CAPABILITIES: usize = 384;
/// The most bytes of the place in a list that a cursor remembers.
pub const MAX_AFTER: usize = 320;

/// Whom a sealed text is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The tenant.
    pub tenant: Name,
    /// The gateway.
    pub gateway: Name,
    /// [`principal_hash`] of the caller.
    pub principal: [u8; 16],
}

/// Half a SHA-256 of a principal's subject and, so that another token's session can't be taken over, its token's id.
pub fn principal_hash(subject: &str, token_id: Option<&str>) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((subject.len() as u64).to_be_bytes());
    hash.update(subject);
    hash.update(token_id.unwrap_or(""));
    let mut out = [0; 16];
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

/// A legacy session, all of which travels in its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose session it is.
    pub binding: Binding,
    /// The negotiated revision.
    pub version: Version,
    /// What the client can do, as a JSON object; see [`bounded_capabilities`].
    pub capabilities: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
    /// What tells this session from others (a DELETE's tombstone, a stream's key).
    pub nonce: [u8; 12],
}

impl Session {
    /// A new session with a random nonce. `capabilities` is cut down to what fits.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn new(
        binding: Binding,
        version: Version,
        capabilities: Option<&str>,
        expires_ms: u64,
    ) -> Result<Self, SealError> {
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let capabilities = bounded_capabilities(capabilities.unwrap_or("{}"));
        Ok(Self { binding, version, capabilities, expires_ms, nonce })
    }

    /// The nonce as text, for logs and tables.
    pub fn short_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.nonce)
    }

    /// The session id: visible ASCII, under 1 kB.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] if the capabilities are.
    pub fn seal(&self, sealer: &Sealer) -> Result<String, SealError> {
        if self.capabilities.len() > MAX_CAPABILITIES {
            return Err(SealError::TooLarge);
        }
        let mut out = Vec::with_capacity(128 + self.capabilities.len());
        self.binding.write(&mut out);
        out.extend_from_slice(&self.expires_ms.to_be_bytes());
        out.extend_from_slice(&self.nonce);
        write_text(&mut out, self.version.as_str());
        write_text(&mut out, &self.capabilities);
        sealer.seal(Domain::Session, &out)
    }

    /// Opens a session id that `binding` presents at `now_ms`.
    ///
    /// # Errors
    /// Everything of [`Sealer::open`], [`SealError::Foreign`] and [`SealError::Expired`].
    pub fn open(sealer: &Sealer, text: &str, binding: &Binding, now_ms: u64) -> Result<Self, SealError> {
        let plain = sealer.open(Domain::Session, text)?;
        let mut rest = &plain[..];
        let session = (|| {
            Some(Self {
                binding: Binding::read(&mut rest)?,
                expires_ms: u64::from_be_bytes(read_array(&mut rest)?),
                nonce: read_array(&mut rest)?,
                version: read_text(&mut rest)?.parse().ok()?,
                capabilities: read_text(&mut rest)?.to_owned(),
            })
        })()
        .ok_or(SealError::Malformed)?;
        check(&session.binding, binding, session.expires_ms, now_ms)?;
        Ok(session)
    }
}

/// A place in a list of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Whose list it is.
    pub binding: Binding,
    /// Which list, such as `tools`.
    pub list: String,
    /// The last item listed: the next page starts after it, however the list has changed in between.
    pub after: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl Cursor {
    /// The cursor as text, under 1 kB.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] if `after` has more than [`MAX_AFTER`] bytes.
    pub fn seal(&self, sealer: &Sealer) -> Result<String, SealError> {
        if self.after.len() > MAX_AFTER || self.list.len() > 32 {
            return Err(SealError::TooLarge);
        }
        let mut out = Vec::with_capacity(160 + self.after.len());
        self.binding.write(&mut out);
        out.extend_from_slice(&self.expires_ms.to_be_bytes());
        write_text(&mut out, &self.list);
        write_text(&mut out, &self.after);
        sealer.seal(Domain::Cursor, &out)
    }

    /// Opens a cursor that `binding` presents for `list` at `now_ms`.
    ///
    /// # Errors
    /// As [`Session::open`]; a cursor of another list is [`SealError::Foreign`].
    pub fn open(sealer: &Sealer, text: &str, binding: &Binding, list: &str, now_ms: u64) -> Result<Self, SealError> {
        let plain = sealer.open(Domain::Cursor, text)?;
        let mut rest = &plain[..];
        let cursor = (|| {
            Some(Self {
                binding: Binding::read(&mut rest)?,
                expires_ms: u64::from_be_bytes(read_array(&mut rest)?),
                list: read_text(&mut rest)?.to_owned(),
                after: read_text(&mut rest)?.to_owned(),
            })
        })()
        .ok_or(SealError::Malformed)?;
        check(&cursor.binding, binding, cursor.expires_ms, now_ms)?;
        if cursor.list != list {
            return Err(SealError::Foreign);
        }
        Ok(cursor)
    }
}

fn check(found: &Binding, wanted: &Binding, expires_ms: u64, now_ms: u64) -> Result<(), SealError> {
    if found != wanted {
        Err(SealError::Foreign)
    } else if now_ms >= expires_ms {
        Err(SealError::Expired)
    } else {
        Ok(())
    }
}

/// A client's capabilities where they fit into a session id, else only the members that a gateway acts on.
pub fn bounded_capabilities(raw: &str) -> String {
    const KNOWN: [&str; 5] = ["elicitation", "sampling", "roots", "tasks", "extensions"];
    let Ok(serde_json::Value::Object(mut all)) = serde_json::from_str(raw) else {
        return "{}".to_owned();
    };
    if raw.len() <= MAX_CAPABILITIES {
        return raw.to_owned();
    }
    all.retain(|key, _| KNOWN.contains(&key.as_str()));
    for part in ["extensions", "tasks", "sampling", "elicitation", "roots"] {
        let text = serde_json::Value::Object(all.clone()).to_string();
        if text.len() <= MAX_CAPABILITIES {
            return text;
        }
        all.remove(part);
    }
    "{}".to_owned()
}

impl Binding {
    fn write(&self, out: &mut Vec<u8>) {
        write_text(out, self.tenant.as_str());
        write_text(out, self.gateway.as_str());
        out.extend_from_slice(&self.principal);
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        Some(Self {
            tenant: read_text(rest)?.parse().ok()?,
            gateway: read_text(rest)?.parse().ok()?,
            principal: read_array(rest)?,
        })
    }
}

/// Writes a text behind its length. Callers bound it, so two bytes are enough.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
}

fn read_text<'p>(rest: &mut &'p [u8]) -> Option<&'p str> {
    let len = u16::from_be_bytes(read_array(rest)?);
    let (text, tail) = rest.split_at_checked(usize::from(len))?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

fn read_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

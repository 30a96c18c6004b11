//! Auth provider `client-certificate`: programs that come with a certificate of their own (mutual TLS).
//!
//! The host has checked in the handshake that an authority which the operator trusts signed the certificate, that it is in force and
//! not revoked, and that the client has its key. This plugin says which of its names is the caller, and which make groups.

mod config;

use config::{Config, Name};
use portcullis_sdk::{Certificate, ConfigCell, Error, Identity, Outcome, Provider, Request, Value, export};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The provider.
pub struct ClientCertificate;

impl Provider for ClientCertificate {
    fn authenticate(request: Request<'_>, into: Identity<'_>) -> Result<Outcome, Error> {
        let Some(certificate) = request.certificate() else { return Ok(Outcome::NotMine) };
        CONFIG.read(|config| {
            if !config.require_issuer.iter().all(|(attribute, wanted)| certificate.issuer(attribute).contains(wanted)) {
                return Ok(Outcome::NotMine);
            }
            let mut names = config.subject.of(&certificate);
            if let Some(prefix) = &config.prefix {
                names.retain(|name| name.starts_with(prefix));
            }
            names.dedup();
            let [name] = names.as_slice() else {
                // None: somebody else's certificate, which another provider may know. Several: it could be either.
                return Ok(if names.is_empty() {
                    Outcome::NotMine
                } else {
                    Outcome::Refused(format!(
                        "the client certificate has several names ({}) of which one would have to be the caller's",
                        config.subject.describe()
                    ))
                });
            };
            if name.is_empty() {
                return Ok(Outcome::NotMine);
            }
            into.external(&config.issuer, name);
            into.expires(certificate.expires_ms());
            for attribute in &config.groups {
                for group in certificate.subject(attribute) {
                    into.group(&group);
                }
            }
            if let [shown] = certificate.subject("CN").as_slice() {
                into.display_name(shown);
            }
            into.claim("certificate", &Value::Text(certificate.fingerprint()));
            Ok(Outcome::Accepted)
        })
    }
}

impl Name {
    fn of(&self, certificate: &Certificate) -> Vec<String> {
        match self {
            Self::Uri => certificate.uris(),
            Self::Dns => certificate.dns_names(),
            Self::Email => certificate.emails(),
            Self::Subject(attribute) => certificate.subject(attribute),
        }
    }
}

export!(ClientCertificate: Provider; config: Config; wants: {
    issuers: "says who the owners of certificates are, under the issuer in its configuration",
});

#[cfg(test)]
mod tests;

//! A certificate authority: certificates for servers and clients, and lists of those that it took back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// An authority, and where its files lie.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
    /// Its own certificate.
    pub certificate: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
    serial: u64,
}

/// What a client's certificate says.
#[derive(Clone, Debug, Default)]
pub struct Says<'a> {
    /// `CN`.
    pub common_name: &'a str,
    /// `OU`.
    pub unit: Option<&'a str>,
    /// URIs among the alternative names.
    pub uris: &'a [&'a str],
    /// It was over long ago.
    pub expired: bool,
}

impl Authority {
    /// A new one, whose files are in `dir` under names that begin with its own.
    ///
    /// # Errors
    /// Where no key can be made, or no file written.
    pub fn new(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let own = params.self_signed(&key)?;
        let certificate = dir.join(format!("{name}.crt"));
        fs::write(&certificate, own.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), dir: dir.to_owned(), certificate })
    }

    /// A certificate for a server at loopback.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn server(&self, file: &str) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, file, 1)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn client(&self, file: &str, serial: u64, says: &Says<'_>) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(says.common_name.to_owned()));
        if let Some(unit) = says.unit {
            params.distinguished_name.push(DnType::OrganizationalUnitName, DnValue::Utf8String(unit.to_owned()));
        }
        for uri in says.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        if says.expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, file, serial)
    }

    fn sign(&self, mut params: CertificateParams, file: &str, serial: u64) -> anyhow::Result<Pair> {
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let made = params.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            certificate: self.dir.join(format!("{file}.crt")),
            key: self.dir.join(format!("{file}.key")),
            serial,
        };
        fs::write(&pair.certificate, made.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// Writes the list of those that were taken back (RFC 5280 section 5), whole, as a job does: aside, then renamed.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn revoke(&self, file: &str, gone: &[&Pair]) -> anyhow::Result<PathBuf> {
        let revoked = gone.iter().map(|pair| RevokedCertParams {
            serial_number: SerialNumber::from(pair.serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.dir.join(file);
        let aside = self.dir.join(format!("{file}.new"));
        fs::write(&aside, list.signed_by(&self.issuer)?.pem()?)?;
        fs::rename(aside, &path)?;
        Ok(path)
    }
}

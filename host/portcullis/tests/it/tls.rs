//! TLS on the data listener, and a certificate that is replaced while it serves.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::support::{Gateway, eventually};

/// The status line that a client gets that trusts this certificate and no other.
fn ask(address: &str, trusted: &Path) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    // A peer that closes without saying so has answered all the same.
    let _ = stream.read_to_end(&mut text);
    Ok(String::from_utf8(text).unwrap().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_replaced_certificate_is_served_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates");
    let put = |name: &str| {
        fs::copy(certificates.join(format!("{name}.crt")), dir.path().join("tls.crt")).unwrap();
        fs::copy(certificates.join(format!("{name}.key")), dir.path().join("tls.key")).unwrap();
    };
    put("one");
    let settings = "listen: 127.0.0.1:0\ndataDir: data\ntls: {certificate: tls.crt, key: tls.key}\n";
    fs::write(dir.path().join("serve.yaml"), settings).unwrap();
    let config = dir.path().join("serve.yaml");
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "https://127.0.0.1:");
    let url = gateway.word_after("https://");
    let address: String = url.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
    let (one, two) = (certificates.join("one.crt"), certificates.join("two.crt"));
    assert_eq!(ask(&address, &one).as_deref(), Ok("HTTP/1.1 200 OK"));
    assert!(ask(&address, &two).is_err(), "not trusted");

    // Half of it is not used, and whoever looks after the gateway is told.
    fs::copy(certificates.join("two.crt"), dir.path().join("tls.crt")).unwrap();
    assert_eq!(ask(&address, &one).as_deref(), Ok("HTTP/1.1 200 OK"));
    let socket = dir.path().join("data/admin.sock");
    let doctor = || gateway.run(&["doctor", "--socket", socket.to_str().unwrap()]);
    eventually("the doctor knows", || doctor().out.contains("certificate and key do not belong together"));
    let told = doctor();
    assert!(told.code == 1 && told.out.contains("ERROR   tls: ") && told.out.contains("next: Correct the file"));
    put("two");
    eventually("the new certificate is served", || ask(&address, &two).is_ok());
    assert!(!doctor().out.contains("tls: "), "{}", doctor().out);
}

//! Connections that one address may have.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{Gateway, PATIENCE, eventually, get};

#[test]
fn more_connections_than_an_address_may_have_are_told_so_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (metrics, address) =
        (std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(), format!("127.0.0.1:{port}"));
    let config = dir.path().join("portcullis.yaml");
    let text = format!(
        "listen: {address}\nmetricsListen: {metrics}\ndataDir: {}\nmaxConnectionsPerAddress: 3\n",
        dir.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "serving");

    // A connection that was answered has its place.
    let open = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    let mut held = vec![open(), open(), open()];
    let mut refused = TcpStream::connect(&address).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    refused.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("\r\nretry-after: 5\r\n"), "{said}");
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("content-length: {}", body.len())), "{said}");

    let told = get(&metrics.to_string(), "/metrics").1;
    assert!(told.contains("portcullis_client_connections_refused_total 1"), "{told}");
    // Three there, and the one that asks.
    assert!(told.contains("portcullis_client_connections 4"), "{told}");

    held.pop();
    eventually("the place is free again", || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let asked = write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        asked.and_then(|()| stream.read_to_string(&mut text)).is_ok() && text.starts_with("HTTP/1.1 200")
    });
    assert_eq!(gateway.stop(), 0);
}

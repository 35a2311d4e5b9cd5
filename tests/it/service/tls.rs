//! TLS: offered where certificate and key are configured, and exchanged without a restart.

use std::path::Path;

use forgetd::app::{config::TlsConfig, tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Database, Service, eventually};

/// Puts one of two self-signed certificates, with its key, in the place of the last.
fn certify(folder: &Path, name: &str) -> TlsConfig {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::copy(fixtures.join(format!("{name}.crt")), &certificate).unwrap();
    std::fs::copy(fixtures.join(format!("{name}.key")), &key).unwrap();
    TlsConfig { certificate, key }
}

/// What the service answers to one who knows no certificate but this one.
async fn ask(service: &Service, known: &TlsConfig) -> std::io::Result<String> {
    let address = service.address.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("forgetd.test").unwrap();
    let mut stream = tls::connector(known).unwrap().connect(name, stream).await?;
    let request = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_speaks_tls_and_takes_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path(), "first");
    let aside = folder.path().join("first.crt");
    std::fs::copy(&first.certificate, &aside).unwrap();
    let replaced = TlsConfig { certificate: aside, ..first.clone() };
    let environment = [
        ("FORGETD_HTTP__TLS__CERTIFICATE", first.certificate.to_str().unwrap()),
        ("FORGETD_HTTP__TLS__KEY", first.key.to_str().unwrap()),
    ];
    let mut service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    let answer = ask(&service, &replaced).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age="), "{answer}");

    // One who sends nothing holds nobody up, nor does one who speaks no TLS.
    let address = service.address.strip_prefix("https://").unwrap();
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(ask(&service, &replaced).await.is_ok());

    let second = certify(folder.path(), "second");
    assert!(ask(&service, &second).await.is_err(), "nobody has told the service yet");
    service.signal("HUP");
    eventually(
        "the new certificate is shown",
        async || ask(&service, &second).await.is_ok(),
        |shown| *shown,
    )
    .await;
    assert!(ask(&service, &replaced).await.is_err());

    std::fs::write(&second.certificate, "no certificate").unwrap();
    service.signal("HUP");
    eventually(
        "the broken certificate is refused",
        async || service.log(),
        |log| log.contains("the old one stays"),
    )
    .await;
    service.terminate();
    assert!(service.ended().await.success());
}

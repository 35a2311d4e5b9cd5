use std::{io::Write as _, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;

/// Answers each TLS connection on loopback with 204; returns its address.
async fn tls_receiver() -> String {
    let certificate = include_bytes!("../../tests/fixtures/tls/receiver.crt");
    let key = include_bytes!("../../tests/fixtures/tls/receiver.key");
    let chain = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}/hooks", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not trust it breaks off.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4_096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"POST /hooks HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    address
}

async fn deliver(client: HttpsClient, address: &str) -> Result<Receipt, OutboundError> {
    let outbound = Outbound { client, api_key: None };
    outbound.deliver(address, &[], "{}".into(), TIMEOUT).await
}

#[tokio::test]
async fn a_certificate_is_checked_within_the_reach() {
    let address = tls_receiver().await;
    let authority = include_bytes!("../../tests/fixtures/tls/authority.crt");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
    let trusting = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let trusting = || HttpsConnectorBuilder::new().with_tls_config(trusting.clone());

    let told = deliver(client_over(loopback(false), trusting()), &address).await.unwrap();
    assert_eq!((told.status, told.is_success), (204, true));
    let stranger = deliver(client(loopback(false)).unwrap(), &address).await;
    assert!(matches!(stranger, Err(OutboundError::Failed(..))), "{stranger:?}");
    let beyond = Reach::internet(false, &[], &[]);
    let beyond = deliver(client_over(beyond, trusting()), &address).await;
    assert!(matches!(beyond, Err(OutboundError::OutOfReach(_))), "{beyond:?}");
}

/// Answers one request on loopback, and leaves its connection open.
async fn plain_receiver() -> (String, JoinHandle<(String, TcpStream)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let receiving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        let read = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        (String::from_utf8_lossy(&request[..read]).into_owned(), stream)
    });
    (address, receiving)
}

fn loopback(http_allowed: bool) -> Reach {
    Reach::internet(http_allowed, &["127.0.0.1".parse().unwrap()], &[])
}

#[tokio::test]
async fn no_connection_to_a_receiver_is_kept() {
    let (address, receiving) = plain_receiver().await;
    let outbound = Outbound::within(loopback(true)).unwrap();
    let told = outbound.deliver(&format!("http://{address}/"), &[], "{}".into(), TIMEOUT).await;
    assert!(told.unwrap().is_success);
    let (_, mut stream) = receiving.await.unwrap();
    let ended = tokio::time::timeout(TIMEOUT, stream.read(&mut [0])).await;
    assert_eq!(ended.expect("the connection is left open").unwrap(), 0);
}

#[tokio::test]
async fn plain_http_is_out_of_reach_unless_it_is_allowed() {
    let (address, receiving) = plain_receiver().await;
    let address = format!("http://{address}/");
    let refused = deliver(client(loopback(false)).unwrap(), &address).await;
    assert!(matches!(refused, Err(OutboundError::OutOfReach(_))), "{refused:?}");
    assert!(deliver(client(loopback(true)).unwrap(), &address).await.is_ok());
    receiving.await.unwrap();
}

#[tokio::test]
async fn what_is_sent_to_is_what_was_checked() {
    let (address, receiving) = plain_receiver().await;
    let odd = format!("  http:\\\\{address}/b\u{fc}cher?a b\t");
    let checked = loopback(true).check(&odd).unwrap();
    assert_eq!(checked.as_str(), format!("http://{address}/b%C3%BCcher?a%20b"));
    assert!(deliver(client(loopback(true)).unwrap(), &odd).await.is_ok());
    let (request, _) = receiving.await.unwrap();
    assert!(request.starts_with("POST /b%C3%BCcher?a%20b HTTP/1.1\r\n"), "{request}");
    let broken = deliver(client(loopback(true)).unwrap(), "hooks").await;
    assert!(matches!(broken, Err(OutboundError::Address(_))), "{broken:?}");
}

#[test]
fn what_is_compressed_is_read_up_to_a_limit() {
    let compressed = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(decompressed(&compressed(b"entries")).unwrap(), b"entries");
    assert!(decompressed(b"entries").is_err());
    let bomb = compressed(&vec![0; BODY_BYTES_MAX + 1]);
    assert!(bomb.len() < BODY_BYTES_MAX / 100);
    assert!(decompressed(&bomb).unwrap_err().to_string().contains("too large"));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let read = |value: &str| {
        retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]))
    };
    assert_eq!(read("120"), Some(RetryAfter::Pause(Duration::from_mins(2))));
    let date: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
    assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(RetryAfter::At(date)));
    for odd in ["", "-1", "1.5", "soon"] {
        assert_eq!(read(odd), None, "{odd}");
    }
    assert_eq!(retry_after(&HeaderMap::new()), None);
}

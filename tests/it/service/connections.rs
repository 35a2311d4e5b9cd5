//! What somebody without a key can hold of the running service.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Database, PATIENCE, Service};

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_is_let_go_of() {
    let environment = [("FORGETD_HTTP__HEAD_TIMEOUT_S", "1")];
    let service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    let address = service.address.strip_prefix("http://").unwrap();
    let head = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (sent, answer) in [(&head[..20], ""), (&head[..], "HTTP/1.1 200 OK")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answered = String::new();
        let end = timeout(PATIENCE, stream.read_to_string(&mut answered)).await;
        end.expect("the connection is closed").unwrap();
        assert!(answered.starts_with(answer), "{answered}");
    }
}

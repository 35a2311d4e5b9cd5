use std::{net::SocketAddr, time::Instant};

use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

use super::*;

/// Longest wait for anything; only a broken server comes near it.
const PATIENCE: Duration = Duration::from_mins(1);

const SHORT: Duration = Duration::from_millis(200);

struct Server {
    address: SocketAddr,
    stopping: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(connections: u32, head_timeout: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/length", post(async |body: String| body.len().to_string()));
        let (bounds, stopping) = (Bounds { connections, head_timeout }, CancellationToken::new());
        let serving = tokio::spawn(serve(listener, None, router, bounds, stopping.clone()));
        Self { address, stopping, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn ask(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
}

/// Reads an answer, which ends with these words.
async fn answered(stream: &mut TcpStream, end: &str) {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let read =
            timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer").unwrap();
        assert_ne!(read, 0, "ended after {:?}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
}

/// Waits until the other side ends the connection, by whatever it does.
async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection ends"));
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_its_connection() {
    let server = Server::start(16, SHORT).await;
    for begun in [
        &b""[..],
        b"GET / HT",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"PRI * HT",
        // The whole preface of HTTP/2, its settings, and no request.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        let since = Instant::now();
        let mut stream = server.connect().await;
        stream.write_all(begun).await.unwrap();
        ended(stream).await;
        assert!(since.elapsed() >= SHORT, "{begun:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_but_not_for_ever() {
    let server = Server::start(16, SHORT).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        ask(&mut stream).await;
        answered(&mut stream, "here").await;
    }
    // Of another request no more than this comes.
    stream.write_all(b"GET / HT").await.unwrap();
    ended(stream).await;
}

#[tokio::test]
async fn what_is_worked_on_is_not_cut_off() {
    let server = Server::start(16, SHORT).await;
    let mut stream = server.connect().await;
    let head = b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n";
    stream.write_all(head).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(SHORT / 2).await;
        stream.write_all(b"x").await.unwrap();
    }
    answered(&mut stream, "\r\n\r\n8").await;
}

#[tokio::test]
async fn who_finds_no_room_waits_for_it() {
    let server = Server::start(2, PATIENCE).await;
    let [mut first, mut second, mut third] =
        [server.connect().await, server.connect().await, server.connect().await];
    for held in [&mut first, &mut second] {
        ask(held).await;
        answered(held, "here").await;
    }
    ask(&mut third).await;
    let early = timeout(SHORT, third.read_u8()).await;
    assert!(early.is_err(), "two are served at once: {early:?}");
    drop(first);
    answered(&mut third, "here").await;
    ask(&mut second).await;
    answered(&mut second, "here").await;
}

#[tokio::test]
async fn an_orderly_end_waits_for_answers_only() {
    let server = Server::start(16, PATIENCE).await;
    let (mut idle, silent, mut busy) =
        (server.connect().await, server.connect().await, server.connect().await);
    ask(&mut idle).await;
    answered(&mut idle, "here").await;
    let head =
        b"POST /length HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    busy.write_all(head).await.unwrap();
    let mut begun = [0; 25];
    timeout(PATIENCE, busy.read_exact(&mut begun)).await.expect("it is worked on").unwrap();
    assert_eq!(&begun, b"HTTP/1.1 100 Continue\r\n\r\n");
    busy.write_all(b"x").await.unwrap();
    server.stopping.cancel();
    ended(idle).await;
    ended(silent).await;
    assert!(!server.serving.is_finished());
    busy.write_all(b"x").await.unwrap();
    answered(&mut busy, "\r\n\r\n2").await;
    timeout(PATIENCE, server.serving).await.expect("it ends").unwrap();
}

#[test]
fn a_quarter_of_the_descriptors_is_left() {
    assert_eq!(spared(Some(1_024)), 768);
    assert_eq!(spared(Some(3)), 2);
    assert_eq!([spared(Some(0)), spared(Some(1))], [1, 1]);
    assert_eq!(spared(None), u32::MAX);
}

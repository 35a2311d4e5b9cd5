//! What the service tells its operators, and whom it never names to them.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    Database, PATIENCE, Service, eventually,
    people::{self, MODEL},
    process::names_somebody,
};

/// What arrived at a collector of traces.
struct Export {
    request_line: String,
    content_type: String,
    body: Vec<u8>,
}

/// Listens on loopback, answers every request with 200 and passes it on.
async fn collector() -> (String, mpsc::UnboundedReceiver<Export>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(collect(BufStream::new(connection), sender.clone()));
        }
    });
    (endpoint, receiver)
}

async fn collect(mut connection: BufStream<TcpStream>, sender: mpsc::UnboundedSender<Export>) {
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let header = |name: &str| {
            let fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
            let mut named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
            named.next().map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().unwrap()];
        connection.read_exact(&mut body).await.unwrap();
        let content_type = header("content-type");
        sender.send(Export { request_line: head[0].clone(), content_type, body }).unwrap();
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        connection.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_exported_at_the_latest_when_the_service_ends() {
    let (endpoint, mut exports) = collector().await;
    let environment = [("FORGETD_TELEMETRY__OTLP_ENDPOINT", endpoint.as_str())];
    let mut service = Service::start_with(Database::Sqlite, &environment, &[]).await;
    people::trained(&service, &people::unsettled()).await;
    people::forget(&service, &["person-7"]).await;
    service.terminate();
    assert!(service.ended().await.success());

    let mut routes_seen = false;
    while !routes_seen {
        let export = tokio::time::timeout(PATIENCE, exports.recv());
        let export = export.await.expect("the request's span is exported").unwrap();
        assert_eq!(export.request_line, "POST /v1/traces HTTP/1.1");
        assert_eq!(export.content_type, "application/x-protobuf");
        let holds =
            |text: &str| export.body.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!holds("person-7"), "a person stands in a trace");
        routes_seen |= holds("/v1/deletion-requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_and_name_nobody() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let id = people::forget(&service, &["person-7"]).await;
    service.request_becomes(&id, "completed").await;
    // What a transaction did is counted after it.
    let metrics = async || {
        let answer = service.request(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.text().await.unwrap()
    };
    let counted = |text: &String| text.contains("\nforgetd_deletions_completed_total 1\n");
    let text = eventually("the deletion is counted", metrics, counted).await;
    let count = |name: &str, labels: &[&str]| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
        let line = line.unwrap_or_else(|| panic!("no {name} {labels:?} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let labels = ["method=\"POST\"", "route=\"/v1/deletion-requests\"", "status=\"202\""];
    assert!((count("forgetd_http_requests_total", &labels) - 1.0).abs() < 0.1, "{text}");
    let route = ["route=\"/v1/deletion-requests\""];
    assert!((count("forgetd_http_request_duration_seconds_count", &route) - 1.0).abs() < 0.1);
    assert!((count("forgetd_served_epoch", &[MODEL]) - 2.0).abs() < 0.1, "{text}");
    assert!(!names_somebody(&text) && !text.contains(&id), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_name_nobody() {
    for database in Database::ALL {
        let environment = [("FORGETD_TELEMETRY__LOG", "debug,forgetd=trace,sqlx=debug")];
        let mut service = Service::start_with(database, &environment, &[]).await;
        people::trained(&service, &people::unsettled()).await;
        let id = people::forget(&service, &["person-7", "person-nobody"]).await;
        service.request_becomes(&id, "completed").await;

        // Ingestion: a tombstone, a sample that is there already, a bad value, no JSON.
        let mut bad_value = people::sample(500, "train");
        bad_value["features"]["age"] = json!("person-500 is old");
        for (body, status) in [
            (format!("{}\n", people::sample(21, "train")), StatusCode::CONFLICT),
            (format!("{}\n", people::sample(1, "train")), StatusCode::CONFLICT),
            (format!("{bad_value}\n"), StatusCode::UNPROCESSABLE_ENTITY),
            ("{\"sample_id\": \"visit-9\", person-3\n".into(), StatusCode::UNPROCESSABLE_ENTITY),
        ] {
            let refused = people::ingest(&service, body).await;
            assert_eq!(refused.status, status, "{refused:#?}");
        }
        let question = json!({"subjects": ["person-7", "person-1"], "samples": ["visit-30"]});
        let lineage = service.post(&format!("/v1/models/{MODEL}/lineage"), &question).await;
        assert_eq!(lineage.status, StatusCode::OK, "{lineage:#?}");
        let wrong = json!({"model": MODEL, "subject": ["person-8"]});
        let wrong = service.post("/v1/deletion-requests", &wrong).await;
        assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong:#?}");
        let unknown = json!({"model": "person-9", "subjects": ["person-9"]});
        let unknown = service.post("/v1/deletion-requests", &unknown).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{unknown:#?}");
        service.terminate();
        assert!(service.ended().await.success());

        let log = service.log();
        assert!(log.contains("answered") && log.contains(&id), "the log is at work");
        assert_eq!(log.lines().find(|line| names_somebody(line)), None);
    }
}

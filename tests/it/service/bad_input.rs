//! What bad input gets: a clear answer that names the cause, and nothing is lost or kept.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Database, Service, field,
    people::{self, MODEL},
    process::{Answer, answer},
    promise,
};

/// The type URI and the whole text of a problem, for looking up what it names.
fn problem(answer: &Answer, status: StatusCode) -> String {
    assert_eq!(answer.status, status, "{answer:#?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(field(&answer.body, "/status"), status.as_u16());
    assert!(field(&answer.body, "/type").as_str().unwrap().starts_with("urn:forgetd:problem:"));
    answer.body.to_string()
}

async fn train_count(service: &Service) -> u64 {
    let model = service.get(&format!("/v1/models/{MODEL}")).await.body;
    field(&model, "/samples/train").as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_unknown_are_rejected_with_a_reason() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let mut other = people::model(&people::unsettled());
        other["name"] = json!("other");
        assert_eq!(service.post("/v1/models", &other).await.status, StatusCode::CREATED);
        let body = json!({"model": "other", "samples": ["visit-0"], "subjects": ["nobody"]});
        let accepted = service.post("/v1/deletion-requests", &body).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:#?}");
        assert_eq!(accepted.body["state"], "rejected");
        let targets = field(&accepted.body, "/targets").as_array().unwrap();
        let reasons: Vec<_> = targets.iter().map(|t| t["rejection"].as_str().unwrap()).collect();
        assert!(reasons.contains(&"unknown_subject"), "{targets:?}");
        assert!(reasons.contains(&"unknown_sample"), "another model's sample: {targets:?}");
        assert_eq!(train_count(&service).await, u64::from(people::TRAINED));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_targets_or_with_too_many_are_refused() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let empty = service.post("/v1/deletion-requests", &json!({"model": MODEL})).await;
    problem(&empty, StatusCode::UNPROCESSABLE_ENTITY);
    let many: Vec<_> = (0..100_000).map(|number| format!("s{number}")).collect();
    let body = json!({"model": MODEL, "samples": many});
    let text = problem(
        &service.post("/v1/deletion-requests", &body).await,
        StatusCode::UNPROCESSABLE_ENTITY,
    );
    assert!(text.contains("10000") || text.contains("10,000"), "names the limit: {text}");
    let unknown = json!({"model": "no-such-model", "subjects": ["x"]});
    problem(&service.post("/v1/deletion-requests", &unknown).await, StatusCode::NOT_FOUND);
}

async fn infer(service: &Service, change: impl Fn(&mut Value)) -> String {
    let mut body = people::prediction(0);
    change(&mut body);
    let answer = service.post(&format!("/v2/models/{MODEL}/infer"), &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:#?}");
    field(&answer.body, "/error").as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_name_what_is_wrong_with_their_tensors() {
    let service = Service::start(Database::Sqlite).await;
    people::trained(&service, &people::unsettled()).await;
    let shape = infer(&service, |body| body["inputs"][0]["shape"] = json!([2])).await;
    assert!(shape.contains("age"), "{shape}");
    let datatype = infer(&service, |body| body["inputs"][0]["datatype"] = json!("BYTES")).await;
    assert!(datatype.contains("age"), "{datatype}");
    let missing = infer(&service, |body| {
        body["inputs"].as_array_mut().unwrap().pop();
    })
    .await;
    assert!(missing.contains("work"), "{missing}");
    let extra = infer(&service, |body| body["inputs"][1]["name"] = json!("hour")).await;
    assert!(extra.contains("hour"), "{extra}");
    // JSON has no NaN; a number beyond every float is the way to infinity.
    let path = format!("/v2/models/{MODEL}/infer");
    let infinite = people::prediction(0).to_string().replacen("\"FP64\"", "\"FP32\"", 1);
    let data = infinite.find("\"data\":[").unwrap() + 8;
    let end = data + infinite[data..].find(']').unwrap();
    let infinite = format!("{}1e300{}", &infinite[..data], &infinite[end..]);
    let request = service.request(Method::POST, &path);
    let refused = answer(request.header("content-type", "application/json").body(infinite)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_name_line_and_column_and_leave_nothing() {
    for database in Database::ALL {
        let service = Service::start(database).await;
        let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
        assert_eq!(created.status, StatusCode::CREATED);
        let csv = async |text: &'static str| {
            let path = format!(
                "/v1/models/{MODEL}/samples?sample_id=id&subject=person&label=label&split=split"
            );
            let request = service.request(Method::POST, &path);
            answer(request.header("content-type", "text/csv").body(text)).await
        };
        let missing = csv("id,person,split,label,age,work\na,p,train,low,3,state\n").await;
        let text = problem(&missing, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(text.contains("hours"), "{text}");
        let header = "id,person,split,label,age,hours,work";
        let broken =
            csv("id,person,split,label,age,hours,work\na,p,train,low,3,4,state\nb,p,train,low,x,4,state\n")
                .await;
        let text = problem(&broken, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(text.contains("line 3") && text.contains("age"), "{text} ({header})");
        let infinite =
            csv("id,person,split,label,age,hours,work\na,p,train,low,inf,4,state\n").await;
        problem(&infinite, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(train_count(&service).await, 0, "nothing of a broken file is kept");
        let twice =
            people::ndjson([people::sample(0, "train"), people::sample(0, "train")].into_iter());
        problem(&people::ingest(&service, twice).await, StatusCode::CONFLICT);
        assert_eq!(train_count(&service).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_does_not_fit_the_data_fails_its_run_with_the_reason() {
    let service = Service::start(Database::Sqlite).await;
    let mut model = people::model(&people::unsettled());
    model["network"] = json!({"layers": [{"linear": 8}, "relu", {"linear": 5}]});
    assert_eq!(service.post("/v1/models", &model).await.status, StatusCode::CREATED);
    people::ingest(&service, people::population()).await;
    let runs = format!("/v1/models/{MODEL}/training-runs");
    let queued = service.post(&runs, &json!({})).await.body;
    let run = format!("{runs}/{}", field(&queued, "/id").as_str().unwrap());
    let failed = super::eventually(
        "the run fails",
        async || service.get(&run).await.body,
        |run| run["state"] == "failed",
    )
    .await;
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("2 classes"), "{reason}");

    model["name"] = json!("images");
    model["network"] = json!({"layers": [{"conv2d": {"out": 2, "kernel": 0}}]});
    let text = problem(&service.post("/v1/models", &model).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("layer 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_weights_are_refused_and_the_last_good_version_serves_on() {
    for database in Database::ALL {
        // Two replicas would share the folder; here the file is spoilt before a restart instead.
        let mut service = Service::start(database).await;
        people::trained(&service, &people::unsettled()).await;
        let version = service.get(&format!("/v1/models/{MODEL}/versions/1")).await.body;
        let file = promise::weights_file(&service, &version);
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        service.kill();
        std::fs::write(&file, &bytes).unwrap();
        service.restart().await;
        let refused = people::predict(&service, 0).await;
        assert_ne!(refused.status, StatusCode::OK, "corrupt weights must not answer");
        super::eventually(
            "the log says why",
            async || service.log(),
            |log| log.contains("is corrupt: its bytes hash to"),
        )
        .await;
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        people::ready(&service).await;
        assert_eq!(people::predict(&service, 0).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_asks_to_come_back_later() {
    for database in Database::ALL {
        // Nobody works on what is queued.
        let environment = [("FORGETD_HTTP__DELETION_QUEUE_MAX", "2")];
        let service = Service::start_with(database, &environment, &["--role", "api"]).await;
        let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
        assert_eq!(created.status, StatusCode::CREATED);
        people::ingest(&service, people::population()).await;
        let first = people::forget(&service, &["person-1"]).await;
        people::forget(&service, &["person-2"]).await;
        let body = json!({"model": MODEL, "subjects": ["person-3"]});
        let refused = service.post("/v1/deletion-requests", &body).await;
        problem(&refused, StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers.contains_key("retry-after"));

        let withdrawn = service.delete(&format!("/v1/deletion-requests/{first}")).await;
        assert!(withdrawn.status.is_success(), "{withdrawn:#?}");
        people::forget(&service, &["person-3"]).await;
    }
}

//! The Data Rights Protocol, as an Authorized Agent sees it.

mod agent;

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

use self::agent::{Agent, Session, now, send, with};
use super::{
    Database, Service,
    drop::email,
    eventually, field, people,
    process::{Answer, answer, output_of},
};
use crate::receiver::{Receiver, Reply};

const REQUESTS: &str = "/drp/v1/data-rights-request";

/// With both agents trusted.
async fn start(database: Database, more: &[(&str, &str)], arguments: &[&str]) -> Service {
    let agents = format!("[{},{}]", Agent::first().configured(), Agent::second().configured());
    let environment =
        [("FORGETD_DRP__BUSINESS_ID", "FORGETD"), ("FORGETD_DRP__AGENTS", agents.as_str())];
    Service::start_with(database, &[&environment, more].concat(), arguments).await
}

/// The people with their addresses, in a model that nobody learns.
async fn ingest(service: &Service) {
    let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let ingested = people::ingest(service, super::drop::population()).await;
    assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
}

fn assert_refused(answer: &Answer, status: StatusCode, words: &str) {
    assert_eq!(answer.status, status, "{answer:#?}");
    assert_eq!(field(&answer.body, "/code"), status.as_str());
    let message = field(&answer.body, "/message").as_str().unwrap();
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert!(!message.contains("person-"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_fulfilled_and_the_agent_is_called_back() {
    const CALLBACKS: [(&str, &str); 2] = [
        ("FORGETD_CALLBACKS__HTTP_ALLOWED", "true"),
        ("FORGETD_CALLBACKS__ALLOWED_NETWORKS", "[\"127.0.0.1/32\"]"),
    ];
    for database in Database::ALL {
        let receiver = Receiver::start(|_, _| Reply::Status(200)).await;
        let service = start(database, &CALLBACKS, &[]).await;
        ingest(&service).await;
        people::train(&service, "training").await;
        people::ready(&service).await;
        let session = Agent::first().set_up(&service).await;
        let own = session.send(Method::GET, "/drp/v1/agent/FIRST_AGENT", None).await;
        assert_eq!((own.status, &own.body), (StatusCode::OK, &json!({})));

        let more = json!({"agent-request-id": "case 17", "status_callback": receiver.url()});
        let message = with(session.deletion(&email("person-1")), &more);
        let taken = session.exercise(&message).await;
        assert_eq!(taken.status, StatusCode::OK, "{taken:#?}");
        assert_eq!(taken.body["agent_request_id"], "case 17");
        assert!(["in_progress", "fulfilled"].contains(&taken.body["status"].as_str().unwrap()));
        let id = taken.body["request_id"].as_str().unwrap();
        let done = session.becomes(id, "fulfilled").await;
        assert_eq!(done["received_at"], taken.body["received_at"]);

        let told = eventually(
            "the agent is told",
            async || receiver.received(),
            |received| !received.is_empty(),
        )
        .await;
        assert_eq!(told[0].json(), done);
        assert!(told[0].signature.is_empty() && told[0].processor_signature.is_empty());

        // Signed anew it is the same request, with anything else in it another one.
        let again = session.exercise(&with(message.clone(), &session.agent.claims())).await;
        assert_eq!((again.status, &again.body), (StatusCode::OK, &done));
        let other = with(message, &json!({"email": email("person-2")}));
        assert_refused(&session.exercise(&other).await, StatusCode::CONFLICT, "agent-request-id");
        assert_refused(&session.revoke(id).await, StatusCode::CONFLICT, "fulfilled");
        let requests = service.pages("/v1/deletion-requests").await;
        assert_eq!(requests.len(), 1, "{requests:#?}");
        assert_eq!(requests[0]["samples"], people::SAMPLES_EACH);

        // Somebody unknown, and somebody who is gone already.
        for (address, status) in [("nobody", "denied"), ("person-1", "fulfilled")] {
            let answer = session.exercise(&session.deletion(&email(address))).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:#?}");
            assert_eq!(answer.body["status"], status, "{answer:#?}");
        }
        let log = service.log();
        assert!(!log.contains("Example.org") && !log.contains(&session.token));
        assert_eq!(receiver.received().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_its_agents_who_may_revoke_it() {
    for database in Database::ALL {
        // Nobody works on what is queued.
        let service = start(database, &[], &["--role", "api"]).await;
        ingest(&service).await;
        let first = Agent::first().set_up(&service).await;
        let second = Agent::second().set_up(&service).await;
        let message = first.deletion(&email("person-1"));
        let taken = first.exercise(&message).await;
        assert_eq!(taken.body["status"], "in_progress", "{taken:#?}");
        assert!(field(&taken.body, "/expected_by").is_string());
        let id = taken.body["request_id"].as_str().unwrap();
        // The same message is the same request, and nobody else's.
        assert_eq!(first.exercise(&message).await.body, taken.body);
        assert_eq!(service.pages("/v1/deletion-requests").await.len(), 1);
        let sealed = first.agent.sign(&message);
        let stolen = second.send(Method::POST, REQUESTS, Some(&sealed)).await;
        assert_refused(&stolen, StatusCode::FORBIDDEN, "signature");

        assert_refused(&second.read(id).await, StatusCode::FORBIDDEN, "another agent's");
        assert_refused(&second.revoke(id).await, StatusCode::FORBIDDEN, "another agent's");
        let other = second.send(Method::GET, "/drp/v1/agent/FIRST_AGENT", None).await;
        assert_refused(&other, StatusCode::FORBIDDEN, "another agent's");
        let unknown = "a7551968-d5d6-44b2-9831-815ac9017798";
        assert_refused(&first.read(unknown).await, StatusCode::NOT_FOUND, "request_id");

        let unsigned = BASE64_STANDARD.encode([0; 70]);
        let path = format!("{REQUESTS}/{id}");
        let forged = first.send(Method::DELETE, &path, Some(&unsigned)).await;
        assert_refused(&forged, StatusCode::FORBIDDEN, "signature");
        // Whoever has copied the request cannot revoke it.
        let copied = first.send(Method::DELETE, &path, Some(&sealed)).await;
        assert_refused(&copied, StatusCode::FORBIDDEN, "fields");
        for _ in 0..2 {
            let revoked = first.revoke(id).await;
            assert_eq!(revoked.status, StatusCode::OK, "{revoked:#?}");
            assert_eq!(revoked.body["status"], "revoked");
        }
        assert_eq!(first.read(id).await.body["status"], "revoked");
        assert_eq!(first.exercise(&message).await.body["status"], "revoked", "it does not return");

        // An earlier request of somebody else deletes the person: this one cannot take that back.
        people::forget(&service, &["person-2"]).await;
        let late = first.exercise(&first.deletion(&email("person-2"))).await;
        assert_eq!(late.body["status"], "in_progress", "{late:#?}");
        let id = late.body["request_id"].as_str().unwrap();
        assert_refused(&first.revoke(id).await, StatusCode::CONFLICT, "earlier requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_one_agents_and_is_asked_for_by_its_key() {
    for database in Database::ALL {
        let mut service = start(database, &[], &["--role", "api"]).await;
        let agent = Agent::first();
        let path = "/drp/v1/agent/FIRST_AGENT";
        let set_up =
            async |sealed: &str| send(&service, Method::POST, path, None, Some(sealed)).await;
        let earlier = now().plus(Duration::from_mins(1));
        let tomorrow = now().plus(Duration::from_hours(24));
        for refused in [
            Agent::second().sign(&agent.claims()),
            agent.sign(&with(agent.claims(), &json!({"agent-id": "SECOND_AGENT"}))),
            agent.sign(&with(agent.claims(), &json!({"business-id": "ANOTHER"}))),
            agent.sign(&with(agent.claims(), &json!({"issued-at": earlier}))),
            agent.sign(&with(agent.claims(), &json!({"expires-at": "2026-01-01T00:00:00Z"}))),
            agent.sign(&with(agent.claims(), &json!({"expires-at": tomorrow}))),
            agent.sign(&with(agent.claims(), &json!({"drp.version": "0.5"}))),
            // It was signed to exercise a right.
            agent.sign(&with(agent.claims(), &json!({"exercise": "deletion"}))),
            agent.claims().to_string(),
            String::new(),
        ] {
            let answer = set_up(&refused).await;
            // Without a word.
            assert_eq!((answer.status, answer.body), (StatusCode::FORBIDDEN, Value::Null));
        }
        let stranger = Agent::new("STRANGER", 3);
        let sealed = stranger.sign(&stranger.claims());
        let answer =
            send(&service, Method::POST, "/drp/v1/agent/STRANGER", None, Some(&sealed)).await;
        assert_eq!((answer.status, answer.body), (StatusCode::FORBIDDEN, Value::Null));

        let sealed = agent.sign(&agent.claims());
        let first = set_up(&sealed).await.body["token"].as_str().unwrap().to_owned();
        assert_eq!(set_up(&sealed).await.status, StatusCode::FORBIDDEN, "the same again");
        let second = set_up(&agent.sign(&agent.claims())).await;
        let second = second.body["token"].as_str().unwrap().to_owned();
        let check =
            async |token: Option<&str>| send(&service, Method::GET, path, token, None).await;
        assert_eq!(check(Some(&second)).await.status, StatusCode::OK);
        assert_refused(&check(Some(&first)).await, StatusCode::FORBIDDEN, "another agent's");
        assert_refused(&check(None).await, StatusCode::UNAUTHORIZED, "token");
        let message = agent.sign(&agent.claims());
        for token in [None, Some(first.as_str()), Some("forgetd_0")] {
            let answer = send(&service, Method::POST, REQUESTS, token, Some(&message)).await;
            assert_refused(&answer, StatusCode::UNAUTHORIZED, "token");
            assert!(answer.headers.contains_key("www-authenticate"));
            assert!(answer.body.get("fatal").is_none(), "with another token it is served");
        }
        // It opens nothing else once there are keys, and survives a restart; the agent may not.
        let add = ["keys", "add", "--name", "x", "--scope", "admin"];
        assert!(output_of(service.command().args(add)).status.success());
        service.kill();
        service.restart().await;
        let check = async |token: &str| send(&service, Method::GET, path, Some(token), None).await;
        assert_eq!(check(&second).await.status, StatusCode::OK);
        let models = send(&service, Method::GET, "/v1/models", Some(&second), None).await;
        assert_eq!(models.status, StatusCode::UNAUTHORIZED);
        let others = format!("[{}]", Agent::second().configured());
        service.set_variable("FORGETD_DRP__AGENTS", &others);
        service.kill();
        service.restart().await;
        let gone = send(&service, Method::GET, path, Some(&second), None).await;
        assert_refused(&gone, StatusCode::FORBIDDEN, "another agent's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_the_specification_has_it_is_refused_for_good() {
    let service = start(Database::Sqlite, &[], &["--role", "api"]).await;
    ingest(&service).await;
    let session = Agent::first().set_up(&service).await;
    let deletion = || session.deletion(&email("person-1"));
    let future = now().plus(Duration::from_mins(1));
    let tomorrow = now().plus(Duration::from_hours(24));
    let (bad, forbidden) = (StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN);
    for (more, status, words) in [
        (json!({"agent-id": "SECOND_AGENT"}), forbidden, "agent-id"),
        (json!({"business-id": "ANOTHER"}), forbidden, "business-id"),
        (json!({"issued-at": future}), forbidden, "issued-at"),
        (json!({"expires-at": "2026-01-01T00:00:00Z"}), forbidden, "expires-at"),
        (json!({"expires-at": tomorrow}), forbidden, "an hour"),
        (json!({"expires-at": "soon"}), bad, "expires-at"),
        (json!({"business-id": null}), bad, "business-id"),
        (json!({"drp.version": "0.5"}), bad, "drp.version"),
        (json!({"exercise": "access"}), bad, "only `deletion`"),
        (json!({"exercise": "sale:opt-out"}), bad, "only `deletion`"),
        (json!({"exercise": "person-1"}), bad, "exercise"),
        (json!({"regime": "gdpr"}), bad, "regime"),
        (json!({"email": "person-1"}), bad, "e-mail address"),
        (json!({"email": 17}), bad, "email"),
        (json!({"email_verified": false}), bad, "names nobody"),
        (json!({"email": null}), bad, "names nobody"),
        (json!({"status_callback": "https://10.0.0.1/person-1"}), bad, "status_callback"),
    ] {
        let answer = session.exercise(&with(deletion(), &more)).await;
        assert_refused(&answer, status, words);
        assert_eq!(answer.body["fatal"], true, "{more}");
    }
    let plain = session.send(Method::POST, REQUESTS, Some(&deletion().to_string())).await;
    assert_refused(&plain, bad, "base64");
    let sealed = session.agent.sign(&deletion());
    let request = service.request(Method::POST, REQUESTS).bearer_auth(&session.token);
    let typed = answer(request.header(CONTENT_TYPE, "application/json").body(sealed.clone())).await;
    assert_refused(&typed, StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain");
    assert!(service.pages("/v1/deletion-requests").await.is_empty());
    // Without a type, and with the slash of older versions, it is served.
    let path = format!("{REQUESTS}/");
    let request = service.request(Method::POST, &path).bearer_auth(&session.token).body(sealed);
    let taken = answer(request).await;
    assert_eq!(taken.status, StatusCode::OK, "{taken:#?}");
    assert_eq!(service.pages("/v1/deletion-requests").await.len(), 1);
}

/// With a limit for the first agent, and none for the second.
async fn start_limited(limit: &str) -> Service {
    let agents = format!("[{},{}]", Agent::first().limited(limit), Agent::second().configured());
    start(Database::Sqlite, &[("FORGETD_DRP__AGENTS", agents.as_str())], &["--role", "api"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_too_much_deleted_waits() {
    let service = start_limited("samples_per_day=4").await;
    ingest(&service).await;
    let (first, second) = (Agent::first(), Agent::second());
    let (first, second) = (first.set_up(&service).await, second.set_up(&service).await);
    let exercise = async |session: &Session<'_>, person: &str| {
        session.exercise(&session.deletion(&email(person))).await
    };
    assert_eq!(exercise(&first, "person-1").await.status, StatusCode::OK);
    let refused = exercise(&first, "person-2").await;
    assert_refused(&refused, StatusCode::TOO_MANY_REQUESTS, "names 3 samples");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((86_000..=86_400).contains(&wait), "{wait}");
    assert_eq!(refused.body["fatal"], Value::Null, "it may be sent again");
    for person in ["person-2", "person-3"] {
        assert_eq!(exercise(&second, person).await.status, StatusCode::OK, "no limit");
    }
    assert_eq!(service.pages("/v1/deletion-requests").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_too_fast_waits() {
    let service = start_limited("requests_per_minute=2").await;
    let (first, second) = (Agent::first(), Agent::second());
    let (first, second) = (first.set_up(&service).await, second.set_up(&service).await);
    let check = async |session: &Session<'_>| {
        session.send(Method::GET, &format!("/drp/v1/agent/{}", session.agent.id), None).await
    };
    assert_eq!(check(&first).await.status, StatusCode::OK);
    let refused = check(&first).await;
    assert_refused(&refused, StatusCode::TOO_MANY_REQUESTS, "2 requests a minute");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.body["fatal"], Value::Null, "it may be sent again");
    for _ in 0..5 {
        assert_eq!(check(&second).await.status, StatusCode::OK, "the other has no limit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_every_path_says_that_it_is_off() {
    let service = Service::start(Database::Sqlite).await;
    let (agent, id) = (Agent::first(), "a7551968-d5d6-44b2-9831-815ac9017798");
    let sealed = agent.sign(&agent.claims());
    let request = format!("{REQUESTS}/{id}");
    for (method, path) in [
        (Method::POST, "/drp/v1/agent/FIRST_AGENT"),
        (Method::GET, "/drp/v1/agent/FIRST_AGENT"),
        (Method::POST, REQUESTS),
        (Method::GET, request.as_str()),
        (Method::DELETE, request.as_str()),
    ] {
        let answer = send(&service, method, path, Some("x"), Some(&sealed)).await;
        assert_refused(&answer, StatusCode::NOT_FOUND, "not offered");
    }
}

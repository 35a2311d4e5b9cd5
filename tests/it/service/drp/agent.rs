//! An Authorized Agent, which signs its messages by another implementation of Ed25519 than the
//! service's.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use forgetd::{clock::Clock, domain::timestamp::Timestamp};
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::REQUESTS;
use crate::service::{
    Service, eventually,
    process::{Answer, answer},
};

/// An agent with its signing key.
pub struct Agent {
    pub id: &'static str,
    key: Ed25519KeyPair,
}

/// An agent with the token that it got.
pub struct Session<'s> {
    service: &'s Service,
    pub agent: Agent,
    pub token: String,
}

impl Agent {
    pub fn new(id: &'static str, seed: u8) -> Self {
        Self { id, key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    pub fn first() -> Self {
        Self::new("FIRST_AGENT", 1)
    }

    pub fn second() -> Self {
        Self::new("SECOND_AGENT", 2)
    }

    /// As the configuration has it, without a limit.
    pub fn configured(&self) -> String {
        let key = BASE64_STANDARD.encode(self.key.public_key());
        format!("{{id=\"{}\",verify_key=\"{key}\"}}", self.id)
    }

    /// As the configuration has it.
    pub fn limited(&self, limit: &str) -> String {
        self.configured().replace('}', &format!(",{limit}}}"))
    }

    pub fn sign(&self, message: &Value) -> String {
        let message = message.to_string();
        let signature = self.key.sign(message.as_bytes());
        BASE64_STANDARD.encode([signature.as_ref(), message.as_bytes()].concat())
    }

    /// The claims of a message that is issued now and good for ten minutes.
    pub fn claims(&self) -> Value {
        json!({
            "agent-id": self.id,
            "business-id": "FORGETD",
            "issued-at": now(),
            "expires-at": now().plus(Duration::from_mins(10)),
            "drp.version": "0.9.4",
        })
    }

    pub async fn set_up(self, service: &Service) -> Session<'_> {
        let path = format!("/drp/v1/agent/{}", self.id);
        let got = send(service, Method::POST, &path, None, Some(&self.sign(&self.claims()))).await;
        assert_eq!(got.status, StatusCode::OK, "{got:#?}");
        assert_eq!(got.body["agent-id"], self.id);
        let token = got.body["token"].as_str().unwrap().to_owned();
        Session { service, agent: self, token }
    }
}

impl Session<'_> {
    pub async fn send(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        send(self.service, method, path, Some(&self.token), body).await
    }

    pub async fn exercise(&self, message: &Value) -> Answer {
        self.send(Method::POST, REQUESTS, Some(&self.agent.sign(message))).await
    }

    pub async fn read(&self, id: &str) -> Answer {
        self.send(Method::GET, &format!("{REQUESTS}/{id}"), None).await
    }

    pub async fn revoke(&self, id: &str) -> Answer {
        let message = self.agent.sign(&json!({"reason": "person-1 wants to stay"}));
        self.send(Method::DELETE, &format!("{REQUESTS}/{id}"), Some(&message)).await
    }

    /// A deletion of the person with this address.
    pub fn deletion(&self, address: &str) -> Value {
        with(
            self.agent.claims(),
            &json!({
                "exercise": "deletion",
                "regime": "ccpa",
                "relationships": ["customer"],
                "name": "Person One",
                "email": address,
                "email_verified": true,
            }),
        )
    }

    pub async fn becomes(&self, id: &str, status: &str) -> Value {
        eventually(
            &format!("rights request {id} becomes {status}"),
            async || self.read(id).await.body,
            |body| body["status"] == status,
        )
        .await
    }
}

pub fn with(mut message: Value, more: &Value) -> Value {
    let more = more.as_object().unwrap().clone();
    message.as_object_mut().unwrap().extend(more);
    message
}

pub fn now() -> Timestamp {
    Clock::system().now()
}

pub async fn send(
    service: &Service,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> Answer {
    let mut request = service.request(method, path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.header(CONTENT_TYPE, "text/plain").body(body.to_owned());
    }
    answer(request).await
}

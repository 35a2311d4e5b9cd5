//! One attempt at one message: signed as Standard Webhooks has it, sent, and judged.

use axum::http::HeaderName;
use metrics::{counter, histogram};
use tracing::{debug, warn};

use super::{Messenger, schedule};
use crate::{
    domain::{
        chain::Chain,
        webhook::{Failure, Message, WebhookSecret},
    },
    outbound::{OutboundError, Receipt},
    store::{ClaimedMessages, Delivery, Signing},
};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

impl Messenger {
    /// Says what came of it; nothing is recorded yet.
    pub(super) async fn attempt(&self, claimed: &ClaimedMessages, message: &Message) -> Delivery {
        let started = self.clock.monotonic();
        let headers = match &claimed.signing {
            Signing::Webhook(secrets) => {
                headers(message, secrets, self.clock.now().as_micros() / 1_000_000).to_vec()
            }
            Signing::OpenDsr => match self.processor_headers(message).await {
                Some(headers) => headers,
                None => return self.failed(message, Failure::Unreachable, None),
            },
            Signing::Nobody => Vec::new(),
        };
        let (body, patience) = (message.payload.clone(), self.options.timeout);
        let outbound = match &claimed.signing {
            Signing::Webhook(_) => &self.outbounds.webhooks,
            Signing::OpenDsr | Signing::Nobody => &self.outbounds.callbacks,
        };
        let answered = outbound.deliver(&claimed.url, &headers, body, patience).await;
        let seconds = self.clock.monotonic().saturating_duration_since(started).as_secs_f64();
        histogram!("forgetd_webhook_delivery_seconds").record(seconds);
        let delivery = self.judge(message, &answered);
        let outcome = match (&delivery, &answered) {
            (Delivery::Delivered { .. }, _) => "delivered",
            (Delivery::Gone { .. }, _) => "gone",
            (Delivery::Failed { failure, .. }, _) => failure.as_str(),
        };
        counter!("forgetd_webhook_attempts_total", "outcome" => outcome).increment(1);
        let webhook_id = claimed.webhook_id;
        match &answered {
            Ok(receipt) => {
                debug!(%webhook_id, message_id = %message.id, receipt.status, "answered");
            }
            Err(error) => {
                let error = Chain(error);
                debug!(%webhook_id, message_id = %message.id, %error, "a message was not answered");
            }
        }
        delivery
    }

    fn judge(&self, message: &Message, answered: &Result<Receipt, OutboundError>) -> Delivery {
        let (failure, receipt) = match answered {
            Ok(receipt) if receipt.is_success => {
                return Delivery::Delivered { status: receipt.status };
            }
            Ok(receipt) if receipt.is_gone => return Delivery::Gone { status: receipt.status },
            Ok(receipt) => (Failure::Refused, Some(receipt)),
            Err(OutboundError::TooSlow(_)) => (Failure::TimedOut, None),
            Err(OutboundError::OutOfReach(_)) => (Failure::OutOfReach, None),
            Err(
                OutboundError::Tls(_)
                | OutboundError::Address(_)
                | OutboundError::Request(..)
                | OutboundError::Failed(..)
                | OutboundError::Refused { .. },
            ) => (Failure::Unreachable, None),
        };
        self.failed(message, failure, receipt)
    }

    fn failed(&self, message: &Message, failure: Failure, receipt: Option<&Receipt>) -> Delivery {
        let attempt = message.attempts + 1;
        let retry_after = receipt.and_then(|receipt| receipt.retry_after);
        let retry_at = schedule::retry_at(attempt, retry_after, self.draw(), self.clock.now());
        Delivery::Failed { failure, status: receipt.map(|receipt| receipt.status), retry_at }
    }

    /// Signed on a thread that may compute. `None` where it cannot be.
    async fn processor_headers(&self, message: &Message) -> Option<Vec<(HeaderName, String)>> {
        let (processor, body) = (self.processor.clone()?, message.payload.clone());
        let signed = tokio::task::spawn_blocking(move || processor.headers(body.as_bytes())).await;
        match signed {
            Ok(Ok(headers)) => Some(headers.to_vec()),
            Ok(Err(error)) => {
                warn!(message_id = %message.id, error = %Chain(&error), "a callback is not signed");
                None
            }
            Err(error) => {
                warn!(message_id = %message.id, %error, "a callback is not signed");
                None
            }
        }
    }

    /// Random, from 0 to 1.
    fn draw(&self) -> f64 {
        f64::from(u32::from_le_bytes(self.ids.bytes())) / f64::from(u32::MAX)
    }
}

/// Signed anew at each attempt, since receivers refuse old timestamps.
fn headers(
    message: &Message,
    secrets: &[WebhookSecret],
    timestamp_s: i64,
) -> [(HeaderName, String); 3] {
    let id = message.id.to_string();
    let signatures: Vec<_> =
        secrets.iter().map(|secret| secret.sign(&id, timestamp_s, &message.payload)).collect();
    [(ID, id), (TIMESTAMP, timestamp_s.to_string()), (SIGNATURE, signatures.join(" "))]
}

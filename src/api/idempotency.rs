//! Safe retries: the publisher's id in body or header, and what makes two requests the same.

use super::error::{Code, Outcome, Problem};
use crate::domain::message::{Draft, MessageId};
use crate::domain::principal::UserId;
use crate::relay::{ClaimError, Digest};
use actix_web::http::header::HeaderName;
use actix_web::{FromRequest, HttpRequest, dev};
use aws_lc_rs::digest::{Context, SHA256};
use std::future::{Ready, ready};
use std::time::Duration;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The header `Idempotency-Key`, with or without the quotes of
/// draft-ietf-httpapi-idempotency-key-header.
pub struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// The message's id, which the body or the header gives. Errors: 400 where they differ, 422 for
    /// a header that is no id.
    pub fn or(self, id: Option<String>) -> Outcome<Option<String>> {
        let Some(key) = self.0 else { return Ok(id) };
        if id.is_some_and(|id| id != key) {
            let detail = "Idempotency-Key and id are both given, with different values";
            return Err(Problem::new(Code::ConflictingParameter, detail));
        }
        MessageId::new(&key)
            .map_err(|error| Problem::invalid("Idempotency-Key", error.to_string()))?;
        Ok(Some(key))
    }

    /// A batch has an id an entry. Errors: 400 where the header is given.
    pub fn refuse_for_a_batch(&self) -> Outcome<()> {
        match self.0 {
            None => Ok(()),
            Some(_) => {
                let detail = "one Idempotency-Key cannot stand for many messages: give each entry its own id";
                Err(Problem::new(Code::ConflictingParameter, detail))
            }
        }
    }
}

impl FromRequest for IdempotencyKey {
    type Error = Problem;
    type Future = Ready<Outcome<Self>>;

    fn from_request(request: &HttpRequest, _: &mut dev::Payload) -> Self::Future {
        let values = request
            .headers()
            .get_all(HEADER)
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        let mut keys: Vec<String> = values.map(|value| unquoted(value.trim()).to_owned()).collect();
        keys.dedup();
        ready(match keys.len() {
            0 | 1 => Ok(Self(keys.pop())),
            _ => Err(Problem::new(
                Code::ConflictingParameter,
                "Idempotency-Key is given twice with different values",
            )),
        })
    }
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// What makes two requests the same: who asks, and everything that is asked for but the id.
pub fn digest(user: &UserId, draft: &Draft) -> Digest {
    let mut context = Context::new(&SHA256);
    // Each part goes in behind its length, so that no two lists of parts look alike.
    let mut part = |text: &str| {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    };
    part(user.as_str());
    part(&draft.written);
    part(&draft.json);
    part(draft.filter.as_ref().map_or("", |filter| filter.as_str()));
    part(&draft.ttl.map_or(String::new(), |ttl| ttl.as_secs().to_string()));
    part(&draft.exclude.users.len().to_string());
    draft.exclude.users.iter().for_each(|user| part(user.as_str()));
    draft.exclude.connections.iter().for_each(|connection| part(connection));
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// 409 `ID_REUSED`, or 503 `OVERLOADED` where no more ids can be remembered: nothing was sent.
pub fn refusal(error: ClaimError) -> Problem {
    match error {
        ClaimError::Reused => Problem::new(Code::IdReused, error.to_string()),
        ClaimError::Full { .. } => {
            Problem::new(Code::Overloaded, format!("{error}; nothing was sent"))
                .with_retry_after(Duration::from_secs(1))
        }
    }
}

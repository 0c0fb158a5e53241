//! A signed token's form (RFC 7515): three parts, and a header of which only `alg` and `kid` count.

use super::algorithm::SignatureAlgorithm;
use super::error::AuthError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// A token whose header was read; nothing is verified yet.
pub(super) struct Token<'a> {
    /// What the header says it is signed with. Whether that may be is the key's to say.
    pub algorithm: SignatureAlgorithm,
    /// The key that the header names.
    pub key_id: Option<String>,
    /// What is signed: header and payload, with the dot between them.
    pub message: &'a [u8],
    /// The signature, still encoded.
    pub signature: &'a str,
    /// The claims, still encoded.
    payload: &'a str,
}

impl<'a> Token<'a> {
    /// Reads the header. `jwk`, `jku`, `x5u` and `x5c` are not looked at. Errors:
    /// `AuthError::Invalid`, also for any `crit`, as no extension is understood here (RFC 7515,
    /// 4.1.11).
    pub fn parse(token: &'a str) -> Result<Self, AuthError> {
        const FORM: AuthError = AuthError::Invalid("the token is not a signed JWT of three parts");
        let (message, signature) = token.rsplit_once('.').ok_or(FORM)?;
        let (header, payload) = message.split_once('.').ok_or(FORM)?;
        if payload.contains('.') {
            return Err(FORM);
        }
        let header =
            decode(header).ok_or(AuthError::Invalid("the token's header cannot be read"))?;
        if header.contains_key("crit") {
            return Err(AuthError::Invalid(
                "the token's header has a crit extension, and none is understood",
            ));
        }
        if header.get("b64").is_some_and(|b64| *b64 != Value::Bool(true)) {
            return Err(AuthError::Invalid("the token's payload must be base64url-encoded"));
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(SignatureAlgorithm::new);
        let algorithm = algorithm.ok_or(AuthError::Invalid(
            "the token's alg must be one of HS256, RS256, PS256, ES256 and EdDSA",
        ))?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(key_id)) => Some(key_id.clone()),
            Some(_) => return Err(AuthError::Invalid("the token's kid must be a string")),
        };
        Ok(Self { algorithm, key_id, message: message.as_bytes(), signature, payload })
    }

    /// The claims; call it once the signature was verified. Errors: `AuthError::Invalid`.
    pub fn claims(&self) -> Result<Map<String, Value>, AuthError> {
        decode(self.payload).ok_or(AuthError::Invalid("the token's payload is not a JSON object"))
    }
}

fn decode(part: &str) -> Option<Map<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

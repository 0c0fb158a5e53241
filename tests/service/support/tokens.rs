//! Tokens of every kind, signed with the secret that the test servers trust.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

/// The HS256 secret of every test server.
pub const SECRET: &str = "a-secret-of-the-tests-with-more-than-32-bytes";

/// Builds a token claim by claim.
#[derive(Clone)]
pub struct Token(Map<String, Value>);

/// A token of `user`: valid for an hour in instance `main`, with the role to connect.
pub fn token(user: &str) -> Token {
    Token(Map::new())
        .with("sub", user)
        .with("roles", json!(["REALTIME_CONNECT"]))
        .with("instances", json!(["main"]))
        .expires_in(3_600)
}

impl Token {
    /// Sets a claim.
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        self.0.insert(claim.into(), value.into());
        self
    }

    /// Takes a claim away.
    pub fn without(mut self, claim: &str) -> Self {
        self.0.remove(claim);
        self
    }

    /// Sets `exp`, in seconds from now; may be negative.
    pub fn expires_in(self, seconds: i64) -> Self {
        self.with("exp", chrono::Utc::now().timestamp() + seconds)
    }

    /// Sets `groups`.
    pub fn groups(self, groups: &[&str]) -> Self {
        self.with("groups", json!(groups))
    }

    /// Sets `roles`.
    pub fn roles(self, roles: &[&str]) -> Self {
        self.with("roles", json!(roles))
    }

    /// Sets `instances`.
    pub fn instances(self, instances: &[&str]) -> Self {
        self.with("instances", json!(instances))
    }

    /// Makes it a component's: it may publish.
    pub fn component(self) -> Self {
        self.with("component", "tests")
    }

    /// An administrator of `main`.
    pub fn admin(user: &str) -> Self {
        token(user).roles(&["REALTIME_ADMIN"])
    }

    /// An operator.
    pub fn operator() -> Self {
        token("operator").roles(&["REALTIME_OPERATOR"]).instances(&["*"])
    }

    /// The claims.
    pub fn claims(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// The signed token.
    pub fn sign(&self) -> String {
        self.sign_with(&Header::new(Algorithm::HS256), SECRET.as_bytes())
    }

    /// The same with a claim and a header field as long as it takes to have so many bytes, at least
    /// some 1,000.
    pub fn sign_to(&self, bytes: usize) -> String {
        let room = (bytes - self.sign().len()) * 3 / 4;
        let pads = (0..4).flat_map(|kid| (room - 100..room).map(move |claim| (kid, claim)));
        let mut padded = pads.map(|(kid, claim)| {
            let header = Header { kid: Some("k".repeat(kid)), ..Header::new(Algorithm::HS256) };
            self.clone().with("pad", "p".repeat(claim)).sign_with(&header, SECRET.as_bytes())
        });
        padded.find(|token| token.len() == bytes).expect("a token of this length")
    }

    /// The token signed with another header or secret.
    pub fn sign_with(&self, header: &Header, secret: &[u8]) -> String {
        encode(header, &self.0, &EncodingKey::from_secret(secret)).expect("claims can be signed")
    }
}

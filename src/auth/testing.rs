//! Keys and tokens for the tests of this module.

use super::{AuthSettings, Authenticator, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use serde_json::{Value, json};

pub const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// A private key, and its public half in PEM.
pub struct Signer {
    pub public_pem: String,
    pub algorithm: Algorithm,
    pub key: EncodingKey,
}

impl Signer {
    pub fn secret(secret: &[u8]) -> Self {
        Self {
            public_pem: String::new(),
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret),
        }
    }

    pub fn rsa(algorithm: Algorithm) -> Self {
        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { public_pem: pair.public_key_pem(), algorithm, key }
    }

    pub fn p256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { public_pem: pair.public_key_pem(), algorithm: Algorithm::ES256, key }
    }

    pub fn ed25519() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { public_pem: pair.public_key_pem(), algorithm: Algorithm::EdDSA, key }
    }

    /// The public half as a JWK with these further fields.
    pub fn jwk(&self, fields: Value) -> Value {
        let mut jwk = json!(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap());
        let jwk_fields = jwk.as_object_mut().unwrap();
        jwk_fields.remove("alg");
        jwk_fields.extend(fields.as_object().unwrap().clone());
        jwk
    }

    /// A token of alice's that holds for an hour.
    pub fn token(&self) -> String {
        self.sign(&json!({}), &alice())
    }

    /// A token with these claims, and these fields in its header besides `alg`.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let mut fields = json!({"alg": self.algorithm}).as_object().unwrap().clone();
        fields.extend(header.as_object().unwrap().clone());
        self.sign_text(&Value::Object(fields).to_string(), &claims.to_string())
    }

    /// A token of exactly this text.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

pub fn p384_public_pem() -> String {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem()
}

/// Claims that hold for an hour.
pub fn alice() -> Value {
    json!({"sub": "alice", "exp": now() + 3_600})
}

/// `alice` with these claims changed or added; `null` takes one away.
pub fn alice_with(changes: Value) -> Value {
    let mut claims = alice();
    let fields = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    claims
}

pub fn now() -> i64 {
    super::unix_now()
}

pub fn with_secret() -> AuthSettings {
    AuthSettings { secret: Some(SECRET.to_vec()), ..AuthSettings::default() }
}

pub fn with_pem(pem: &str) -> AuthSettings {
    let key = PublicKey { name: "key.pem".into(), pem: pem.as_bytes().to_vec() };
    AuthSettings { public_keys: vec![key], ..AuthSettings::default() }
}

pub fn authenticator(settings: AuthSettings) -> Authenticator {
    Authenticator::new(settings).unwrap()
}

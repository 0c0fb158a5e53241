//! A key and the algorithms it may be used with: the key decides, never the token.

use super::algorithm::SignatureAlgorithm;
use super::token::Token;
use crate::domain::principal::KeyStanding;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, crypto};
use serde_json::{Map, Value};

/// A key that can verify signatures.
#[derive(Clone)]
pub(super) struct Key {
    /// Its `kid`; keys from settings have none.
    id: Option<String>,
    /// What it may verify: its family's algorithms, or the one that its `alg` names.
    algorithms: Vec<SignatureAlgorithm>,
    /// The key itself.
    key: DecodingKey,
    /// Shared with the principals whose tokens it verified.
    standing: KeyStanding,
}

impl Key {
    /// An HS256 secret.
    pub fn from_secret(secret: &[u8]) -> Self {
        Self::new(DecodingKey::from_secret(secret))
    }

    /// The one public key of a PEM file (`PUBLIC KEY` or `RSA PUBLIC KEY`). Errors: what is wrong
    /// with it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(pem).map_err(|_| "it is not PEM text")?;
        if text.contains("PRIVATE KEY-----") {
            return Err("it holds a private key, which has no place here");
        }
        if text.matches("-----BEGIN ").count() != 1 {
            return Err("it must hold exactly one PEM block");
        }
        if !text.contains("-----BEGIN PUBLIC KEY-----")
            && !text.contains("-----BEGIN RSA PUBLIC KEY-----")
        {
            return Err("it is neither a PUBLIC KEY nor an RSA PUBLIC KEY in PEM");
        }
        let readers =
            [DecodingKey::from_ec_pem, DecodingKey::from_ed_pem, DecodingKey::from_rsa_pem];
        let key = readers.iter().find_map(|read| read(pem).ok()).ok_or("it cannot be read")?;
        check(&key)?;
        Ok(Self::new(key))
    }

    /// A public key of a JWKS (RFC 7517, section 4), if it is one that verifies what is served
    /// here.
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        let fields = jwk.as_object()?;
        if !may_verify(fields) {
            return None;
        }
        let curve = fields.get("crv").and_then(Value::as_str);
        match (fields.get("kty")?.as_str()?, curve) {
            ("RSA", _) | ("EC", Some("P-256")) | ("OKP", Some("Ed25519")) => {}
            _ => return None,
        }
        let parameters = ["kty", "crv", "x", "y", "n", "e"];
        let bare: Map<_, _> =
            parameters.iter().filter_map(|name| fields.get_key_value(*name)).map(cloned).collect();
        let key = DecodingKey::from_jwk(&serde_json::from_value::<Jwk>(Value::Object(bare)).ok()?)
            .ok()?;
        check(&key).ok()?;
        let mut key = Self::new(key);
        if let Some(algorithm) = fields.get("alg") {
            let algorithm = SignatureAlgorithm::new(algorithm.as_str()?)?;
            key.algorithms.retain(|served| *served == algorithm);
        }
        if let Some(id) = fields.get("kid") {
            key.id = Some(id.as_str()?.to_owned());
        }
        (!key.algorithms.is_empty()).then_some(key)
    }

    /// Whether it is still accepted.
    pub fn standing(&self) -> &KeyStanding {
        &self.standing
    }

    /// Whether both are the same secret or public key, read from settings.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let bytes = |key: &Self| key.key.try_get_as_bytes().ok().map(<[u8]>::to_vec);
        self.key.family() == other.key.family() && bytes(self) == bytes(other)
    }

    /// Whether it is the key that the token names by `kid`.
    pub fn is_named_by(&self, token: &Token<'_>) -> bool {
        token.key_id.is_some() && self.id == token.key_id
    }

    /// Whether the token was signed with it. A key with another `kid` than the token's is not
    /// tried.
    pub fn verifies(&self, token: &Token<'_>) -> bool {
        let may_be_meant = self.id.is_none() || token.key_id.is_none() || self.is_named_by(token);
        may_be_meant
            && self.algorithms.contains(&token.algorithm)
            && crypto::verify(token.signature, token.message, &self.key, token.algorithm.get())
                .unwrap_or(false)
    }

    fn new(key: DecodingKey) -> Self {
        let algorithms = SignatureAlgorithm::all_of(key.family());
        Self { id: None, algorithms, key, standing: KeyStanding::default() }
    }
}

/// `use` and `key_ops`, where given, must allow verifying (RFC 7517, sections 4.2 and 4.3).
fn may_verify(jwk: &Map<String, Value>) -> bool {
    let purpose = jwk.get("use").is_none_or(|purpose| purpose == "sig");
    let operations = jwk.get("key_ops").is_none_or(|operations| {
        operations
            .as_array()
            .is_some_and(|operations| operations.iter().any(|operation| operation == "verify"))
    });
    purpose && operations
}

/// Whether the key has the size and the curve that its family's algorithms need.
fn check(key: &DecodingKey) -> Result<(), &'static str> {
    const RSA: &str = "an RSA key must have 2,048 to 8,192 bits";
    let Ok(bytes) = key.try_get_as_bytes() else {
        let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else {
            return Err(RSA);
        };
        let modulus: &[u8] = &n[n.iter().take_while(|byte| **byte == 0).count()..];
        let fits = (256..=1_024).contains(&modulus.len()) && !e.is_empty();
        return if fits { Ok(()) } else { Err(RSA) };
    };
    match key.family() {
        AlgorithmFamily::Rsa => {
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bytes).parse().map_err(|_| RSA)?
        }
        AlgorithmFamily::Ec if bytes.len() == 65 => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes)
                .parse()
                .map_err(|_| "an EC key must be on the curve P-256")?
        }
        AlgorithmFamily::Ec => return Err("an EC key must be on the curve P-256"),
        AlgorithmFamily::Ed => UnparsedPublicKey::new(&ED25519, bytes)
            .parse()
            .map_err(|_| "an Edwards key must be an Ed25519 key")?,
        AlgorithmFamily::Hmac => return Err("a secret is not a public key"),
    };
    Ok(())
}

fn cloned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

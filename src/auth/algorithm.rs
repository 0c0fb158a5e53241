//! The algorithms that a token may be signed with.

use jsonwebtoken::{Algorithm, AlgorithmFamily};

/// One of the algorithms that are served (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignatureAlgorithm(Algorithm);

impl SignatureAlgorithm {
    const ALL: [(&'static str, Algorithm); 5] = [
        ("HS256", Algorithm::HS256),
        ("RS256", Algorithm::RS256),
        ("PS256", Algorithm::PS256),
        ("ES256", Algorithm::ES256),
        ("EdDSA", Algorithm::EdDSA),
    ];

    /// The algorithm of that name, if it is served.
    pub fn new(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| Self(*algorithm))
    }

    /// What `jsonwebtoken` calls it.
    pub fn get(self) -> Algorithm {
        self.0
    }

    /// Whether it needs a public key, as a JWKS holds them.
    pub fn is_asymmetric(self) -> bool {
        self.0 != Algorithm::HS256
    }

    /// Those that a key of this family can verify.
    pub fn all_of(family: AlgorithmFamily) -> Vec<Self> {
        Self::ALL
            .iter()
            .filter(|(_, algorithm)| algorithm.family() == family)
            .map(|(_, one)| Self(*one))
            .collect()
    }
}

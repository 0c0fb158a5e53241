//! Signatures, algorithms, forms and limits; what the claims say is tested beside `claims`.

use super::testing::*;
use super::*;
use crate::domain::claims::claims_test::shapes;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value, json};

async fn verify(settings: AuthSettings, token: &str) -> Result<Arc<Principal>, AuthError> {
    authenticator(settings).verify(token).await
}

fn is_invalid(outcome: Result<Arc<Principal>, AuthError>) -> bool {
    matches!(outcome, Err(AuthError::Invalid(_)))
}

#[tokio::test]
async fn every_family_verifies_with_the_algorithms_of_its_key() {
    let principal = verify(with_secret(), &Signer::secret(SECRET).token()).await.unwrap();
    assert_eq!(principal.user.as_str(), "alice");
    for signer in [
        Signer::rsa(Algorithm::RS256),
        Signer::rsa(Algorithm::PS256),
        Signer::p256(),
        Signer::ed25519(),
    ] {
        let outcome = verify(with_pem(&signer.public_pem), &signer.token()).await;
        assert!(outcome.is_ok(), "{:?}: {outcome:?}", signer.algorithm);
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_the_keys_is_refused() {
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS384, Algorithm::PS512] {
        let signer = Signer::rsa(algorithm);
        assert!(
            is_invalid(verify(with_pem(&signer.public_pem), &signer.token()).await),
            "{algorithm:?}"
        );
    }
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let signer = Signer { algorithm, ..Signer::secret(SECRET) };
        assert!(is_invalid(verify(with_secret(), &signer.token()).await), "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    for signer in [Signer::rsa(Algorithm::RS256), Signer::p256(), Signer::ed25519()] {
        let forged = Signer::secret(signer.public_pem.as_bytes()).token();
        assert!(is_invalid(verify(with_pem(&signer.public_pem), &forged).await));
        let mut both = with_pem(&signer.public_pem);
        both.secret = Some(SECRET.to_vec());
        assert!(is_invalid(verify(both, &forged).await));
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let signer = Signer::secret(SECRET);
    for algorithm in ["none", "None", "NONE", "", "hs256"] {
        let signed = signer.sign(&json!({"alg": algorithm}), &alice());
        let unsigned = format!("{}.", signed.rsplit_once('.').unwrap().0);
        assert!(is_invalid(verify(with_secret(), &signed).await), "{algorithm}");
        assert!(is_invalid(verify(with_secret(), &unsigned).await), "{algorithm}");
    }
    let unsigned = format!("{}.", signer.token().rsplit_once('.').unwrap().0);
    assert!(is_invalid(verify(with_secret(), &unsigned).await));
}

#[tokio::test]
async fn a_changed_token_and_another_secret_are_refused() {
    let token = Signer::secret(SECRET).token();
    let (header, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let claims = URL_SAFE_NO_PAD.encode(alice_with(json!({"sub": "mallory"})).to_string());
    assert!(is_invalid(verify(with_secret(), &format!("{header}.{claims}.{signature}")).await));
    assert!(is_invalid(verify(with_secret(), &Signer::secret(&[7; 32]).token()).await));
}

#[tokio::test]
async fn what_is_not_a_token_is_refused() {
    let token = Signer::secret(SECRET).token();
    let cases = [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "Basic YTpi",
        &token[..token.len() - 1],
        &format!("{token}."),
        &format!("{token}="),
    ];
    for case in cases {
        assert!(is_invalid(verify(with_secret(), case).await), "{case}");
    }
    let signer = Signer::secret(SECRET);
    for claims in ["[]", "null", "\"alice\"", "{", ""] {
        let token = signer.sign_text(r#"{"alg":"HS256"}"#, claims);
        assert!(is_invalid(verify(with_secret(), &token).await), "{claims}");
    }
}

#[tokio::test]
async fn headers_that_are_not_understood_are_refused() {
    let signer = Signer::secret(SECRET);
    for header in [
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        json!({"crit": ["b64"], "b64": true}),
        json!({"b64": false}),
        json!({"b64": "true"}),
        json!({"kid": 7}),
        json!({"alg": ["HS256"]}),
    ] {
        assert!(
            is_invalid(verify(with_secret(), &signer.sign(&header, &alice())).await),
            "{header}"
        );
    }
    assert!(verify(with_secret(), &signer.sign(&json!({"b64": true}), &alice())).await.is_ok());
}

#[tokio::test]
async fn keys_that_a_token_brings_along_are_ignored() {
    let stranger = Signer::p256();
    let header = json!({"jwk": stranger.jwk(json!({})), "jku": "https://evil.example/", "x5u": 1, "x5c": "no"});
    let ours = Signer::p256();
    let settings = || with_pem(&ours.public_pem);
    assert!(is_invalid(verify(settings(), &stranger.sign(&header, &alice())).await));
    assert!(verify(settings(), &ours.sign(&header, &alice())).await.is_ok());
}

#[tokio::test]
async fn a_token_of_16_kib_is_read_and_one_byte_more_is_not() {
    let of_size = |size: usize| {
        let signer = Signer::secret(SECRET);
        let paddings =
            (0..3).flat_map(|header| (12_000..12_200).map(move |claims| (header, claims)));
        paddings
            .map(|(header, claims)| {
                let claims = alice_with(json!({"pad": "p".repeat(claims)}));
                signer.sign(&json!({"pad": "h".repeat(header)}), &claims)
            })
            .find(|token| token.len() == size)
            .unwrap()
    };
    assert!(verify(with_secret(), &of_size(MAX_TOKEN_BYTES)).await.is_ok());
    assert!(verify(with_secret(), &format!("Bearer {}", of_size(MAX_TOKEN_BYTES))).await.is_ok());
    let refusal = verify(with_secret(), &of_size(MAX_TOKEN_BYTES + 1)).await.unwrap_err();
    assert_eq!(refusal, AuthError::Invalid("the token is longer than 16 KiB"));
}

#[tokio::test]
async fn a_verified_token_is_remembered_and_a_refused_one_is_not() {
    let authenticator = authenticator(with_secret());
    let token = Signer::secret(SECRET).token();
    let first = authenticator.verify(&token).await.unwrap();
    let again = authenticator.verify(&format!("bearer {token}")).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert!(authenticator.verify(&Signer::secret(&[7; 32]).token()).await.is_err());
    assert_eq!(authenticator.0.cache.len(), 1);
    authenticator.0.generation.fetch_add(1, Ordering::AcqRel);
    let after_rotation = authenticator.verify(&token).await.unwrap();
    assert!(!Arc::ptr_eq(&first, &after_rotation));
}

#[test]
fn a_remembered_token_ends_with_its_leeway() {
    let cache = VerifiedTokens::new(1_000).unwrap();
    let rules = ClaimRules::new(with_secret());
    let claims = alice().as_object().unwrap().clone();
    let principal = Arc::new(rules.principal(claims, now()).unwrap());
    let (place, ends_at) = (cache.fingerprint("t"), rules.ends_at(&principal));
    assert_eq!(ends_at, principal.expires_at + 30);
    cache.insert(place, cache::Entry::new(&principal, 0, ends_at));
    assert!(cache.get(&place, 0, ends_at - 1).is_some());
    assert!(cache.get(&place, 0, ends_at).is_none());
    assert_eq!(cache.len(), 0);
}

#[test]
fn the_cache_remembers_as_many_as_were_set_and_large_ones_count_as_several() {
    let rules = ClaimRules::new(with_secret());
    let of = |pad: usize| {
        let claims = alice_with(json!({"pad": "x".repeat(pad)}));
        rules.principal(claims.as_object().unwrap().clone(), now()).unwrap()
    };
    let own = of(1_000).bytes() - 1_000;
    for (bytes, most) in [(own + 1, 1_000), (4_096, 1_000), (4_097, 500), (12_288, 333)] {
        let principal = Arc::new(of(bytes - own));
        let cache = VerifiedTokens::new(1_000).unwrap();
        for number in 0..5_000 {
            let place = cache.fingerprint(&format!("{number}"));
            cache.insert(place, cache::Entry::new(&principal, 0, i64::MAX));
        }
        assert!((most / 2..=most).contains(&cache.len()), "{} of {bytes} bytes", cache.len());
    }
}

/// Claims that are read: lists of names and texts that are kept apart, as short as they can be.
fn worst_lists(bytes: usize) -> Vec<Map<String, Value>> {
    let short = |number: usize| -> String {
        let two = [number / 94 % 94, number % 94];
        two.iter().map(|digit| char::from(33 + *digit as u8)).collect()
    };
    let names = |each: usize| (0..bytes / each).map(short).collect::<Vec<_>>();
    let words = |each: usize, most: usize| -> Vec<String> {
        let len = each - 3;
        (0..(bytes / each).min(most)).map(|number| format!("{number:0>len$}")).collect()
    };
    [
        json!({"roles": names(5)}),
        json!({"roles": names(3).join(" ")}),
        json!({"realm_access": {"roles": names(5)}}),
        json!({"roles": names(12), "realm_access": {"roles": words(12, 1_000)}}),
        json!({"groups": words(8, 256), "roles": names(9).join(" ")}),
        json!({"groups": words(45, 256)}),
        json!({"instances": words(8, 9_999)}),
        json!({"component": "c".repeat(bytes)}),
        json!({"jti": "t".repeat(bytes / 2), "component": "c".repeat(bytes / 2)}),
    ]
    .map(|claims| claims.as_object().unwrap().clone())
    .into()
}

#[tokio::test]
async fn what_is_kept_of_any_token_is_at_most_twice_the_token_and_2_kib_and_counted() {
    let signer = Signer::secret(SECRET);
    let authenticator = authenticator(AuthSettings { cache_entries: 1, ..with_secret() });
    for bytes in [0, 200, 1_000, 4_000, 8_000, 12_000] {
        for shape in shapes(bytes).into_iter().chain(worst_lists(bytes)) {
            let token = signer.sign(&json!({}), &alice_with(Value::Object(shape)));
            let Ok(principal) = authenticator.verify(&token).await else {
                assert!(token.len() > MAX_TOKEN_BYTES, "{} bytes are refused", token.len());
                continue;
            };
            let (kept, most) = (principal.bytes(), 2 * token.len() + 2_048);
            assert!(kept <= most, "{kept} of {most}: {:?}", principal.claims);
            let counted = authenticator.principal_bytes();
            assert!(
                (kept as u64..=(kept + PLACE) as u64).contains(&counted),
                "{counted} of {kept}"
            );
        }
    }
    drop(authenticator.verify(&signer.token()).await);
    assert!(authenticator.principal_bytes() <= PLACE as u64);
}

/// What the smallest cache holds at most.
const PLACE: usize = 4_096;

#[test]
fn settings_that_cannot_work_stop_the_start() {
    let new = |settings| Authenticator::new(settings).map(|_| ()).unwrap_err();
    assert_eq!(new(AuthSettings::default()), AuthSettingsError::NoKeys);
    let short = AuthSettings { secret: Some(vec![b'x'; 31]), ..AuthSettings::default() };
    assert_eq!(
        new(short),
        AuthSettingsError::SecretTooShort { setting: "HERALD_JWT_SECRET".into(), actual: 31 }
    );
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let twice = Signer::p256().public_pem.repeat(2);
    for pem in ["", "no key", private.as_str(), twice.as_str(), p384_public_pem().as_str()] {
        let refusal = new(with_pem(pem));
        assert!(
            matches!(&refusal, AuthSettingsError::PublicKey { name, .. } if name == "key.pem"),
            "{refusal}"
        );
    }
    let url = url::Url::parse("http://127.0.0.1/keys").unwrap();
    let inside = AuthSettings { jwks_urls: vec![url], ..AuthSettings::default() };
    assert!(matches!(new(inside), AuthSettingsError::JwksUrl { .. }));
}

#[test]
fn settings_never_print_the_secret() {
    let printed = format!("{:?} {:?}", with_secret(), authenticator(with_secret()));
    assert!(!printed.contains("0123456789abcdef") && !printed.contains("48, 49"), "{printed}");
}

#[test]
fn a_bearer_prefix_comes_off_in_any_case() {
    for value in ["t", "Bearer t", "bearer t", "BEARER   t ", " t"] {
        assert_eq!(strip_bearer(value), "t");
    }
    assert_eq!(strip_bearer("Bearer"), "");
    assert_eq!(strip_bearer("Bearert"), "Bearert");
    assert_eq!(strip_bearer("Basic t"), "Basic t");
    assert_eq!(strip_bearer("ééééé"), "ééééé");
}

#[tokio::test]
async fn a_minted_token_verifies() {
    let token = development::mint(SECRET, &alice_with(json!({"roles": ["REALTIME_CONNECT"]})));
    assert!(verify(with_secret(), &token).await.unwrap().has_role("REALTIME_CONNECT"));
}

#[tokio::test]
async fn replaced_keys_count_at_once_and_those_that_stay_keep_their_standing() {
    let (stays, goes) = (Signer::p256(), Signer::ed25519());
    let pem = |signer: &Signer| with_pem(&signer.public_pem).public_keys;
    let with = |secret: &[u8], keys: &[&Signer]| AuthSettings {
        secret: Some(secret.to_vec()),
        public_keys: keys.iter().flat_map(|signer| pem(signer)).collect(),
        ..AuthSettings::default()
    };
    let authenticator = authenticator(with(SECRET, &[&stays, &goes]));
    let tokens = [Signer::secret(SECRET).token(), stays.token(), goes.token()];
    let mut before = Vec::new();
    for token in &tokens {
        before.push(authenticator.verify(token).await.unwrap());
    }
    let same = authenticator.replace_keys(&with(SECRET, &[&goes, &stays])).unwrap();
    assert_eq!(same, KeyChange { keys: 3, new: 0, gone: 0 });
    assert_eq!(authenticator.0.generation.load(Ordering::Acquire), 0, "the cache stays");

    let other = [b'x'; 40];
    let change = authenticator.replace_keys(&with(&other, &[&stays])).unwrap();
    assert_eq!(change, KeyChange { keys: 2, new: 1, gone: 2 });
    let withdrawn: Vec<bool> = before.iter().map(|who| who.key.is_withdrawn()).collect();
    assert_eq!(withdrawn, [true, false, true]);
    for (token, holds) in tokens.iter().zip([false, true, false]) {
        assert_eq!(authenticator.verify(token).await.is_ok(), holds);
    }
    assert!(authenticator.verify(&Signer::secret(&other).token()).await.is_ok());

    let back = authenticator.replace_keys(&with(SECRET, &[])).unwrap();
    assert_eq!(back, KeyChange { keys: 1, new: 1, gone: 2 });
    let again = authenticator.verify(&tokens[0]).await.unwrap();
    assert!(!again.key.is_withdrawn() && before[0].key.is_withdrawn());
}

#[tokio::test]
async fn keys_that_cannot_be_used_leave_the_old_ones_in_use() {
    let authenticator = authenticator(with_secret());
    let who = authenticator.verify(&Signer::secret(SECRET).token()).await.unwrap();
    let short = AuthSettings { secret: Some(vec![b'x'; 31]), ..AuthSettings::default() };
    for bad in [AuthSettings::default(), short, with_pem("no key")] {
        assert!(authenticator.replace_keys(&bad).is_err());
        assert!(authenticator.verify(&Signer::secret(SECRET).token()).await.is_ok());
    }
    assert!(!who.key.is_withdrawn());
}

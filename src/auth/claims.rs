//! Reads a verified token's claims: types first, then issuer, audience and time, then who the
//! bearer is.

use super::error::AuthError;
use super::settings::{AuthSettings, ClaimNames};
use crate::domain::instance::InstanceId;
use crate::domain::names::Names;
use crate::domain::principal::{GroupId, MAX_GROUPS, Principal, Role, Scope, UserId};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::hash::Hash;

type Claims = Map<String, Value>;

/// The last second of the year 9999: a later `exp` counts as this one.
const LAST_SECOND: i64 = 253_402_300_799;

/// What the claims must say, and which of them are read.
pub(super) struct ClaimRules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway: i64,
    names: ClaimNames,
}

impl ClaimRules {
    /// The part of the settings that concerns claims.
    pub fn new(settings: AuthSettings) -> Self {
        let leeway =
            i64::try_from(settings.leeway.as_secs()).unwrap_or(LAST_SECOND).min(LAST_SECOND);
        Self {
            issuer: settings.issuer,
            audience: settings.audience,
            leeway,
            names: settings.claims,
        }
    }

    /// The names of the claims that are read.
    pub fn names(&self) -> &ClaimNames {
        &self.names
    }

    /// The first second in which the principal's token is no longer accepted.
    pub fn ends_at(&self, principal: &Principal) -> i64 {
        principal.expires_at.saturating_add(self.leeway)
    }

    /// Who the claims speak of, if they hold at `now`. Errors: `Invalid`; `Expired` if all else is
    /// right.
    pub fn principal(&self, claims: Claims, now: i64) -> Result<Principal, AuthError> {
        let expires_at = time(&claims, "exp")?.ok_or(AuthError::Invalid("exp is missing"))?;
        let not_before = time(&claims, "nbf")?;
        let issued_at = time(&claims, "iat")?;
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        if not_before.is_some_and(|not_before| now.saturating_add(self.leeway) < not_before) {
            return Err(AuthError::Invalid("the token is not valid yet (nbf)"));
        }
        let principal = Principal {
            groups: self.groups(&claims)?,
            roles: self.roles(&claims)?,
            scope: self.scope(&claims)?,
            component: self.component(&claims)?,
            token_id: text(&claims, "jti", "jti must be a string")?.map(Into::into),
            issued_at,
            claims: (&claims).into(),
            ..Principal::new(self.user(&claims)?, expires_at)
        };
        if now >= self.ends_at(&principal) {
            return Err(AuthError::Expired);
        }
        Ok(principal)
    }

    fn check_issuer(&self, claims: &Claims) -> Result<(), AuthError> {
        let issuer = text(claims, "iss", "iss must be a string")?;
        if self.issuer.is_some() && issuer != self.issuer.as_deref() {
            return Err(AuthError::Invalid("iss is not the issuer that this server trusts"));
        }
        Ok(())
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), AuthError> {
        let audience = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.as_str()],
            _ => texts(claims, "aud", "aud must be a string or an array of strings")?.collect(),
        };
        if self.audience.as_deref().is_some_and(|ours| !audience.contains(&ours)) {
            return Err(AuthError::Invalid("aud does not hold the audience of this server"));
        }
        Ok(())
    }

    fn user(&self, claims: &Claims) -> Result<UserId, AuthError> {
        text(claims, "sub", "sub must be a string")?;
        let user = text(claims, &self.names.user, "the user claim must be a string")?
            .ok_or(AuthError::Invalid("the user claim is missing"))?;
        UserId::new(user).map_err(|_| {
            AuthError::Invalid("the user id must be 1 to 128 bytes without control characters")
        })
    }

    fn groups(&self, claims: &Claims) -> Result<Names<GroupId>, AuthError> {
        let groups =
            texts(claims, &self.names.groups, "the groups claim must be an array of strings")?
                .map(GroupId::new)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| {
                    AuthError::Invalid(
                        "a group id must be 1 to 128 bytes without control characters",
                    )
                })?;
        let groups = without_doubles(groups);
        if groups.len() > MAX_GROUPS {
            return Err(AuthError::Invalid("the token names more than 256 groups"));
        }
        names(&groups)
    }

    /// Names that no role can have are left out: nothing here could ask for them.
    fn roles(&self, claims: &Claims) -> Result<Names<Role>, AuthError> {
        const TYPE: &str = "the roles claim must be an array of strings or one string";
        const REALM_TYPE: &str = "realm_access.roles must be an array of strings";
        let own: Vec<&str> = match claims.get(&self.names.roles) {
            Some(Value::String(roles)) => roles.split(' ').collect(),
            _ => texts(claims, &self.names.roles, TYPE)?.collect(),
        };
        let realm: Vec<&str> = match claims.get("realm_access") {
            None => Vec::new(),
            Some(Value::Object(realm)) => texts(realm, "roles", REALM_TYPE)?.collect(),
            Some(_) => return Err(AuthError::Invalid(REALM_TYPE)),
        };
        names(&without_doubles(
            own.into_iter().chain(realm).filter_map(|role| Role::new(role).ok()).collect(),
        ))
    }

    /// Names that no instance can have are left out: the token is not valid there.
    fn scope(&self, claims: &Claims) -> Result<Scope, AuthError> {
        let several = texts(
            claims,
            &self.names.instances,
            "the instances claim must be an array of strings",
        )?;
        let one = text(claims, &self.names.instance, "the instance claim must be a string")?;
        let named: Vec<&str> = several.chain(one).collect();
        if named.contains(&"*") {
            return Ok(Scope::Everywhere);
        }
        let instances = named.into_iter().filter_map(|name| InstanceId::new(name).ok()).collect();
        Ok(Scope::Instances(names(&without_doubles(instances))?))
    }

    fn component(&self, claims: &Claims) -> Result<Option<Box<str>>, AuthError> {
        let component =
            text(claims, &self.names.component, "the component claim must be a string")?;
        Ok(component.filter(|component| !component.is_empty()).map(Into::into))
    }
}

/// A NumericDate (RFC 7519, section 2), in whole seconds.
fn time(claims: &Claims, name: &str) -> Result<Option<i64>, AuthError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Value::Number(number) = value else {
        return Err(AuthError::Invalid("exp, nbf and iat must be numbers"));
    };
    // A float is cut off and saturates; a whole number beyond i64 arrives here as a float too.
    let seconds = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds.floor() as i64));
    Ok(seconds.map(|seconds| seconds.clamp(-LAST_SECOND, LAST_SECOND)))
}

fn text<'a>(
    claims: &'a Claims,
    name: &str,
    wrong_type: &'static str,
) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthError::Invalid(wrong_type)),
    }
}

fn texts<'a>(
    claims: &'a Claims,
    name: &str,
    wrong_type: &'static str,
) -> Result<impl Iterator<Item = &'a str>, AuthError> {
    let entries: &[Value] = match claims.get(name) {
        None => &[],
        Some(Value::Array(entries)) if entries.iter().all(Value::is_string) => entries,
        Some(_) => return Err(AuthError::Invalid(wrong_type)),
    };
    Ok(entries.iter().filter_map(Value::as_str))
}

fn names<T: AsRef<str>>(names: &[T]) -> Result<Names<T>, AuthError> {
    Names::new(names).map_err(|_| AuthError::Invalid("the token names too much in one claim"))
}

fn without_doubles<T: Clone + Eq + Hash>(mut values: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(values.len());
    values.retain(|value| seen.insert(value.clone()));
    values
}

#[cfg(test)]
mod tests {
    use super::super::testing::{alice_with, now};
    use super::*;
    use serde_json::json;

    fn read(rules: AuthSettings, changes: Value) -> Result<Principal, AuthError> {
        let claims = alice_with(changes).as_object().unwrap().clone();
        ClaimRules::new(rules).principal(claims, now())
    }

    fn read_default(changes: Value) -> Result<Principal, AuthError> {
        read(AuthSettings::default(), changes)
    }

    #[test]
    fn claims_of_a_wrong_type_are_refused() {
        for changes in [
            json!({"exp": "9999999999"}),
            json!({"exp": [9_999_999_999_i64]}),
            json!({"exp": true}),
            json!({"nbf": "0"}),
            json!({"iat": "0"}),
            json!({"iat": {}}),
            json!({"sub": 42}),
            json!({"sub": ["alice"]}),
            json!({"jti": 1}),
            json!({"iss": ["https://idp.example"]}),
            json!({"iss": 1}),
            json!({"aud": 1}),
            json!({"aud": ["a", 1]}),
            json!({"groups": "eng"}),
            json!({"groups": ["eng", 1]}),
            json!({"groups": {}}),
            json!({"roles": 1}),
            json!({"roles": [1]}),
            json!({"realm_access": []}),
            json!({"realm_access": {"roles": "REALTIME_ADMIN"}}),
            json!({"instances": "demo"}),
            json!({"instances": [1]}),
            json!({"instance": ["demo"]}),
            json!({"component": true}),
        ] {
            assert!(
                matches!(read_default(changes.clone()), Err(AuthError::Invalid(_))),
                "{changes}"
            );
        }
    }

    #[test]
    fn a_token_without_exp_or_user_is_refused() {
        assert_eq!(read_default(json!({"exp": null})), Err(AuthError::Invalid("exp is missing")));
        assert!(read_default(json!({"sub": null})).is_err());
    }

    #[test]
    fn times_have_30_seconds_of_leeway() {
        assert!(read_default(json!({"exp": now() - 28})).is_ok());
        assert_eq!(read_default(json!({"exp": now() - 30})), Err(AuthError::Expired));
        assert!(read_default(json!({"nbf": now() + 30})).is_ok());
        assert!(read_default(json!({"nbf": now() + 32})).is_err());
        assert!(read_default(json!({"iat": now() + 9_000})).is_ok());
    }

    #[test]
    fn times_may_be_fractions_and_huge() {
        assert_eq!(
            read_default(json!({"exp": 4_000_000_000.9})).unwrap().expires_at,
            4_000_000_000
        );
        assert_eq!(read_default(json!({"exp": 1e300})).unwrap().expires_at, LAST_SECOND);
        assert_eq!(read_default(json!({"exp": u64::MAX})).unwrap().expires_at, LAST_SECOND);
        assert_eq!(read_default(json!({"exp": i64::MIN})), Err(AuthError::Expired));
        assert_eq!(read_default(json!({"iat": -1.5})).unwrap().issued_at, Some(-2));
    }

    #[test]
    fn a_wrong_claim_comes_before_an_expired_one() {
        assert!(matches!(read_default(json!({"exp": 1, "sub": ""})), Err(AuthError::Invalid(_))));
    }

    #[test]
    fn the_issuer_is_compared_as_it_is() {
        let rules = || AuthSettings {
            issuer: Some("https://idp.example".into()),
            ..AuthSettings::default()
        };
        assert!(read(rules(), json!({"iss": "https://idp.example"})).is_ok());
        for iss in [json!(null), json!("https://idp.example/"), json!(["https://idp.example"])] {
            assert!(read(rules(), json!({"iss": iss})).is_err(), "{iss}");
        }
        assert!(read_default(json!({"iss": "anyone"})).is_ok());
    }

    #[test]
    fn the_audience_holds_ours() {
        let rules = || AuthSettings { audience: Some("herald".into()), ..AuthSettings::default() };
        for aud in [json!("herald"), json!(["x", "herald"])] {
            assert!(read(rules(), json!({"aud": aud})).is_ok(), "{aud}");
        }
        for aud in [json!(null), json!("x"), json!([]), json!(["Herald"])] {
            assert!(read(rules(), json!({"aud": aud})).is_err(), "{aud}");
        }
        assert!(read_default(json!({"aud": "anyone"})).is_ok());
    }

    #[test]
    fn ids_are_checked_at_their_limits() {
        let long = "x".repeat(129);
        for (id, good) in
            [("x", true), (&long[..128], true), (&long, false), ("", false), ("a\u{0}", false)]
        {
            assert_eq!(read_default(json!({"sub": id})).is_ok(), good, "{id}");
            assert_eq!(read_default(json!({"groups": ["ok", id]})).is_ok(), good, "{id}");
        }
    }

    #[test]
    fn at_most_256_groups_are_read() {
        let groups =
            |count: usize| (0..count).map(|number| format!("g{number}")).collect::<Vec<_>>();
        assert_eq!(read_default(json!({"groups": groups(256)})).unwrap().groups.len(), 256);
        assert!(read_default(json!({"groups": groups(257)})).is_err());
        let doubled = [groups(200), groups(200)].concat();
        assert_eq!(read_default(json!({"groups": doubled})).unwrap().groups.len(), 200);
    }

    #[test]
    fn roles_come_from_a_list_a_string_and_the_realm() {
        let roles = |changes: Value| {
            let principal = read_default(changes).unwrap();
            principal.roles.iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(roles(json!({"roles": ["a", "b", "a", "no role", ""]})), ["a", "b"]);
        assert_eq!(roles(json!({"roles": " a  b "})), ["a", "b"]);
        assert_eq!(
            roles(json!({"roles": ["a"], "realm_access": {"roles": ["c", "a"]}})),
            ["a", "c"]
        );
        assert_eq!(roles(json!({"realm_access": {}})), [""; 0]);
    }

    #[test]
    fn instances_are_listed_or_one_or_all() {
        let scope = |changes: Value| read_default(changes).unwrap().scope;
        let listed = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| InstanceId::new(name).unwrap()).collect();
            Scope::Instances(Names::new(&names).unwrap())
        };
        assert_eq!(scope(json!({})), listed(&[]));
        assert_eq!(
            scope(json!({"instances": ["a", "b", "a", "no instance"]})),
            listed(&["a", "b"])
        );
        assert_eq!(scope(json!({"instance": "a"})), listed(&["a"]));
        assert_eq!(scope(json!({"instances": ["a"], "instance": "b"})), listed(&["a", "b"]));
        for everywhere in [json!({"instances": ["a", "*"]}), json!({"instance": "*"})] {
            assert_eq!(scope(everywhere), Scope::Everywhere);
        }
    }

    #[test]
    fn an_empty_component_is_none() {
        assert_eq!(read_default(json!({"component": ""})).unwrap().component, None);
        assert_eq!(
            read_default(json!({"component": "billing"})).unwrap().component.as_deref(),
            Some("billing")
        );
    }

    #[test]
    fn the_names_of_claims_can_be_changed() {
        let claims =
            ClaimNames { user: "uid".into(), groups: "teams".into(), ..ClaimNames::default() };
        let rules = AuthSettings { claims, ..AuthSettings::default() };
        let principal =
            read(rules, json!({"uid": "bob", "teams": ["x"], "groups": 7, "jti": "t", "iat": 5}))
                .unwrap();
        assert_eq!((principal.user.as_str(), principal.groups.len()), ("bob", 1));
        assert_eq!((principal.token_id.as_deref(), principal.issued_at), (Some("t"), Some(5)));
        assert_eq!(principal.claims.to_json()["groups"], 7);
    }
}

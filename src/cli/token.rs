//! `herald token`: a token signed with the development key.

use crate::auth::development::{DevelopmentKey, mint};
use crate::config::Config;
use crate::domain::principal::Role;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest life of a token, in seconds: a year.
const MAX_TTL: u64 = 31_536_000;

pub(super) fn command() -> Command {
    let text = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TEXT").help(help)
    };
    let list = |name, help| text(name, help).action(ArgAction::Append);
    Command::new("token")
        .about("Print a token signed with the development key")
        .arg(text("user", "The user id").required(true))
        .arg(list("group", "A group id; may be given again"))
        .arg(list("role", "A role; may be given again [default: REALTIME_CONNECT]"))
        .arg(text("component", "Makes it a component's token: it may publish"))
        .arg(list(
            "instance",
            "Where it is valid, * for everywhere; may be given again [default: demo]",
        ))
        .arg(list("claim", "Another claim as NAME=VALUE; VALUE is JSON if it parses, else a text"))
        .arg(text("ttl", "How long it is valid, such as 90s, 15m, 1h or 7d").default_value("1h"))
}

/// A token for whom the arguments name. Errors: a sentence for people.
pub(super) fn make(config: &Config, arguments: &ArgMatches) -> Result<String, String> {
    if !config.is_development() {
        let sentence = "a signing key of your own is configured: tokens come from whoever signs with it, not from here";
        return Err(sentence.into());
    }
    let claims = claims(arguments, SystemTime::now())?;
    let key = DevelopmentKey::open(&config.data_dir);
    let key =
        key.map_err(|error| format!("the development key cannot be read or made: {error}"))?;
    Ok(mint(key.secret(), &claims))
}

fn claims(arguments: &ArgMatches, now: SystemTime) -> Result<Value, String> {
    let many = |name: &str, default: &str| {
        let values: Vec<String> = arguments.get_many(name).into_iter().flatten().cloned().collect();
        if values.is_empty() && !default.is_empty() { vec![default.to_owned()] } else { values }
    };
    let one = |name: &str| arguments.get_one::<String>(name).cloned().unwrap_or_default();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut claims = Map::new();
    claims.insert("sub".into(), one("user").into());
    claims.insert("groups".into(), many("group", "").into());
    claims.insert("roles".into(), many("role", Role::CONNECT).into());
    claims.insert("instances".into(), many("instance", "demo").into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), json!(now + ttl(&one("ttl"))?.as_secs()));
    claims.insert("jti".into(), uuid::Uuid::new_v4().to_string().into());
    if arguments.contains_id("component") {
        claims.insert("component".into(), one("component").into());
    }
    for claim in many("claim", "") {
        let (name, value) = claim.split_once('=').ok_or("--claim is written as NAME=VALUE")?;
        claims.insert(name.into(), serde_json::from_str(value).unwrap_or_else(|_| value.into()));
    }
    Ok(Value::Object(claims))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let wrong =
        || "--ttl is a whole number of s, m, h or d, such as 1h, and a year at most".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| (1..=MAX_TTL).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_json_where_they_parse() {
        let line = [
            "token", "--user", "alice", "--group", "a", "--group", "b", "--claim", "plan=pro",
            "--claim", "level=7",
        ];
        let claims = claims(&command().get_matches_from(line), UNIX_EPOCH).unwrap();
        assert_eq!((&claims["sub"], &claims["groups"]), (&json!("alice"), &json!(["a", "b"])));
        assert_eq!((&claims["plan"], &claims["level"]), (&json!("pro"), &json!(7)));
        assert_eq!(
            (&claims["exp"], &claims["roles"]),
            (&json!(3_600), &json!(["REALTIME_CONNECT"]))
        );
        assert_eq!((&claims["instances"], claims.get("component")), (&json!(["demo"]), None));
    }

    #[test]
    fn a_life_has_a_unit_and_ends_within_a_year() {
        for (text, seconds) in [("1s", 1), ("15m", 900), ("1h", 3_600), ("365d", MAX_TTL)] {
            assert_eq!(ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in
            ["", "s", "1", "0h", "-1h", "1.5h", "366d", "1w", "99999999999999999999d", "1\u{20ac}"]
        {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}

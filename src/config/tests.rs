//! What the configuration takes and refuses.

use super::*;

fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_settings(
        settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    )
}

fn refusal(settings: &[(&str, &str)]) -> String {
    read(settings).expect_err("the settings are bad").to_string()
}

const SECRET: &str = "an-hs256-secret-of-more-than-32-bytes!";

#[test]
fn nothing_set_is_a_complete_service_on_loopback() {
    let config = read(&[]).unwrap();
    assert!(
        config.is_development()
            && config.listen.ip().is_loopback()
            && config.database_url.is_none()
    );
    assert_eq!((config.listen.port(), config.metrics_listen.port()), (8443, 9464));
}

#[test]
fn a_printed_configuration_shows_no_secret() {
    let config = read(&[
        ("DATABASE_URL", "postgres://herald:hunter2@localhost/herald"),
        ("HERALD_JWT_SECRET", SECRET),
        ("HERALD_JWKS_URLS", "https://user:hunter2@keys.example/hunter2?key=hunter2#hunter2"),
    ]);
    let printed = format!("{:?}", config.unwrap());
    assert!(printed.contains("keys.example"), "{printed}");
    assert!(!printed.contains("hunter2") && !printed.contains(SECRET), "{printed}");
}

#[test]
fn an_unknown_or_empty_setting_is_named() {
    assert!(refusal(&[("HERALD_LISTENN", "x")]).starts_with("HERALD_LISTENN is not a setting"));
    assert!(refusal(&[("HERALD_JWT_SECRET", " ")]).contains("set and empty"));
}

#[test]
fn what_orchestrators_and_the_sdk_set_is_not_ours() {
    for ignored in [
        "HERALD_SERVICE_HOST",
        "HERALD_PORT",
        "HERALD_PORT_8443_TCP",
        "HERALD_URL",
        "HERALD_TOKEN",
        "HERALD_INSTANCE",
        "PATH",
    ] {
        assert!(!is_ours(ignored), "{ignored}");
    }
    assert!(is_ours("HERALD_LISTEN") && is_ours("HERALD_PORTS") && is_ours("DATABASE_URL"));
}

#[test]
fn the_development_key_stays_on_loopback() {
    assert!(refusal(&[("HERALD_LISTEN", "0.0.0.0:8443")]).contains("development key"));
    assert!(
        refusal(&[("HERALD_PROXY_LISTEN", "127.0.0.1:8080")]).contains("signing key of your own")
    );
    assert!(read(&[("HERALD_LISTEN", "0.0.0.0:8443"), ("HERALD_JWT_SECRET", SECRET)]).is_ok());
}

#[test]
fn a_proxy_listener_needs_known_proxies() {
    let proxy = ("HERALD_PROXY_LISTEN", "127.0.0.1:8080");
    assert!(refusal(&[proxy, ("HERALD_JWT_SECRET", SECRET)]).contains("HERALD_TRUSTED_PROXIES"));
    let config = read(&[
        proxy,
        ("HERALD_JWT_SECRET", SECRET),
        ("HERALD_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
    ])
    .unwrap();
    assert_eq!(config.trusted_proxies.len(), 2);
}

#[test]
fn every_number_has_a_range() {
    for (name, least, most) in [
        ("HERALD_KEEP_ALIVE_SECONDS", 1_i64, 3_600_i64),
        ("HERALD_OUTBOX_BYTES", 131_072, 16_777_216),
        ("HERALD_OUTBOX_SECONDS", 1, 60),
        ("HERALD_SHARD_QUEUE_MESSAGES", 1, 65_536),
        ("HERALD_SHARD_QUEUE_BYTES", 131_072, 1_073_741_824),
        ("HERALD_HISTORY_SECONDS", 1, 86_400),
        ("HERALD_HISTORY_BYTES", 1_024, 1_073_741_824),
        ("HERALD_HISTORY_TOTAL_BYTES", 1_048_576, 1_099_511_627_776),
        ("HERALD_REMEMBERED_IDS", 1, 100_000_000),
        ("HERALD_TRACED_MESSAGES", 1, 1_000_000),
        ("HERALD_TRACED_CONNECTIONS", 1, 1_000_000),
        ("HERALD_TRACE_TOTAL_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_FILTERS", 1, 10_000),
        ("HERALD_NEWCOMERS", 1, 10_000),
        ("HERALD_MEMBERSHIP_BYTES", 1_048_576, 1_099_511_627_776),
        ("HERALD_EXPRESSION_STEPS", 1_000, 1_000_000_000_000),
        ("HERALD_EXPRESSION_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_EXPRESSION_TOTAL_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_EXPLANATIONS", 1, 256),
        ("HERALD_REPLAY_MESSAGES", 1, 1_000_000),
        ("HERALD_REPLAY_BYTES", 65_536, 1_073_741_824),
        ("HERALD_CONNECTIONS_PER_ADDRESS", 1, 1_000_000),
        ("HERALD_CONNECTS_PER_ADDRESS_PER_SECOND", 1, 100_000),
        ("HERALD_HANDSHAKES", 1, 65_536),
        ("HERALD_HANDSHAKES_PER_ADDRESS", 1, 1_000_000),
        ("HERALD_HTTP_CONNECTIONS_PER_ADDRESS", 1, 1_000_000),
        ("HERALD_BODY_BYTES", 1_024, 16_777_216),
        ("HERALD_BATCH_BODY_BYTES", 1_024, 67_108_864),
        ("HERALD_HEAD_BYTES", 32_768, 98_304),
        ("HERALD_REQUEST_SECONDS", 1, 300),
        ("HERALD_BODY_BYTES_PER_SECOND", 1, 1_048_576),
        ("HERALD_UNFINISHED_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_UNFINISHED_INSTANCE_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_UNFINISHED_ADDRESS_BYTES", 65_536, 1_099_511_627_776),
        ("HERALD_CATALOG_POLL_SECONDS", 1, 60),
        ("HERALD_AUDIT_DAYS", 1, 3_650),
        ("HERALD_SHUTDOWN_SECONDS", 3, 300),
        ("HERALD_SOCKET_USER_TIMEOUT_SECONDS", 1, 300),
        ("HERALD_JWT_CACHE_ENTRIES", 1, 1_000_000),
    ] {
        for (value, good) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
            assert_eq!(read(&[(name, &value.to_string())]).is_ok(), good, "{name} = {value}");
        }
        assert!(refusal(&[(name, "many")]).starts_with(&format!("{name} is `many`")));
    }
}

#[test]
fn a_bad_secret_is_not_shown() {
    let text = refusal(&[("HERALD_JWKS_URLS", "not a url with a pass:word@")]);
    assert!(text.starts_with("HERALD_JWKS_URLS cannot be used") && !text.contains("pass:word"));
    let config =
        read(&[("HERALD_JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://u:hunter2@h/d")])
            .unwrap();
    assert!(!format!("{config:?}").contains("hunter2") && !format!("{config:?}").contains(SECRET));
}

#[test]
fn certificate_and_key_belong_together() {
    assert!(refusal(&[("HERALD_TLS_CERT", "a.pem")]).contains("set both or none"));
    assert!(refusal(&[("HERALD_LOG_FORMAT", "xml")]).contains("text or json"));
}

#[test]
fn a_secret_is_given_by_itself_or_in_a_file() {
    for (name, value) in
        [("HERALD_JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://u:hunter2@h/d")]
    {
        let file = format!("{name}_FILE");
        assert!(is_ours(&file));
        let said = refusal(&[(name, value), (&file, "/run/secret")]);
        assert_eq!(said, format!("{name} and {file} are both set: set one"));
    }
    let files = [("HERALD_JWT_SECRET_FILE", "/run/secret"), ("DATABASE_URL_FILE", "/run/url")];
    let config = read(&files).unwrap();
    assert!(!config.is_development());
    assert_eq!(config.database_url, Some(SecretSource::File("/run/url".into())));
}

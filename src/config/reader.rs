//! Reads single settings out of their texts; every error is one sentence that names the setting.

use super::settings::{SETTINGS, Setting, Visibility};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use url::Url;

/// A setting is unknown or bad; one sentence that names it, and never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// Settings whose names are known and whose values are not empty.
pub(super) struct Reader(BTreeMap<String, String>);

impl Reader {
    pub fn new(settings: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        for (name, value) in &settings {
            if !SETTINGS.iter().any(|setting| setting.name == name) {
                return Err(ConfigError(format!(
                    "{name} is not a setting of Herald; `herald serve --help` lists them"
                )));
            }
            if value.trim().is_empty() {
                return Err(ConfigError(format!(
                    "{name} is set and empty: give it a value or unset it"
                )));
            }
        }
        Ok(Self(settings))
    }

    /// The value or the default; empty for nothing.
    pub fn text(&self, name: &str) -> String {
        let default = || {
            SETTINGS
                .iter()
                .find(|setting| setting.name == name)
                .map_or("", |setting| setting.default)
        };
        self.0.get(name).map_or_else(|| default().to_owned(), |value| value.trim().to_owned())
    }

    pub fn some(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub fn number<T: TryFrom<u64>>(
        &self,
        name: &str,
        least: u64,
        most: u64,
    ) -> Result<T, ConfigError> {
        let number =
            self.text(name).parse::<u64>().ok().filter(|number| (least..=most).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number
            .ok_or_else(|| self.bad(name, &format!("it is a whole number from {least} to {most}")))
    }

    pub fn seconds(&self, name: &str, least: u64, most: u64) -> Result<Duration, ConfigError> {
        self.number(name, least, most).map(Duration::from_secs)
    }

    pub fn yes_or_no(&self, name: &str) -> Result<bool, ConfigError> {
        self.text(name).parse().map_err(|_| self.bad(name, "it is true or false"))
    }

    pub fn address(&self, name: &str) -> Result<Option<SocketAddr>, ConfigError> {
        let parse = |text: String| {
            text.parse()
                .map_err(|_| self.bad(name, "it is an address and a port such as 127.0.0.1:8443"))
        };
        self.some(name).map(parse).transpose()
    }

    pub fn networks(&self, name: &str) -> Result<Vec<IpNet>, ConfigError> {
        let parse = |text: &String| {
            text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        };
        let networks = self.list(name).iter().map(parse).collect::<Option<Vec<_>>>();
        networks.ok_or_else(|| {
            self.bad(
                name,
                "it is a comma-separated list of addresses and networks such as 10.0.0.0/8",
            )
        })
    }

    pub fn urls(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        let urls =
            self.list(name).iter().map(|text| Url::parse(text).ok()).collect::<Option<Vec<_>>>();
        urls.ok_or_else(|| self.bad(name, "it is a comma-separated list of URLs"))
    }

    /// The sentence for a bad value; shows it only if it is no secret.
    pub fn bad(&self, name: &str, expected: &str) -> ConfigError {
        let is_open =
            |setting: &Setting| setting.name == name && setting.visibility == Visibility::Open;
        match SETTINGS.iter().any(is_open) {
            true => ConfigError(format!("{name} is `{}`, but {expected}", self.text(name))),
            false => ConfigError(format!("{name} cannot be used: {expected}")),
        }
    }
}

//! Fetches a key set: 3 s, 64 KiB, no redirects, no proxy, and by default https from public
//! addresses only.

use super::address::{PublicOnly, is_public};
use super::settings::AuthSettingsError;
use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use std::net::IpAddr;
use std::time::Duration;
use url::{Host, Url};

/// How long a fetch may take, body included.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Largest body that is read, in bytes.
const MAX_BYTES: usize = 65_536;

/// Why there is no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Name, connection, TLS, time; without the URL, which may hold a secret.
    #[error("the request failed")]
    Transport(#[source] reqwest::Error),
    /// Anything but 200; redirects are not followed.
    #[error("the answer has status {0}")]
    Status(StatusCode),
    /// More than 64 KiB.
    #[error("the answer is larger than 64 KiB")]
    TooLarge,
    /// The body is not a JSON object with an array `keys`.
    #[error("the answer is not a JWK set")]
    NotAKeySet,
}

/// Checks what can be known of a URL before it is fetched. Errors: `AuthSettingsError::JwksUrl`.
pub(super) fn check_url(url: &Url, allow_private: bool) -> Result<(), AuthSettingsError> {
    let refuse = |reason| {
        let host = url.host_str().unwrap_or("(no host)").to_owned();
        Err(AuthSettingsError::JwksUrl { host, reason })
    };
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return refuse("it has no host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        _ => return refuse("it must be https"),
    }
    if !allow_private && address.is_some_and(|address| !is_public(address)) {
        return refuse("its address is not public");
    }
    Ok(())
}

/// The client for all sources. Errors: `AuthSettingsError::Platform` without usable certificate
/// roots.
pub(super) fn client(allow_private: bool) -> Result<Client, AuthSettingsError> {
    let builder = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .pool_max_idle_per_host(0)
        .https_only(!allow_private);
    let builder = if allow_private { builder } else { builder.dns_resolver(PublicOnly) };
    builder.build().map_err(|_| AuthSettingsError::Platform("the HTTP client for key sets"))
}

/// The body behind `url`. Errors: `FetchError`.
pub(super) async fn fetch(client: &Client, url: &Url) -> Result<Bytes, FetchError> {
    let transport = |error: reqwest::Error| FetchError::Transport(error.without_url());
    let mut response = client
        .get(url.clone())
        .header("accept", "application/json")
        .send()
        .await
        .map_err(transport)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_must_be_https_and_lead_outside_unless_the_setting_allows_otherwise() {
        let check =
            |url: &str, allow_private| check_url(&Url::parse(url).unwrap(), allow_private).is_ok();
        assert!(check("https://idp.example/keys", false) && check("https://1.1.1.1/keys", false));
        for inside in
            ["http://idp.example/keys", "https://127.0.0.1/", "https://[::1]/", "https://0x7f.1/"]
        {
            assert!(!check(inside, false), "{inside}");
            assert!(check(inside, true), "{inside}");
        }
        assert!(!check("file:///etc/keys", true) && !check("ftp://idp.example/", true));
    }
}

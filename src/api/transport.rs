//! Where a request came from: over our own TLS, or through a configured proxy that ended TLS for
//! us.

use super::error::{Code, Outcome, Problem};
use crate::transport::Transport;
use actix_web::HttpRequest;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};

/// The client's address, if the request came in a way that Herald serves. Errors: 426
/// `TLS_REQUIRED` for plain HTTP from anyone but a configured proxy, or without `X-Forwarded-Proto:
/// https`.
pub fn client_address(request: &HttpRequest, trusted: &[IpNet]) -> Outcome<IpAddr> {
    let peer = request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical());
    if request.conn_data::<Transport>() != Some(&Transport::Proxy) {
        return Ok(peer);
    }
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if !is_trusted(&peer) || header("x-forwarded-proto") != Some("https") {
        return Err(Problem::new(
            Code::TlsRequired,
            "this listener serves only the configured proxies, for https requests",
        ));
    }
    let hops = request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
    Ok(rightmost_untrusted(&hops, is_trusted).unwrap_or(peer))
}

/// The rightmost hop that is not a trusted proxy; nothing left of a hop that cannot be read is
/// believed.
fn rightmost_untrusted(hops: &[&str], is_trusted: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    for hop in hops.iter().rev() {
        let address = hop.parse::<IpAddr>().ok()?.to_canonical();
        if !is_trusted(&address) {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_rightmost_hop_that_is_no_proxy() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let find = |hops: &[&str]| {
            rightmost_untrusted(hops, |address| {
                trusted.iter().any(|network| network.contains(address))
            })
        };
        assert_eq!(find(&["6.6.6.6", "1.2.3.4", "10.0.0.2"]), Some("1.2.3.4".parse().unwrap()));
        assert_eq!(find(&["::ffff:1.2.3.4", "10.1.1.1"]), Some("1.2.3.4".parse().unwrap()));
        assert_eq!(find(&["6.6.6.6", "unknown", "10.0.0.2"]), None);
        assert_eq!(find(&["10.0.0.1"]), None);
        assert_eq!(find(&[]), None);
    }
}

//! Rate limits as HTTP shows them: `RateLimit-Policy`, `RateLimit` and `Retry-After`.

use super::Api;
use super::admission::Publisher;
use super::error::{Code, Outcome, Problem};
use crate::catalog::Tenant;
use crate::domain::instance::Limits;
use crate::limits::{Allowance, Exceeded, Holder, Rate, Remaining};
use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit");
/// Room for either header.
const LONGEST: usize = 96;

/// Whether one more message may be sent, and what is left either way.
pub struct Spent {
    /// What is left of the tighter rate.
    pub remaining: Remaining,
    /// 429 `RATE_LIMITED` where nothing was.
    pub outcome: Outcome<()>,
}

/// The rates that a request's messages are spent of.
pub struct Rates<'a> {
    limits: &'a Limits,
    allowance: Allowance<'a>,
}

impl<'a> Rates<'a> {
    /// For so many messages.
    pub fn of(api: &Api, admission: &'a Publisher, messages: u32) -> Self {
        let instance = &admission.tenant.instance;
        let allowance = api.limits.allowance(instance, &admission.principal.user, messages);
        Self { limits: &instance.limits, allowance }
    }

    /// Spends one message of the user's and the instance's rate.
    pub fn spend(&mut self) -> Spent {
        match self.allowance.spend() {
            Ok(remaining) => Spent { remaining, outcome: Ok(()) },
            Err(exceeded) => {
                let remaining = Remaining::nothing(self.limits, exceeded.rate);
                Spent { remaining, outcome: Err(limited(exceeded, "messages")) }
            }
        }
    }
}

/// Spends one connect of the instance's rate. Errors: 429 `RATE_LIMITED`.
pub fn spend_connect(api: &Api, tenant: &Tenant) -> Outcome<()> {
    api.limits.check_connect(&tenant.instance).map_err(|exceeded| limited(exceeded, "connects"))
}

/// The same response with `RateLimit-Policy` and `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers).
pub fn with_headers(mut response: HttpResponse, remaining: &Remaining) -> HttpResponse {
    let (mut policy, mut left) = (String::with_capacity(LONGEST), String::with_capacity(LONGEST));
    for rate in &remaining.rates {
        policy.push_str(if policy.is_empty() { "" } else { ", " });
        push_item(&mut policy, rate, [(";q=", rate.burst), (";w=", rate.window_seconds())]);
    }
    push_item(
        &mut left,
        &remaining.tighter,
        [(";r=", remaining.left), (";t=", remaining.reset_seconds())],
    );
    for (header, value) in [(POLICY, policy), (REMAINING, left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(header, value);
        }
    }
    response
}

/// `"user";q=100;w=2`. By hand, because `format!` would cost a publish more than its place in the
/// order.
fn push_item(text: &mut String, rate: &Rate, figures: [(&str, u32); 2]) {
    text.extend(["\"", name(rate), "\""]);
    for (word, figure) in figures {
        text.push_str(word);
        text.push_str(itoa::Buffer::new().format(figure));
    }
}

fn name(rate: &Rate) -> &'static str {
    match rate.holder {
        Holder::User => "user",
        Holder::Instance => "instance",
    }
}

fn limited(Exceeded { rate, wait }: Exceeded, what: &str) -> Problem {
    let detail = format!(
        "the {} may have {} {what} a second, {} at once",
        name(&rate),
        rate.per_second,
        rate.burst
    );
    Problem::new(Code::RateLimited, detail)
        .with_limit(rate.burst.into(), u64::from(rate.burst) + 1)
        .with_retry_after(wait)
}

//! What every answer gets: a request id, a log line by route pattern, security headers, CORS, and a
//! count.

use super::Api;
use super::counters::SENDING;
use super::error::{Code, Problem};
use super::health;
use super::pieces::Pieces;
use super::under_way::Begun;
use crate::domain::instance::InstanceId;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};
use std::time::Instant;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXPOSED: &str = "ETag, Location, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id";

/// The instance that a browser's request names; left in the request's extensions for CORS.
#[derive(Clone, Debug)]
pub struct RequestedInstance(pub InstanceId);

/// Wraps every route of the client listeners.
pub async fn finish<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Pieces>, Error> {
    let (started, id) = (Instant::now(), Uuid::new_v4());
    let Some(api) = request.app_data::<Data<Api>>().cloned() else {
        return answer_in_turn(request, next).await;
    };
    let mut begun = Begun::new(request.request());
    let counted = begun.count(request.request(), &api.settings.trusted_proxies);
    let refusal = counted.err().or_else(|| standing_by(&request, &api));
    let mut answer = match early_answer(&request, refusal) {
        Some(response) => request.into_response(response),
        None => next.call(request).await?.map_into_boxed_body(),
    };
    begun.end_if_left(&mut answer);
    decorate(&mut answer, &api, &id);
    record(&answer, &api, &id, started);
    Ok(answer.map_body(|_, body| Pieces::new(body, begun)))
}

/// Wraps every route of the operators' listener: nothing but the pace of the connection.
pub async fn answer_in_turn<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Pieces>, Error> {
    let begun = Begun::new(request.request());
    let mut answer = next.call(request).await?.map_into_boxed_body();
    begun.end_if_left(&mut answer);
    Ok(answer.map_body(|_, body| Pieces::new(body, begun)))
}

/// A node that stands by says no more than that it does, and that it is alive.
fn standing_by(request: &ServiceRequest, api: &Api) -> Option<Problem> {
    let stands_by = api.relay.stands_by() && !health::PATHS.contains(&request.path());
    stands_by.then(|| Problem::standing_by(&"this node does not serve now"))
}

/// Answers that need no route: to plain HTTP from strangers, to who has too many connections, and to
/// preflights (Fetch standard, "CORS
/// preflight").
fn early_answer(request: &ServiceRequest, refusal: Option<Problem>) -> Option<HttpResponse> {
    if let Some(problem) = refusal {
        return Some(problem.error_response());
    }
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    is_preflight.then(|| {
        let origin = request.headers().get(header::ORIGIN).cloned();
        HttpResponse::NoContent()
            .insert_header((
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                origin.unwrap_or(HeaderValue::from_static("*")),
            ))
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"))
            .insert_header((
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, instance, content-type, if-match, idempotency-key, last-event-id",
            ))
            .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
            .insert_header((header::VARY, "Origin"))
            .finish()
    })
}

fn decorate<B>(answer: &mut ServiceResponse<B>, api: &Api, id: &Uuid) {
    let allowed = allowed_origin(answer, api);
    let headers = answer.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    {
        headers.insert(REQUEST_ID, id);
    }
    for (name, value) in [
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(origin) = allowed {
        allow(headers, origin);
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// The request's origin, if its instance allows it. Without an instance (operators' routes, errors
/// before one was known) any origin but `null` may read the answer: nothing in it depends on
/// cookies.
fn allowed_origin<B>(answer: &ServiceResponse<B>, api: &Api) -> Option<HeaderValue> {
    let request = answer.request();
    let origin = request.headers().get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    let instance = request.extensions().get::<RequestedInstance>().cloned();
    let tenant = instance.and_then(|RequestedInstance(id)| api.catalog.tenant(&id));
    let allowed = tenant.map_or(text != "null", |tenant| tenant.instance.allows_origin(Some(text)));
    allowed.then(|| origin.clone())
}

/// A method's name. Anything may stand in its place in a request, a token too: others are not
/// named.
fn known(method: &Method) -> &str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    if known.contains(method) { method.as_str() } else { "other" }
}

fn record<B>(answer: &ServiceResponse<B>, api: &Api, id: &Uuid, started: Instant) {
    let (request, status) = (answer.request(), answer.status());
    let route = request.match_pattern().unwrap_or_else(|| "unmatched".into());
    api.metrics.answered(&route, status);
    let code = answer
        .response()
        .error()
        .and_then(|error| error.as_error::<Problem>())
        .map(|problem| problem.code);
    if let Some(code) = code {
        api.metrics.refused(code);
    }
    // A line's level is a constant of its place in the code, hence two places.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                request.id = %id,
                http.method = known(request.method()),
                http.route = route,
                http.status = status.as_u16(),
                error.code = code.map_or("", Code::as_str),
                duration.us = started.elapsed().as_micros() as u64,
                "answered"
            )
        };
    }
    // Writing a line for every message would cost more than sending it. The metrics count them;
    // what is refused is logged as anywhere.
    match status.is_success() && SENDING.contains(&route.as_str()) {
        true => line!(debug),
        false => line!(info),
    }
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request.id = %id, http.route = route, "a request failed on our side");
    }
}

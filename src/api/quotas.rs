//! Quotas: reading them, requesting an increase, and the operator's decision.

use super::Api;
use super::admission::{Admin, Member, Operator, Overseer, WithBody};
use super::body::{RequestBody, StrictQuery};
use super::error::{Code, Outcome, Problem};
use super::instances::LimitsBody;
use super::resource::{Page, PageParameters, settle, text};
use super::responses::{Creating, Operating, Reading};
use crate::domain::instance::LimitName;
use crate::store::{DecideError, InsertError, MAX_PENDING, QuotaRequest, Verdict, Wish};
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, get, post};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// Longest reason and longest note, in bytes.
const MAX_TEXT: usize = 1_000;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(get_quotas)
        .service(create_quota_request)
        .service(list_quota_requests)
        .service(get_quota_request)
        .service(approve_quota_request)
        .service(deny_quota_request);
}

/// What the instance may use and what it uses.
#[derive(Debug, Serialize, ToSchema)]
pub struct Quotas {
    /// What it may use.
    limits: LimitsBody,
    /// What it uses now.
    usage: Usage,
}

/// What an instance uses now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Open connections.
    connections: u64,
}

/// A wish for a higher limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"limit": "payloadBytes", "value": 2048, "reason": "larger documents"}))]
pub struct QuotaWish {
    /// The limit's name, as in `limits` of `GET /v1/quotas`.
    #[schema(example = "payloadBytes")]
    limit: String,
    /// The value asked for, above the present one; at most 65,536 for payloads, 1,000,000 for the
    /// others.
    #[schema(minimum = 1)]
    value: u32,
    /// Why, for the operator; 1 to 1,000 bytes.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// What an operator has to say about a request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"note": "granted for the sale"}))]
pub struct Note {
    /// For whoever asked; at most 1,000 bytes.
    #[serde(default)]
    #[schema(max_length = 1000)]
    note: Option<String>,
}

/// A request for a higher limit, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaRequestBody {
    /// Its id.
    id: Uuid,
    /// Whose limit it is.
    instance: String,
    /// The limit's name.
    limit: &'static str,
    /// What the limit was when it was asked for.
    current: u32,
    /// What was asked for.
    value: u32,
    /// Why.
    reason: String,
    /// `pending`, `approved` or `denied`.
    #[schema(pattern = "^(pending|approved|denied)$")]
    status: &'static str,
    /// The user who asked.
    requested_by: String,
    /// When, in UTC.
    requested_at: DateTime<Utc>,
    /// The operator who decided; `null` while pending.
    decided_by: Option<String>,
    /// When, in UTC; `null` while pending.
    decided_at: Option<DateTime<Utc>>,
    /// What the operator had to say.
    note: Option<String>,
}

impl RequestBody for QuotaWish {}

impl RequestBody for Note {
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Read the quotas.
///
/// The instance's limits, and what it uses now on this node.
#[utoipa::path(tag = "Quotas", responses((status = 200, description = "Limits and usage.", body = Quotas), Reading))]
#[get("/v1/quotas")]
pub async fn get_quotas(member: Member, api: Data<Api>) -> Json<Quotas> {
    let instance = &member.tenant.instance;
    let usage = Usage { connections: api.relay.connections(&instance.id) };
    Json(Quotas { limits: instance.limits.into(), usage })
}

/// Request a higher limit.
///
/// An operator approves or denies it; an approved limit holds at once.
#[utoipa::path(
    tag = "Quotas",
    request_body = QuotaWish,
    responses(
        (status = 201, description = "Filed.", body = QuotaRequestBody,
            headers(("Location" = String, description = "Where it is."))),
        Creating,
    )
)]
#[post("/v1/quota-requests")]
pub async fn create_quota_request(
    admitted: WithBody<Admin, QuotaWish>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Admin { principal, tenant }, body } = admitted;
    let limit = LimitName::new(&body.limit)
        .map_err(|error| Problem::invalid("/limit", error.to_string()))?;
    let current = tenant.instance.limits.get(limit);
    if !(current.saturating_add(1)..=limit.most()).contains(&body.value) {
        let detail = format!(
            "{} is {current} and can be raised to {} at most",
            limit.as_str(),
            limit.most()
        );
        return Err(
            Problem::invalid("/value", detail).with_limit(limit.most().into(), body.value.into())
        );
    }
    let reason = text("/reason", body.reason, MAX_TEXT)?;
    if reason.trim().is_empty() {
        return Err(Problem::invalid("/reason", "an operator needs a reason to decide by"));
    }
    let instance = &tenant.instance.id;
    let wish = Wish { limit, value: body.value, reason: &reason };
    let inserted = api.store.insert_quota_request(&principal.user, instance, wish).await;
    let request = settle(&api, inserted.map_err(not_inserted)?).await;
    let location = format!("/v1/quota-requests/{}", request.id);
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, location))
        .json(QuotaRequestBody::from(request)))
}

/// List quota requests.
///
/// The newest first. Operators see those of all instances, or of the one they name.
#[utoipa::path(
    tag = "Quotas",
    params(PageParameters),
    responses((status = 200, description = "A page of requests.", body = Page<QuotaRequestBody>), Reading)
)]
#[get("/v1/quota-requests")]
pub async fn list_quota_requests(
    overseer: Overseer,
    page: StrictQuery<PageParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<QuotaRequestBody>>> {
    let (limit, after) = (page.limit()?, page.after()?);
    let requests = api.store.list_quota_requests(overseer.instance(), after, limit + 1).await?;
    Ok(Json(Page::new(requests, limit, |request| request.id.to_string(), QuotaRequestBody::from)))
}

/// Read a quota request.
///
/// What was asked for, and what became of it.
#[utoipa::path(
    tag = "Quotas",
    params(("id" = String, Path, description = "The request's id.")),
    responses((status = 200, description = "The request.", body = QuotaRequestBody), Reading)
)]
#[get("/v1/quota-requests/{id}")]
pub async fn get_quota_request(
    overseer: Overseer,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<Json<QuotaRequestBody>> {
    let request = api.store.find_quota_request(parse(&id)?).await?;
    let is_visible = |request: &QuotaRequest| {
        overseer.instance().is_none_or(|instance| request.instance == *instance)
    };
    Ok(Json(request.filter(is_visible).ok_or_else(missing)?.into()))
}

/// Approve a quota request.
///
/// The new limit holds at once. Who asked can read the note.
#[utoipa::path(
    tag = "Quotas",
    security(("token" = [])),
    params(("id" = String, Path, description = "The request's id.")),
    request_body = Note,
    responses(
        (status = 200, description = "Approved.", body = QuotaRequestBody),
        (status = 409, description = "`ALREADY_DECIDED`: The quota request is decided.",
            body = inline(super::responses::ProblemDocument), content_type = "application/problem+json"),
        Operating,
    )
)]
#[post("/v1/quota-requests/{id}/approve")]
pub async fn approve_quota_request(
    admitted: WithBody<Operator, Note>,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<Json<QuotaRequestBody>> {
    decide(&api, admitted, &id, Verdict::Approve).await
}

/// Deny a quota request.
///
/// The limit stays. Who asked can read the note.
#[utoipa::path(
    tag = "Quotas",
    security(("token" = [])),
    params(("id" = String, Path, description = "The request's id.")),
    request_body = Note,
    responses(
        (status = 200, description = "Denied.", body = QuotaRequestBody),
        (status = 409, description = "`ALREADY_DECIDED`: The quota request is decided.",
            body = inline(super::responses::ProblemDocument), content_type = "application/problem+json"),
        Operating,
    )
)]
#[post("/v1/quota-requests/{id}/deny")]
pub async fn deny_quota_request(
    admitted: WithBody<Operator, Note>,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<Json<QuotaRequestBody>> {
    decide(&api, admitted, &id, Verdict::Deny).await
}

async fn decide(
    api: &Api,
    admitted: WithBody<Operator, Note>,
    id: &str,
    verdict: Verdict,
) -> Outcome<Json<QuotaRequestBody>> {
    let note = admitted.body.note.map(|note| text("/note", note, MAX_TEXT)).transpose()?;
    let operator = &admitted.admission.principal.user;
    let decided =
        api.store.decide_quota_request(operator, parse(id)?, verdict, note.as_deref()).await;
    Ok(Json(settle(api, decided.map_err(not_decided)?).await.into()))
}

/// A text that is no id names no request.
fn parse(id: &str) -> Outcome<Uuid> {
    id.parse().map_err(|_| missing())
}

fn missing() -> Problem {
    Problem::new(Code::NotFound, "there is no such quota request")
}

fn not_inserted(error: InsertError) -> Problem {
    match error {
        InsertError::Full => {
            let most = MAX_PENDING as u64;
            let detail =
                format!("{most} requests wait for a decision, and an instance may have no more");
            Problem::new(Code::InvalidRequest, detail).with_limit(most, most + 1)
        }
        InsertError::Store(error) => error.into(),
        InsertError::Exists | InsertError::InstanceMissing | InsertError::TooCostly(_) => {
            Problem::new(Code::InstanceNotFound, "the instance was deleted meanwhile")
        }
    }
}

fn not_decided(error: DecideError) -> Problem {
    match error {
        DecideError::Missing => missing(),
        DecideError::AlreadyDecided => {
            Problem::new(Code::AlreadyDecided, "somebody has decided this request")
        }
        DecideError::Store(error) => error.into(),
    }
}

impl From<QuotaRequest> for QuotaRequestBody {
    fn from(request: QuotaRequest) -> Self {
        Self {
            id: request.id,
            instance: request.instance.to_string(),
            limit: request.limit.as_str(),
            current: request.current,
            value: request.value,
            reason: request.reason,
            status: request.status.as_str(),
            requested_by: request.requested_by.to_string(),
            requested_at: request.requested_at,
            decided_by: request.decided_by.map(|user| user.to_string()),
            decided_at: request.decided_at,
            note: request.note,
        }
    }
}

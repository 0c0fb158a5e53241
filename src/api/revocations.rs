//! Revocations: tokens that an instance's administrators no longer accept, `/v1/revocations`.

use super::Api;
use super::admission::{Admin, WithBody};
use super::body::{RequestBody, StrictQuery};
use super::error::{Code, Outcome, Problem};
use super::resource::{Page, PageParameters, not_changed, settle, time};
use super::responses::{Creating, Deleting, Reading};
use crate::domain::principal::UserId;
use crate::domain::revocation::{MAX_REVOCATIONS, Revocation, TokenId, whole_seconds};
use crate::store::{InsertError, RevocationEntry};
use actix_web::http::header::LOCATION;
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get, post};
use chrono::{DateTime, Months, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// How far ahead `expiresAt` may lie.
const MOST_AHEAD: Months = Months::new(120);

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(create_revocation)
        .service(list_revocations)
        .service(get_revocation)
        .service(delete_revocation);
}

/// What shall no longer be accepted: either one token (`jti`, `expiresAt`) or a user's tokens
/// (`user`, `issuedBefore`).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"user": "mallory", "issuedBefore": "2026-01-01T00:00:00Z"}))]
pub struct RevocationRequest {
    /// The token's `jti`, 1 to 512 bytes.
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    jti: Option<String>,
    /// The token's `exp`, or any later time; in the future, and at most 10 years ahead. With the
    /// leeway on top, so long is the token revoked. RFC 3339.
    #[serde(default)]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
    /// The user's id, 1 to 128 bytes.
    #[serde(default)]
    #[schema(nullable = false, min_length = 1, max_length = 128)]
    user: Option<String>,
    /// Revokes the user's tokens whose `iat` is earlier, and those without `iat`. At most the
    /// leeway ahead; left out: now. Counts in whole seconds, rounded up: what was issued in the
    /// same second is revoked too. RFC 3339.
    #[serde(default)]
    #[schema(nullable = false, format = DateTime)]
    issued_before: Option<String>,
}

/// A revocation: of one token (`jti`, `expiresAt`), or of a user's tokens (`user`, `issuedBefore`).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevocationBody {
    /// Its id.
    id: Uuid,
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    jti: Option<String>,
    /// When the token expires, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_at: Option<DateTime<Utc>>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user: Option<String>,
    /// The user's tokens that were issued earlier, or without `iat`, are revoked; in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issued_before: Option<DateTime<Utc>>,
    /// The user who made it.
    created_by: String,
    /// When, in UTC.
    created_at: DateTime<Utc>,
}

impl RequestBody for RevocationRequest {}

/// Revoke a token, or a user's tokens.
///
/// They are refused in this instance with 401 `TOKEN_REVOKED`, and open connections are closed with
/// 4401 on every node within a second. An instance has one revocation a token and one a user: a
/// second one keeps the first one's id and the later of the two times. Revocations leave by
/// themselves once the tokens have expired: that of a token at `expiresAt`, that of a user after as
/// long as any token may be good for (`HERALD_MAX_TOKEN_DAYS`, 30 unless the operator of this
/// server chose otherwise). At most 10,000 an instance.
#[utoipa::path(
    tag = "Revocations",
    request_body = RevocationRequest,
    responses(
        (status = 201, description = "Revoked.", body = RevocationBody,
            headers(("Location" = String, description = "Where it is."))),
        Creating,
    )
)]
#[post("/v1/revocations")]
pub async fn create_revocation(
    admitted: WithBody<Admin, RevocationRequest>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Admin { principal, tenant }, body } = admitted;
    let now = Utc::now();
    let revocation = body.into_revocation(now, &api)?;
    let ends_at = ends_at(&revocation, now, &api);
    let inserted = api
        .store
        .insert_revocation(&principal.user, &tenant.instance.id, revocation, ends_at)
        .await;
    let entry = settle(&api, inserted.map_err(not_inserted)?).await;
    let location = format!("/v1/revocations/{}", entry.id);
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, location))
        .json(RevocationBody::from(entry)))
}

/// List the revocations.
///
/// The newest first, in pages.
#[utoipa::path(
    tag = "Revocations",
    params(PageParameters),
    responses((status = 200, description = "A page of revocations.", body = Page<RevocationBody>), Reading)
)]
#[get("/v1/revocations")]
pub async fn list_revocations(
    admin: Admin,
    page: StrictQuery<PageParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<RevocationBody>>> {
    let (limit, after) = (page.limit()?, page.after()?);
    let entries = api.store.list_revocations(&admin.tenant.instance.id, after, limit + 1).await?;
    Ok(Json(Page::new(entries, limit, |entry| entry.id.to_string(), RevocationBody::from)))
}

/// Read a revocation.
///
/// What is revoked, and who revoked it.
#[utoipa::path(
    tag = "Revocations",
    params(("id" = String, Path, description = "The revocation's id.")),
    responses((status = 200, description = "The revocation.", body = RevocationBody), Reading)
)]
#[get("/v1/revocations/{id}")]
pub async fn get_revocation(
    admin: Admin,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<Json<RevocationBody>> {
    let entry = api.store.find_revocation(&admin.tenant.instance.id, parse(&id)?).await?;
    Ok(Json(entry.ok_or_else(missing)?.into()))
}

/// Take a revocation back.
///
/// The tokens are accepted again, unless another revocation holds for them or they have expired.
#[utoipa::path(
    tag = "Revocations",
    params(("id" = String, Path, description = "The revocation's id.")),
    responses((status = 204, description = "Taken back."), Deleting)
)]
#[delete("/v1/revocations/{id}")]
pub async fn delete_revocation(
    admin: Admin,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let deleted = api
        .store
        .delete_revocation(&admin.principal.user, &admin.tenant.instance.id, parse(&id)?)
        .await;
    settle(&api, deleted.map_err(|error| not_changed(error, missing))?).await;
    Ok(HttpResponse::NoContent().finish())
}

impl RevocationRequest {
    fn into_revocation(self, now: DateTime<Utc>, api: &Api) -> Outcome<Revocation> {
        match (self.jti, self.expires_at, self.user, self.issued_before) {
            (Some(id), expires_at, None, None) => {
                let id = TokenId::new(id)
                    .map_err(|error| Problem::invalid("/jti", error.to_string()))?;
                Ok(Revocation::Token { id, expires_at: expiry(expires_at, now)? })
            }
            (None, None, Some(id), issued_before) => {
                let id = UserId::new(id)
                    .map_err(|error| Problem::invalid("/user", error.to_string()))?;
                Ok(Revocation::User { id, issued_before: cutoff(issued_before, now, api)? })
            }
            _ => {
                let detail = "a revocation has either jti and expiresAt, or user and, unless it is now, issuedBefore";
                Err(Problem::invalid("", detail))
            }
        }
    }
}

fn expiry(text: Option<String>, now: DateTime<Utc>) -> Outcome<DateTime<Utc>> {
    let refused = |detail: &str| Problem::invalid("/expiresAt", detail);
    let Some(text) = text else {
        return Err(refused("say when the token expires: its exp, or later"));
    };
    let expires_at = time("/expiresAt", &text)?;
    if expires_at <= now {
        return Err(refused("it lies in the past: the token has expired by itself"));
    }
    if now.checked_add_months(MOST_AHEAD).is_none_or(|most| expires_at > most) {
        return Err(refused("it lies more than 10 years ahead"));
    }
    Ok(whole_seconds(expires_at))
}

fn cutoff(text: Option<String>, now: DateTime<Utc>, api: &Api) -> Outcome<DateTime<Utc>> {
    let issued_before = text.map_or(Ok(now), |text| time("/issuedBefore", &text))?;
    let leeway = api.settings.leeway;
    if issued_before > now + leeway {
        let detail = format!(
            "it lies more than {} s ahead: tokens to come cannot be revoked",
            leeway.as_secs()
        );
        return Err(Problem::invalid("/issuedBefore", detail));
    }
    Ok(whole_seconds(issued_before))
}

/// When every token that it concerns has expired. A token without `iat` may have been issued just
/// now.
fn ends_at(revocation: &Revocation, now: DateTime<Utc>, api: &Api) -> DateTime<Utc> {
    let last = match revocation {
        Revocation::Token { expires_at, .. } => *expires_at,
        Revocation::User { issued_before, .. } => {
            now.max(*issued_before) + api.settings.max_token_age
        }
    };
    last + api.settings.leeway
}

/// A text that is no id names no revocation.
fn parse(id: &str) -> Outcome<Uuid> {
    id.parse().map_err(|_| missing())
}

fn missing() -> Problem {
    Problem::new(Code::NotFound, "the instance has no revocation of this id")
}

fn not_inserted(error: InsertError) -> Problem {
    match error {
        InsertError::Full => {
            let most = MAX_REVOCATIONS as u64;
            let detail = format!(
                "an instance has at most {most} revocations; those of a user need only one"
            );
            Problem::new(Code::InvalidRequest, detail).with_limit(most, most + 1)
        }
        InsertError::Store(error) => error.into(),
        InsertError::Exists | InsertError::InstanceMissing | InsertError::TooCostly(_) => {
            Problem::new(Code::InstanceNotFound, "the instance was deleted meanwhile")
        }
    }
}

impl From<RevocationEntry> for RevocationBody {
    fn from(entry: RevocationEntry) -> Self {
        let mut body = Self {
            id: entry.id,
            jti: None,
            expires_at: None,
            user: None,
            issued_before: None,
            created_by: entry.created_by.to_string(),
            created_at: entry.created_at,
        };
        match entry.revocation {
            Revocation::Token { id, expires_at } => {
                (body.jti, body.expires_at) = (Some(id.to_string()), Some(expires_at));
            }
            Revocation::User { id, issued_before } => {
                (body.user, body.issued_before) = (Some(id.to_string()), Some(issued_before));
            }
        }
        body
    }
}

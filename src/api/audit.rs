//! The audit: who changed what, and when.

use super::Api;
use super::admission::Overseer;
use super::body::StrictQuery;
use super::error::Outcome;
use super::resource::{Page, PageParameters};
use super::responses::Reading;
use crate::store::AuditEntry;
use actix_web::get;
use actix_web::web::{Data, Json};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(list_audit);
}

/// One change.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditBody {
    /// Its id; later changes have greater ones.
    id: Uuid,
    /// When, in UTC.
    time: DateTime<Utc>,
    /// The user who made it.
    actor: String,
    /// The instance concerned; stays after the instance is gone.
    instance: Option<String>,
    /// What was done, such as `channel.update`.
    #[schema(example = "channel.update")]
    action: String,
    /// The name or the id of what was changed.
    #[schema(example = "engineering")]
    target: String,
    /// What it was; `null` when it was made.
    #[schema(value_type = Option<Object>)]
    before: Option<Value>,
    /// What it became; `null` when it was deleted.
    #[schema(value_type = Option<Object>)]
    after: Option<Value>,
}

/// List changes.
///
/// The newest first. Administrators see those of their instance, operators those of all instances
/// or of the one they name.
#[utoipa::path(
    tag = "Audit",
    params(PageParameters),
    responses((status = 200, description = "A page of changes.", body = Page<AuditBody>), Reading)
)]
#[get("/v1/audit")]
pub async fn list_audit(
    overseer: Overseer,
    page: StrictQuery<PageParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<AuditBody>>> {
    let (limit, after) = (page.limit()?, page.after()?);
    let entries = api.store.list_audit(overseer.instance(), after, limit + 1).await?;
    Ok(Json(Page::new(entries, limit, |entry| entry.id.to_string(), AuditBody::from)))
}

impl From<AuditEntry> for AuditBody {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            time: entry.time,
            actor: entry.actor.to_string(),
            instance: entry.instance.map(|instance| instance.to_string()),
            action: entry.action,
            target: entry.target,
            before: entry.before,
            after: entry.after,
        }
    }
}

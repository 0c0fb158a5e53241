//! The audit: who changed what, and when.

use super::Api;
use super::admission::Overseer;
use super::body::StrictQuery;
use super::error::{Outcome, Problem};
use super::resource::{Page, PageParameters, text, time};
use super::responses::Reading;
use crate::domain::instance::InstanceId;
use crate::domain::principal::UserId;
use crate::store::{AuditEntry, AuditFilter};
use actix_web::get;
use actix_web::web::{Data, Json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(list_audit);
}

/// Longest filter text, in bytes.
const MAX_FILTER: usize = 200;

/// Which changes, and which part of their list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParameters {
    /// Only those that this user made.
    #[serde(default)]
    actor: Option<String>,
    /// Only this action, such as `channel.update`; at most 200 bytes.
    #[serde(default)]
    action: Option<String>,
    /// Only those of this name or id; at most 200 bytes.
    #[serde(default)]
    target: Option<String>,
    /// Only those made at this time or later. RFC 3339.
    #[serde(default)]
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only those made before this time. RFC 3339; not before `from`.
    #[serde(default)]
    #[param(format = DateTime)]
    to: Option<String>,
    /// Most entries to answer with, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    after: Option<String>,
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
/// or of the one they name. A change must pass every filter that is given. Changes are forgotten
/// after some time (`HERALD_AUDIT_DAYS`, 400 days unless the operator of this server chose
/// otherwise).
#[utoipa::path(
    tag = "Audit",
    params(AuditParameters),
    responses((status = 200, description = "A page of changes.", body = Page<AuditBody>), Reading)
)]
#[get("/v1/audit")]
pub async fn list_audit(
    overseer: Overseer,
    parameters: StrictQuery<AuditParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<AuditBody>>> {
    let mut parameters = parameters.into_inner();
    let page = PageParameters::new(parameters.limit, parameters.after.take());
    let (limit, after) = (page.limit()?, page.after()?);
    let filter = parameters.into_filter(overseer.instance())?;
    let entries = api.store.list_audit(&filter, after, limit + 1).await?;
    Ok(Json(Page::new(entries, limit, |entry| entry.id.to_string(), AuditBody::from)))
}

impl AuditParameters {
    fn into_filter(self, instance: Option<&InstanceId>) -> Outcome<AuditFilter> {
        let text = |name, value: Option<String>| {
            value.map(|value| text(name, value, MAX_FILTER)).transpose()
        };
        let time = |name, value: Option<String>| value.map(|value| time(name, &value)).transpose();
        let actor = self.actor.map(UserId::new).transpose();
        let filter = AuditFilter {
            instance: instance.cloned(),
            actor: actor.map_err(|error| Problem::invalid("actor", error.to_string()))?,
            action: text("action", self.action)?,
            target: text("target", self.target)?,
            from: time("from", self.from)?,
            to: time("to", self.to)?,
        };
        if filter.to.is_some_and(|to| filter.from.is_some_and(|from| to < from)) {
            return Err(Problem::invalid("to", "it is a time before `from`"));
        }
        Ok(filter)
    }
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

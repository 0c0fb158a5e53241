//! Instances, for operators: `/v1/instances` and `/v1/instances/{id}`.

use super::Api;
use super::admission::{Operator, WithBody};
use super::body::{RequestBody, StrictQuery};
use super::error::{Code, Outcome, Problem};
use super::resource::{
    IfMatch, Page, PageParameters, created, not_changed, settle, text, versioned,
};
use super::responses::{Operating, OperatingOnVersions, OperatorsReading, OperatorsRemoving};
use crate::domain::instance::{Instance, InstanceId, LimitName, Limits};
use crate::domain::principal::Role;
use crate::store::InsertError;
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get, post, put};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Longest name, in bytes.
const MAX_NAME: usize = 200;
/// Most publishRoles, and most origins.
const MAX_LISTED: usize = 100;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(create_instance)
        .service(list_instances)
        .service(get_instance)
        .service(replace_instance)
        .service(delete_instance);
}

/// An instance as it shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"id": "shop", "name": "Shop", "origins": ["https://shop.example"], "limits": {"connections": 500}}))]
pub struct InstanceRequest {
    /// 1 to 64 of the characters `A-Z a-z 0-9 _ -`. Required when creating; when replacing it may
    /// be left out, and never changes.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "shop")]
    #[serde(default)]
    id: Option<String>,
    /// For people, at most 200 bytes.
    #[serde(default)]
    #[schema(max_length = 200)]
    name: String,
    /// While false, nobody connects or publishes, and its administrators manage nothing.
    #[serde(default = "enabled")]
    #[schema(default = true)]
    enabled: bool,
    /// Roles that let a token without a `component` claim publish, at most 100. Empty: component
    /// tokens only.
    #[serde(default)]
    #[schema(max_items = 100)]
    publish_roles: Vec<String>,
    /// The exact origins that browsers may come from, such as `https://shop.example`, at most 100.
    /// Empty: any but `null`, which must be listed.
    #[serde(default)]
    #[schema(max_items = 100)]
    origins: Vec<String>,
    /// What the instance may use; each that is left out has its default.
    #[serde(default)]
    limits: LimitsBody,
    /// As read, when replacing: a copy of what `GET` answered is a good body. `If-Match` decides.
    #[serde(default)]
    version: Option<i64>,
}

/// What an instance may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsBody {
    /// Largest `message` of a token without a `component` claim, in bytes, at most 65,536.
    #[schema(minimum = 1, maximum = 65536, default = 1024)]
    payload_bytes: u32,
    /// Largest `message` of a component token, in bytes, at most 65,536.
    #[schema(minimum = 1, maximum = 65536, default = 4096)]
    component_payload_bytes: u32,
    /// Messages a second that the whole instance may publish.
    #[schema(minimum = 1, maximum = 1000000, default = 100)]
    messages_per_second: u32,
    /// Messages that the instance may publish at once.
    #[schema(minimum = 1, maximum = 1000000, default = 200)]
    message_burst: u32,
    /// Messages a second that one user may publish.
    #[schema(minimum = 1, maximum = 1000000, default = 50)]
    user_messages_per_second: u32,
    /// Messages that one user may publish at once.
    #[schema(minimum = 1, maximum = 1000000, default = 100)]
    user_message_burst: u32,
    /// Connections open at the same time.
    #[schema(minimum = 1, maximum = 1000000, default = 10000)]
    connections: u32,
    /// Connections of one user open at the same time.
    #[schema(minimum = 1, maximum = 1000000, default = 20)]
    connections_per_user: u32,
    /// New connections a second.
    #[schema(minimum = 1, maximum = 1000000, default = 200)]
    connects_per_second: u32,
}

/// An instance as it is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceBody {
    /// Never changes.
    id: String,
    /// For people.
    name: String,
    /// While false, nobody connects or publishes.
    enabled: bool,
    /// Roles that let a token without a `component` claim publish.
    publish_roles: Vec<String>,
    /// The exact origins that browsers may come from; empty: any.
    origins: Vec<String>,
    /// What it may use.
    limits: LimitsBody,
    /// Grows by one with every change; also in `ETag`.
    version: i64,
}

impl RequestBody for InstanceRequest {}

/// Create an instance.
///
/// It can be used at once.
#[utoipa::path(
    tag = "Instances",
    security(("token" = [])),
    request_body = InstanceRequest,
    responses(
        (status = 201, description = "Created.", body = InstanceBody,
            headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its version."))),
        (status = 409, description = "`INSTANCE_EXISTS`: An instance of this id exists.",
            body = inline(super::responses::ProblemDocument), content_type = "application/problem+json"),
        Operating,
    )
)]
#[post("/v1/instances")]
pub async fn create_instance(
    admitted: WithBody<Operator, InstanceRequest>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Operator { principal }, body } = admitted;
    if body.version.is_some() {
        return Err(Problem::invalid("/version", "the server counts the versions; leave it out"));
    }
    let id = body.id.clone().ok_or_else(|| Problem::invalid("/id", "an instance needs an id"))?;
    let id = InstanceId::new(id).map_err(|error| Problem::invalid("/id", error.to_string()))?;
    let instance = body.into_instance(id, 1)?;
    let inserted = api.store.insert_instance(&principal.user, &instance).await;
    let instance = settle(&api, inserted.map_err(not_inserted)?).await;
    Ok(created(
        &format!("/v1/instances/{}", instance.id),
        instance.version,
        InstanceBody::from(instance),
    ))
}

/// List the instances.
///
/// By id, in pages.
#[utoipa::path(
    tag = "Instances",
    security(("token" = [])),
    params(PageParameters),
    responses((status = 200, description = "A page of instances.", body = Page<InstanceBody>), OperatorsReading)
)]
#[get("/v1/instances")]
pub async fn list_instances(
    _operator: Operator,
    page: StrictQuery<PageParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<InstanceBody>>> {
    let (limit, after) = (page.limit()?, page.after::<InstanceId>()?);
    let instances = api.store.list_instances(after.as_ref(), limit + 1).await?;
    Ok(Json(Page::new(instances, limit, |instance| instance.id.to_string(), InstanceBody::from)))
}

/// Read an instance.
///
/// With its limits and its version.
#[utoipa::path(
    tag = "Instances",
    security(("token" = [])),
    params(("id" = String, Path, description = "The instance's id.", example = "shop")),
    responses(
        (status = 200, description = "The instance.", body = InstanceBody,
            headers(("ETag" = String, description = "Its version, for `If-Match`."))),
        OperatorsReading,
    )
)]
#[get("/v1/instances/{id}")]
pub async fn get_instance(
    _operator: Operator,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let instance = find(&api, &id).await?;
    Ok(versioned(instance.version, InstanceBody::from(instance)))
}

/// Replace an instance.
///
/// The whole instance: a field or a limit that is left out gets its default. Disabling it closes
/// its connections within a second.
#[utoipa::path(
    tag = "Instances",
    security(("token" = [])),
    params(
        ("id" = String, Path, description = "The instance's id.", example = "shop"),
        ("If-Match" = String, Header, description = "The `ETag` that was read.", example = "\"1\""),
    ),
    request_body = InstanceRequest,
    responses(
        (status = 200, description = "Replaced.", body = InstanceBody,
            headers(("ETag" = String, description = "Its new version."))),
        OperatingOnVersions,
    )
)]
#[put("/v1/instances/{id}")]
pub async fn replace_instance(
    admitted: WithBody<Operator, InstanceRequest>,
    if_match: IfMatch,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Operator { principal }, body } = admitted;
    if body.id.as_ref().is_some_and(|written| *written != *id) {
        return Err(Problem::invalid(
            "/id",
            "an instance keeps its id: create another one instead",
        ));
    }
    let old = find(&api, &id).await?;
    let instance = body.into_instance(old.id, if_match.check(old.version)?)?;
    let updated = api.store.update_instance(&principal.user, &instance).await;
    let instance = settle(&api, updated.map_err(|error| not_changed(error, missing))?).await;
    Ok(versioned(instance.version, InstanceBody::from(instance)))
}

/// Delete an instance.
///
/// With its channels and quota requests; its connections are closed within a second. What the audit
/// says of it stays.
#[utoipa::path(
    tag = "Instances",
    security(("token" = [])),
    params(
        ("id" = String, Path, description = "The instance's id.", example = "shop"),
        ("If-Match" = String, Header, description = "The `ETag` that was read.", example = "\"1\""),
    ),
    responses((status = 204, description = "Deleted."), OperatorsRemoving)
)]
#[delete("/v1/instances/{id}")]
pub async fn delete_instance(
    operator: Operator,
    if_match: IfMatch,
    id: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let old = find(&api, &id).await?;
    let version = if_match.check(old.version)?;
    let deleted = api.store.delete_instance(&operator.principal.user, &old.id, version).await;
    settle(&api, deleted.map_err(|error| not_changed(error, missing))?).await;
    Ok(HttpResponse::NoContent().finish())
}

async fn find(api: &Api, id: &str) -> Outcome<Instance> {
    let Ok(id) = InstanceId::new(id) else { return Err(missing()) };
    api.store.find_instance(&id).await?.ok_or_else(missing)
}

fn missing() -> Problem {
    Problem::new(Code::InstanceNotFound, "there is no instance of this id")
}

fn not_inserted(error: InsertError) -> Problem {
    match error {
        InsertError::Exists => {
            Problem::new(Code::InstanceExists, "there is an instance of this id")
        }
        InsertError::Store(error) => error.into(),
        InsertError::Full | InsertError::InstanceMissing | InsertError::TooCostly(_) => missing(),
    }
}

fn enabled() -> bool {
    true
}

impl InstanceRequest {
    fn into_instance(self, id: InstanceId, version: i64) -> Outcome<Instance> {
        for (pointer, length) in
            [("/publishRoles", self.publish_roles.len()), ("/origins", self.origins.len())]
        {
            if length > MAX_LISTED {
                let problem = Problem::invalid(pointer, format!("at most {MAX_LISTED} entries"));
                return Err(problem.with_limit(MAX_LISTED as u64, length as u64));
            }
        }
        let roles = self.publish_roles.iter().enumerate().map(|(index, role)| {
            Role::new(role).map_err(|error| {
                Problem::invalid(format!("/publishRoles/{index}"), error.to_string())
            })
        });
        Ok(Instance {
            id,
            name: text("/name", self.name, MAX_NAME)?,
            enabled: self.enabled,
            publish_roles: roles.collect::<Outcome<_>>()?,
            origins: self.origins.into_iter().enumerate().map(origin).collect::<Outcome<_>>()?,
            limits: self.limits.into_limits()?,
            version,
        })
    }
}

/// An origin as browsers write it (RFC 6454, section 6.2), so that a typing error never becomes an
/// origin that no browser sends.
fn origin((index, origin): (usize, String)) -> Outcome<String> {
    let is_exact =
        |url: Url| url.origin().is_tuple() && url.origin().ascii_serialization() == origin;
    if origin == "null" || Url::parse(&origin).is_ok_and(is_exact) {
        return Ok(origin);
    }
    let detail = "an origin is written as browsers do, such as https://shop.example or https://shop.example:8443";
    Err(Problem::invalid(format!("/origins/{index}"), detail))
}

impl LimitsBody {
    fn into_limits(self) -> Outcome<Limits> {
        let mut limits = Limits::default();
        for name in LimitName::all() {
            let set = limits.set(name, self.get(name));
            set.map_err(|error| {
                let problem =
                    Problem::invalid(format!("/limits/{}", name.as_str()), error.to_string());
                problem.with_limit(name.most().into(), self.get(name).into())
            })?;
        }
        Ok(limits)
    }

    fn get(&self, name: LimitName) -> u32 {
        Limits::from(*self).get(name)
    }
}

impl From<LimitsBody> for Limits {
    fn from(body: LimitsBody) -> Self {
        Self {
            payload_bytes: body.payload_bytes,
            component_payload_bytes: body.component_payload_bytes,
            messages_per_second: body.messages_per_second,
            message_burst: body.message_burst,
            user_messages_per_second: body.user_messages_per_second,
            user_message_burst: body.user_message_burst,
            connections: body.connections,
            connections_per_user: body.connections_per_user,
            connects_per_second: body.connects_per_second,
        }
    }
}

impl From<Limits> for LimitsBody {
    fn from(limits: Limits) -> Self {
        Self {
            payload_bytes: limits.payload_bytes,
            component_payload_bytes: limits.component_payload_bytes,
            messages_per_second: limits.messages_per_second,
            message_burst: limits.message_burst,
            user_messages_per_second: limits.user_messages_per_second,
            user_message_burst: limits.user_message_burst,
            connections: limits.connections,
            connections_per_user: limits.connections_per_user,
            connects_per_second: limits.connects_per_second,
        }
    }
}

impl Default for LimitsBody {
    fn default() -> Self {
        Limits::default().into()
    }
}

impl From<Instance> for InstanceBody {
    fn from(instance: Instance) -> Self {
        Self {
            id: instance.id.to_string(),
            name: instance.name,
            enabled: instance.enabled,
            publish_roles: instance.publish_roles.iter().map(ToString::to_string).collect(),
            origins: instance.origins,
            limits: instance.limits.into(),
            version: instance.version,
        }
    }
}

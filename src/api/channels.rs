//! Channels and their rules: `/v1/channels` and `/v1/channels/{name}`.

use super::Api;
use super::admission::{Admin, WithBody};
use super::body::{RequestBody, StrictQuery};
use super::error::{Code, Outcome, Problem};
use super::resource::{
    IfMatch, Page, PageParameters, created, not_changed, settle, text, versioned,
};
use super::responses::{Changing, Creating, Reading, Removing};
use super::rules::{self, RuleBody, RuleReader};
use crate::domain::channel::{Channel, ChannelName, MAX_CHANNELS, Slow};
use crate::domain::expression::Scope;
use crate::domain::expression::compiled::Compiled;
use crate::domain::instance::InstanceId;
use crate::store::{InsertError, KnownCost};
use actix_web::web::{Data, Json, Path};
use actix_web::{HttpResponse, delete, get, post, put};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// Longest description, in bytes.
const MAX_DESCRIPTION: usize = 1_000;
/// Largest `payloadLimit`, in bytes (contract, "Managing": each limit of a payload is at most
/// 65,536).
const MAX_PAYLOAD_LIMIT: u32 = 65_536;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(create_channel)
        .service(list_channels)
        .service(get_channel)
        .service(replace_channel)
        .service(delete_channel);
}

/// A channel as it shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "name": "engineering",
    "description": "For engineers",
    "rules": [{"effect": "allow", "group": "eng"}, {"effect": "deny", "user": "mallory"}]
}))]
pub struct ChannelRequest {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, begins with a letter or a digit, and is not
    /// `ALL` in any case. Required when creating; when replacing it may be left out, and never
    /// changes.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "engineering")]
    #[serde(default)]
    name: Option<String>,
    /// For people, at most 1,000 bytes.
    #[serde(default)]
    #[schema(max_length = 1000)]
    description: String,
    /// While false, nobody hears the channel and publishing to it is answered with 409.
    #[serde(default = "enabled")]
    #[schema(default = true)]
    enabled: bool,
    /// Who hears it, at most 100 rules. Deny wins; without an allow that applies, nobody does. Left
    /// out: everyone hears it. Empty: nobody.
    #[serde(default = "rules::everyone")]
    #[schema(max_items = 100)]
    rules: Vec<RuleBody>,
    /// Who, of those who may publish at all, may publish to it; the same form and the same
    /// defaults.
    #[serde(default = "rules::everyone")]
    #[schema(max_items = 100)]
    publish_rules: Vec<RuleBody>,
    /// Largest message in bytes, 1 to 65,536; only lowers the instance's limit. `null`: no limit of
    /// its own.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65536)]
    payload_limit: Option<u32>,
    /// What a receiver gets that does not read fast enough.
    #[serde(default)]
    #[schema(default = "disconnect")]
    slow: SlowBody,
    /// As read, when replacing: a copy of what `GET` answered is a good body. `If-Match` decides.
    #[serde(default)]
    version: Option<i64>,
}

/// What a channel's slow receivers get.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlowBody {
    /// All messages wait; a connection without room for one more is closed with 4420 and resumes
    /// with its cursor.
    #[default]
    Disconnect,
    /// Only the newest message waits; a `DROPPED` frame tells how many it replaced.
    Latest,
}

/// A channel as it is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelBody {
    /// Its name; `channel:NAME` is its canonical name as an audience.
    name: String,
    /// For people.
    description: String,
    /// While false, nobody hears it.
    enabled: bool,
    /// Who hears it.
    rules: Vec<RuleBody>,
    /// Who, of those who may publish at all, may publish to it.
    publish_rules: Vec<RuleBody>,
    /// Largest message in bytes; `null` without a limit of its own.
    payload_limit: Option<u32>,
    /// What a receiver gets that does not read fast enough.
    slow: SlowBody,
    /// Grows by one with every change; also in `ETag`.
    version: i64,
}

impl RequestBody for ChannelRequest {}

/// Create a channel.
///
/// It is in force on every node within a second; open connections that may hear it are told with a
/// `CHANNELS` frame.
#[utoipa::path(
    tag = "Channels",
    request_body = ChannelRequest,
    responses(
        (status = 201, description = "Created.", body = ChannelBody,
            headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its version."))),
        (status = 409, description = "`CHANNEL_EXISTS`: A channel of this name exists.",
            body = inline(super::responses::ProblemDocument), content_type = "application/problem+json"),
        Creating,
    )
)]
#[post("/v1/channels")]
pub async fn create_channel(
    admitted: WithBody<Admin, ChannelRequest>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Admin { principal, tenant }, body } = admitted;
    if body.version.is_some() {
        return Err(Problem::invalid("/version", "the server counts the versions; leave it out"));
    }
    let name =
        body.name.clone().ok_or_else(|| Problem::invalid("/name", "a channel needs a name"))?;
    let name =
        ChannelName::new(name).map_err(|error| Problem::invalid("/name", error.to_string()))?;
    let instance = &tenant.instance.id;
    let channel = body.into_channel(name, 1, api.store.compiled(), instance).await?;
    let known = known_cost(&api, instance, &channel.name);
    let inserted = api.store.insert_channel(&principal.user, instance, &channel, known).await;
    let channel = settle(&api, inserted.map_err(not_inserted)?).await;
    Ok(created(
        &format!("/v1/channels/{}", channel.name),
        channel.version,
        ChannelBody::from(channel),
    ))
}

/// List the channels.
///
/// By name, in pages.
#[utoipa::path(
    tag = "Channels",
    params(PageParameters),
    responses((status = 200, description = "A page of channels.", body = Page<ChannelBody>), Reading)
)]
#[get("/v1/channels")]
pub async fn list_channels(
    admin: Admin,
    page: StrictQuery<PageParameters>,
    api: Data<Api>,
) -> Outcome<Json<Page<ChannelBody>>> {
    let (limit, after) = (page.limit()?, page.after::<ChannelName>()?);
    let channels =
        api.store.list_channels(&admin.tenant.instance.id, after.as_ref(), limit + 1).await?;
    Ok(Json(Page::new(channels, limit, |channel| channel.name.to_string(), ChannelBody::from)))
}

/// Read a channel.
///
/// With its rules and its version.
#[utoipa::path(
    tag = "Channels",
    params(("name" = String, Path, description = "The channel's name.", example = "engineering")),
    responses(
        (status = 200, description = "The channel.", body = ChannelBody,
            headers(("ETag" = String, description = "Its version, for `If-Match`."))),
        Reading,
    )
)]
#[get("/v1/channels/{name}")]
pub async fn get_channel(
    admin: Admin,
    name: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let channel = find(&api, &admin.tenant.instance.id, &name).await?;
    Ok(versioned(channel.version, ChannelBody::from(channel)))
}

/// Replace a channel.
///
/// The whole channel: a field that is left out gets its default, `rules` and `publishRules` too.
/// Within a second every open connection hears what the new rules allow, and is told with a
/// `CHANNELS` frame if that changed.
#[utoipa::path(
    tag = "Channels",
    params(
        ("name" = String, Path, description = "The channel's name.", example = "engineering"),
        ("If-Match" = String, Header, description = "The `ETag` that was read.", example = "\"1\""),
    ),
    request_body = ChannelRequest,
    responses(
        (status = 200, description = "Replaced.", body = ChannelBody,
            headers(("ETag" = String, description = "Its new version."))),
        Changing,
    )
)]
#[put("/v1/channels/{name}")]
pub async fn replace_channel(
    admitted: WithBody<Admin, ChannelRequest>,
    if_match: IfMatch,
    name: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let WithBody { admission: Admin { principal, tenant }, body } = admitted;
    if body.name.as_ref().is_some_and(|written| *written != *name) {
        return Err(Problem::invalid(
            "/name",
            "a channel keeps its name: create another one instead",
        ));
    }
    let instance = &tenant.instance.id;
    let old = find(&api, instance, &name).await?;
    let version = if_match.check(old.version)?;
    let channel = body.into_channel(old.name, version, api.store.compiled(), instance).await?;
    let known = known_cost(&api, instance, &channel.name);
    let updated = api.store.update_channel(&principal.user, instance, &channel, known).await;
    let channel = settle(&api, updated.map_err(|error| not_changed(error, missing))?).await;
    Ok(versioned(channel.version, ChannelBody::from(channel)))
}

/// Delete a channel.
///
/// Open connections stop hearing it within a second.
#[utoipa::path(
    tag = "Channels",
    params(
        ("name" = String, Path, description = "The channel's name.", example = "engineering"),
        ("If-Match" = String, Header, description = "The `ETag` that was read.", example = "\"1\""),
    ),
    responses((status = 204, description = "Deleted."), Removing)
)]
#[delete("/v1/channels/{name}")]
pub async fn delete_channel(
    admin: Admin,
    if_match: IfMatch,
    name: Path<String>,
    api: Data<Api>,
) -> Outcome<HttpResponse> {
    let instance = &admin.tenant.instance.id;
    let old = find(&api, instance, &name).await?;
    let version = if_match.check(old.version)?;
    let deleted =
        api.store.delete_channel(&admin.principal.user, instance, &old.name, version).await;
    settle(&api, deleted.map_err(|error| not_changed(error, missing))?).await;
    Ok(HttpResponse::NoContent().finish())
}

/// What the instance's other expressions cost, as this node knows it.
fn known_cost(api: &Api, instance: &InstanceId, name: &ChannelName) -> Option<KnownCost> {
    api.catalog.cost_beside(instance, name, api.store.compiled().bounds().instance)
}

async fn find(api: &Api, instance: &InstanceId, name: &str) -> Outcome<Channel> {
    let Ok(name) = ChannelName::new(name) else { return Err(missing()) };
    api.store.find_channel(instance, &name).await?.ok_or_else(missing)
}

/// 404 `CHANNEL_NOT_FOUND`.
pub fn missing() -> Problem {
    Problem::new(Code::ChannelNotFound, "the instance has no channel of this name")
}

fn not_inserted(error: InsertError) -> Problem {
    match error {
        InsertError::Exists => {
            Problem::new(Code::ChannelExists, "the instance has a channel of this name")
        }
        InsertError::Full => {
            let most = MAX_CHANNELS as u64;
            let detail = format!("an instance has at most {most} channels");
            Problem::new(Code::InvalidRequest, detail).with_limit(most, most + 1)
        }
        InsertError::InstanceMissing => {
            Problem::new(Code::InstanceNotFound, "the instance was deleted meanwhile")
        }
        InsertError::TooCostly(excess) => Problem::too_costly(excess),
        InsertError::Store(error) => error.into(),
    }
}

fn enabled() -> bool {
    true
}

impl ChannelRequest {
    async fn into_channel(
        self,
        name: ChannelName,
        version: i64,
        compiled: &Compiled,
        instance: &InstanceId,
    ) -> Outcome<Channel> {
        if let Some(limit) =
            self.payload_limit.filter(|limit| !(1..=MAX_PAYLOAD_LIMIT).contains(limit))
        {
            let problem = Problem::invalid(
                "/payloadLimit",
                format!("it lies between 1 and {MAX_PAYLOAD_LIMIT} bytes"),
            );
            return Err(problem.with_limit(MAX_PAYLOAD_LIMIT.into(), limit.into()));
        }
        let mut reader = RuleReader::new(compiled, instance);
        Ok(Channel {
            name,
            description: text("/description", self.description, MAX_DESCRIPTION)?,
            enabled: self.enabled,
            rules: reader.read("/rules", self.rules, Scope::Hear).await?,
            publish_rules: reader.read("/publishRules", self.publish_rules, Scope::Publish).await?,
            payload_limit: self.payload_limit,
            slow: self.slow.into(),
            version,
        })
    }
}

impl From<SlowBody> for Slow {
    fn from(slow: SlowBody) -> Self {
        match slow {
            SlowBody::Disconnect => Self::Disconnect,
            SlowBody::Latest => Self::Latest,
        }
    }
}

impl From<Slow> for SlowBody {
    fn from(slow: Slow) -> Self {
        match slow {
            Slow::Disconnect => Self::Disconnect,
            Slow::Latest => Self::Latest,
        }
    }
}

impl From<Channel> for ChannelBody {
    fn from(channel: Channel) -> Self {
        Self {
            name: channel.name.to_string(),
            description: channel.description,
            enabled: channel.enabled,
            rules: rules::show(&channel.rules),
            publish_rules: rules::show(&channel.publish_rules),
            payload_limit: channel.payload_limit,
            slow: channel.slow.into(),
            version: channel.version,
        }
    }
}

//! Why someone hears a channel or not, and may publish to it or not: `POST
//! /v1/channels/{name}/explain`.

use super::Api;
use super::admission::{Admin, NO_PUBLISHER, WithBody};
use super::body::RequestBody;
use super::channels::missing;
use super::error::{Code, Outcome, Problem};
use super::responses::Explaining;
use super::rules::EffectBody;
use super::wording;
use crate::auth::{ClaimNames, MAX_TOKEN_BYTES};
use crate::catalog::Tenant;
use crate::domain::audience::Audience;
use crate::domain::channel::Channel;
use crate::domain::claims::Claims;
use crate::domain::expression::{self, Facts};
use crate::domain::instance::InstanceId;
use crate::domain::names::Names;
use crate::domain::principal::{GroupId, MAX_GROUPS, Principal, Role, Scope, UserId};
use crate::domain::rule::Rules;
use crate::domain::rule::explain::RuleResult;
use crate::relay::{Answer, ConnectionSnapshot, Query};
use actix_web::post;
use actix_web::web::{Data, Json, Path};
use chrono::Utc;
use indexmap::IndexSet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::hash::Hash;
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

/// The routes of this file.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(explain_channel);
}

/// Whom to ask the rules about: a user as he would sign in (`userId`, and what is not as by
/// default), or an open connection (`connectionId` alone).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"userId": "alice", "groups": ["eng"], "claims": {"plan": "pro"}}))]
pub struct ExplainRequest {
    /// The user's id, 1 to 128 bytes. A user has no connection: a rule that names `connection` has
    /// no answer for one; ask for a connection instead.
    #[serde(default)]
    user_id: Option<String>,
    /// The ids of the user's groups, at most 256. Left out: none.
    #[serde(default)]
    #[schema(max_items = 256)]
    groups: Option<Vec<String>>,
    /// The user's roles. Left out: `REALTIME_CONNECT`.
    #[serde(default)]
    roles: Option<Vec<String>>,
    /// Every other claim of the token, at most 16 KiB of JSON; `component` among them makes it a
    /// component's. The claims of the user, the groups and the roles are filled in where they are
    /// not among them, under their configured names.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    claims: Option<Map<String, Value>>,
    /// An open connection of this node: its newest token, its address and its `User-Agent` count.
    #[serde(default)]
    connection_id: Option<String>,
}

/// What a channel's rules say of someone.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationBody {
    /// Whether the channel is heard, by its `rules`.
    hear: DecisionBody,
    /// Whether it may be published to, by its `publishRules`.
    publish: DecisionBody,
}

/// A decision and what led to it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionBody {
    /// What is so.
    allowed: bool,
    /// The rule that decided, by its place in the list, from 0: the first deny rule that applies,
    /// else the first allow rule that does. `null`: none applies, or something else decided.
    rule: Option<usize>,
    /// Every rule, in the list's order.
    rules: Vec<RuleResultBody>,
    /// Only present where something else than the rules decided: what.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// What one rule says.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleResultBody {
    /// Its place in the list, from 0.
    index: usize,
    /// What it does where it applies.
    effect: EffectBody,
    /// Whether it means them. `"error"`: its expression has no answer, which does not allow and
    /// does deny.
    result: ResultBody,
    /// Why, with the values seen; at most 512 bytes.
    reason: String,
}

/// `true`, `false` or `"error"`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResultBody {
    /// An answer.
    Answer(bool),
    /// None.
    NoAnswer(NoAnswer),
}

/// That an expression has no answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoAnswer {
    /// A claim is missing, or a value of another kind than its place takes.
    Error,
}

impl RequestBody for ExplainRequest {}

/// Explain who hears a channel.
///
/// For a user as he would sign in, or for an open connection: would he hear the channel, may he
/// publish to it, which rule decided, and what each rule says and why. The same code decides who
/// gets a message.
#[utoipa::path(
    tag = "Channels",
    params(("name" = String, Path, description = "The channel's name.", example = "engineering")),
    request_body = ExplainRequest,
    responses((status = 200, description = "The decisions.", body = ExplanationBody), Explaining)
)]
#[post("/v1/channels/{name}/explain")]
pub async fn explain_channel(
    admitted: WithBody<Admin, ExplainRequest>,
    name: Path<String>,
    api: Data<Api>,
) -> Outcome<Json<ExplanationBody>> {
    let WithBody { admission: Admin { mut tenant, .. }, body } = admitted;
    let asked = body.asked(api.authenticator.claim_names(), &tenant.instance.id)?;
    let channel = tenant.channels.get(name.as_str()).cloned().ok_or_else(missing)?;
    let whom = match asked {
        Asked::User(user) => Whom::User(user),
        Asked::Connection(id) => {
            let connection = find_connection(&api, &tenant.instance.id, id).await?;
            // It was asked again by rules at least as new as those of the request.
            tenant = api.catalog.tenant(&tenant.instance.id).unwrap_or(tenant);
            Whom::Connection(Box::new(connection))
        }
    };
    let channel = tenant.channels.get(&channel.name).cloned().ok_or_else(missing)?;
    let instance = tenant.instance.id.clone();
    api.explain_pool.run(&instance, move || whom.explain(&tenant, &channel)).await.map(Json)
}

/// An open connection of this node. Errors: 404, 503 `OVERLOADED`.
async fn find_connection(
    api: &Api,
    instance: &InstanceId,
    id: String,
) -> Outcome<ConnectionSnapshot> {
    let (answer, outcome) = api.relay.survey(instance, &Query::Find { id }).await?;
    let mut known = if let Answer::Known(known) = answer { known } else { Vec::new() };
    let missing = || Problem::new(Code::NotFound, "there is no such connection on this node");
    match (known.pop(), outcome) {
        (Some(connection), _) => Ok(connection),
        (None, Ok(())) => Err(missing()),
        (None, Err(error)) => Err(error.into()),
    }
}

/// Whom a request asks about.
enum Asked {
    User(Box<Principal>),
    Connection(String),
}

impl ExplainRequest {
    fn asked(self, names: &ClaimNames, instance: &InstanceId) -> Outcome<Asked> {
        let Self { user_id, groups, roles, claims, connection_id } = self;
        match (connection_id, user_id) {
            (Some(id), None) if groups.is_none() && roles.is_none() && claims.is_none() => {
                Ok(Asked::Connection(id))
            }
            (Some(_), _) => Err(Problem::invalid(
                "/connectionId",
                "ask for a connection or describe a user: the token is known",
            )),
            (None, None) => Err(Problem::invalid("/userId", "give a userId or a connectionId")),
            (None, Some(user)) => {
                let user = UserId::new(user)
                    .map_err(|error| Problem::invalid("/userId", error.to_string()))?;
                let roles = roles.unwrap_or_else(|| vec![Role::CONNECT.into()]);
                let roles = each("/roles", &roles, |role| {
                    Role::new(role).map_err(|error| error.to_string())
                })?;
                let groups = groups.unwrap_or_default();
                let groups = each("/groups", &groups, |group| {
                    GroupId::new(group).map_err(|error| error.to_string())
                })?;
                if groups.len() > MAX_GROUPS {
                    let problem = Problem::invalid(
                        "/groups",
                        format!("a token names at most {MAX_GROUPS} groups"),
                    );
                    return Err(problem.with_limit(MAX_GROUPS as u64, groups.len() as u64));
                }
                let claims = claims.unwrap_or_default();
                check_size(&claims)?;
                let component = component(&claims, names)?;
                let scope = Scope::Instances(Names::of(instance));
                Ok(Asked::User(Box::new(signed_in(
                    names,
                    claims,
                    Principal { groups, roles, scope, component, ..Principal::new(user, i64::MAX) },
                ))))
            }
        }
    }
}

/// Texts as values, without doubles, as they are taken from a token. Errors: 422 at the first that
/// is none, or where they are longer than any token.
fn each<T: Eq + Hash + AsRef<str>>(
    pointer: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Outcome<Names<T>> {
    let at = |index| move |error| Problem::invalid(format!("{pointer}/{index}"), error);
    let values = texts.iter().enumerate().map(|(index, text)| parse(text).map_err(at(index)));
    let values: Vec<T> = values.collect::<Outcome<IndexSet<T>>>()?.into_iter().collect();
    Names::new(&values).map_err(|error| Problem::invalid(pointer, error.to_string()))
}

/// Errors: 422 for claims that no token could carry.
fn check_size(claims: &Map<String, Value>) -> Outcome<()> {
    let bytes = serde_json::to_string(claims).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_TOKEN_BYTES {
        let problem =
            Problem::invalid("/claims", format!("a token carries at most {MAX_TOKEN_BYTES} bytes"));
        return Err(problem.with_limit(MAX_TOKEN_BYTES as u64, bytes as u64));
    }
    Ok(())
}

/// The component's name among the claims.
fn component(claims: &Map<String, Value>, names: &ClaimNames) -> Outcome<Option<Box<str>>> {
    match claims.get(&names.component) {
        None => Ok(None),
        Some(Value::String(component)) if component.is_empty() => Ok(None),
        Some(Value::String(component)) => Ok(Some(component.as_str().into())),
        Some(_) => {
            let name = names.component.replace('~', "~0").replace('/', "~1");
            Err(Problem::invalid(format!("/claims/{name}"), "the component claim is a text"))
        }
    }
}

/// The bearer of a token that carries these claims and was issued now, unless they say otherwise.
fn signed_in(names: &ClaimNames, mut claims: Map<String, Value>, bearer: Principal) -> Principal {
    let groups: Value = bearer.groups.iter().collect();
    let roles: Value = bearer.roles.iter().collect();
    let user = Value::from(bearer.user.as_str());
    for (name, value) in [(&names.user, user), (&names.groups, groups), (&names.roles, roles)] {
        claims.entry(name).or_insert(value);
    }
    let token_id = claims.get("jti").and_then(Value::as_str).map(Into::into);
    let issued_at =
        claims.get("iat").and_then(Value::as_i64).or_else(|| Some(Utc::now().timestamp()));
    Principal { claims: Claims::from(&claims), token_id, issued_at, ..bearer }
}

/// Of whom the rules are asked.
enum Whom {
    User(Box<Principal>),
    Connection(Box<ConnectionSnapshot>),
}

impl Whom {
    fn explain(&self, tenant: &Tenant, channel: &Channel) -> ExplanationBody {
        ExplanationBody { hear: self.hear(tenant, channel), publish: self.publish(tenant, channel) }
    }

    fn principal(&self) -> &Principal {
        match self {
            Self::User(principal) => principal,
            Self::Connection(connection) => &connection.principal,
        }
    }

    fn hear(&self, tenant: &Tenant, channel: &Channel) -> DecisionBody {
        let (facts, narrowing) = match self {
            Self::User(principal) => (Facts::new(principal, None), None),
            Self::Connection(connection) => (connection.facts(), connection.narrowing.as_ref()),
        };
        let decision = DecisionBody::new(&channel.rules, &facts);
        if let Some(reason) = self.shut_out(tenant, channel) {
            return decision.refused(&reason);
        }
        let audience = Audience::Channel(channel.name.clone());
        match narrowing {
            Some(narrowing)
                if decision.allowed && !narrowing.includes(&audience, &tenant.channels) =>
            {
                decision.refused(&wording::narrowed(&audience))
            }
            _ => decision,
        }
    }

    fn publish(&self, tenant: &Tenant, channel: &Channel) -> DecisionBody {
        let principal = self.principal();
        // Publishing has no connection.
        let decision = DecisionBody::new(&channel.publish_rules, &Facts::new(principal, None));
        match self.shut_out(tenant, channel) {
            Some(reason) => decision.refused(&reason),
            None if !principal.may_publish(&tenant.instance.publish_roles) => {
                decision.refused(NO_PUBLISHER)
            }
            None => decision,
        }
    }

    /// What keeps anyone like this out, whatever the rules say.
    fn shut_out(&self, tenant: &Tenant, channel: &Channel) -> Option<Cow<'static, str>> {
        let principal = self.principal();
        if let Some(misfit) = tenant.misfits.get(&channel.name) {
            return Some(misfit.to_string().into());
        }
        if !channel.enabled {
            return Some(wording::CHANNEL_DISABLED.into());
        }
        if !principal.has_role(Role::CONNECT) {
            return Some("the token lacks the role REALTIME_CONNECT".into());
        }
        tenant.revokes(principal).then_some("an administrator revoked the token".into())
    }
}

impl DecisionBody {
    fn new(rules: &Rules, facts: &Facts<'_>) -> Self {
        let (decision, results) = rules.explain(facts);
        let rules = results
            .into_iter()
            .enumerate()
            .map(|(index, result)| RuleResultBody::new(index, result))
            .collect();
        Self { allowed: decision.allowed, rule: decision.rule, rules, reason: None }
    }

    /// The same where something else decided.
    fn refused(self, reason: &str) -> Self {
        Self { allowed: false, rule: None, reason: Some(reason.into()), ..self }
    }
}

impl RuleResultBody {
    fn new(index: usize, result: RuleResult) -> Self {
        let RuleResult { rule, outcome, reason } = result;
        let result = match outcome {
            expression::Outcome::True => ResultBody::Answer(true),
            expression::Outcome::False => ResultBody::Answer(false),
            expression::Outcome::Error => ResultBody::NoAnswer(NoAnswer::Error),
        };
        Self { index, effect: rule.effect.into(), result, reason }
    }
}

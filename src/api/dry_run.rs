//! What a dry run tells: who would get the message, and why a user is among them or not.

use super::Api;
use super::error::{Code, Outcome, Problem};
use super::resource::{Page, PageParameters};
use super::wording;
use crate::domain::instance::InstanceId;
use crate::domain::message::{Message, Reach};
use crate::domain::principal::{Principal, UserId};
use crate::domain::verdict::{Candidate, Denial, Verdict, verdict};
use crate::relay::rehearsal::{Considered, DryRunResult, Findings, Inquiry};
use crate::relay::roster::Present;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// How to publish.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PublishParameters {
    /// Do everything but the sending: checks, counts, and the rate limit; and tell which users the
    /// message is for. Needs a component's token or `REALTIME_ADMIN`. The other parameters need it.
    #[serde(default)]
    dry_run: bool,
    /// Most users to answer with, 1 to 200; 50 where left out.
    #[param(minimum = 1, maximum = 200)]
    #[serde(default)]
    limit: Option<u32>,
    /// Where to go on in the list of users: its `next` in the answer before.
    #[serde(default)]
    after: Option<String>,
    /// `user:ID`: tell why this user would get the message or not.
    #[serde(default)]
    explain: Option<String>,
}

/// How to publish a batch.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BatchParameters {
    /// Do everything but the sending: checks, counts, and the rate limit. Needs a component's token
    /// or `REALTIME_ADMIN`.
    #[serde(default)]
    dry_run: bool,
}

/// A user whom the message is for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchedUser {
    /// Who.
    user_id: String,
    /// How many of the user's connections it is for, those without room for it included.
    connections: u64,
}

/// Why a user would get the message or not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsideredUser {
    /// Who.
    user_id: String,
    /// Whether the message would be on its way to at least one of the user's connections.
    receives: bool,
    /// Why, in one sentence.
    reason: String,
    /// The user's connections on this node by id, the oldest first, 20 at most.
    connections: Vec<ConsideredConnection>,
}

/// Why a connection would get the message or not.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsideredConnection {
    /// Which.
    connection_id: String,
    /// Whether the message would be on its way to it.
    receives: bool,
    /// Why, in one sentence.
    reason: String,
}

/// What a dry run tells beyond its counts.
pub struct Told {
    /// Whom the message is for.
    pub users: Page<MatchedUser>,
    /// About the user who was asked about.
    pub explain: Option<ConsideredUser>,
}

impl PublishParameters {
    /// What a dry run asks; none where the message is to be sent. Errors: 403 `ROLE_REQUIRED`, 422.
    pub fn inquiry(self, principal: &Principal) -> Outcome<Option<Inquiry>> {
        let Self { dry_run, limit, after, explain } = self;
        if !dry_run {
            let given = [
                ("limit", limit.is_some()),
                ("after", after.is_some()),
                ("explain", explain.is_some()),
            ];
            return match given.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => Err(Problem::invalid(*name, "only together with dryRun=true")),
                None => Ok(None),
            };
        }
        may_rehearse(principal)?;
        let page = PageParameters::new(limit, after);
        // One more than is shown tells whether there is a next page.
        let most = page.limit()? as usize + 1;
        let about = explain.map(|about| user(&about)).transpose()?;
        Ok(Some(Inquiry { after: page.after()?, most, about }))
    }
}

impl BatchParameters {
    /// Whether nothing is to be sent. Errors: 403 `ROLE_REQUIRED`.
    pub fn is_dry_run(&self, principal: &Principal) -> Outcome<bool> {
        if self.dry_run {
            may_rehearse(principal)?;
        }
        Ok(self.dry_run)
    }
}

fn may_rehearse(principal: &Principal) -> Outcome<()> {
    match principal.may_see_others() {
        true => Ok(()),
        false => Err(Problem::new(
            Code::RoleRequired,
            "dryRun needs a component token or REALTIME_ADMIN",
        )),
    }
}

fn user(text: &str) -> Outcome<UserId> {
    let id = text
        .strip_prefix("user:")
        .ok_or_else(|| Problem::invalid("explain", "write user: and the user's id"))?;
    UserId::new(id).map_err(|error| Problem::invalid("explain", error.to_string()))
}

/// Asks whom `message` would be for. Errors: 503 `OVERLOADED` where a worker does not answer in
/// time.
pub async fn tell(
    api: &Api,
    instance: &InstanceId,
    message: &Message,
    inquiry: &Inquiry,
) -> Outcome<Told> {
    let mut findings = api.relay.inquire(instance, message, inquiry).await?;
    let users = std::mem::take(&mut findings.users);
    let show =
        |(user, connections): (UserId, u64)| MatchedUser { user_id: user.to_string(), connections };
    let users = Page::new(users, inquiry.most as u32 - 1, |(user, _)| user.to_string(), show);
    let Some(about) = inquiry.about.clone() else { return Ok(Told { users, explain: None }) };
    let terms = Terms(message.reach.clone());
    let explain = api.deliberation.run(move || terms.explain(&about, findings)).await?;
    Ok(Told { users, explain: Some(explain) })
}

/// What of a message decides who gets it.
struct Terms(Arc<Reach>);

impl Terms {
    fn explain(&self, user: &UserId, findings: Findings) -> ConsideredUser {
        let Findings { considered, connections: count, receiving, .. } = findings;
        let connections: Vec<_> =
            considered.iter().map(|considered| self.explain_one(considered)).collect();
        let first = connections.iter().find(|connection| connection.receives == (receiving > 0));
        let reason = match (first, receiving) {
            _ if self.0.exclude.users.contains(user) => wording::verdict(&Verdict::UserExcluded),
            (None, 0) => "not connected".into(),
            (Some(only), _) if count == 1 => only.reason.clone(),
            (Some(one), 0) if connections.iter().all(|other| other.reason == one.reason) => {
                one.reason.clone()
            }
            (_, 0) => format!("none of the user's {count} connections would get it"),
            _ => format!("{receiving} of the user's {count} connections would get it"),
        };
        ConsideredUser { user_id: user.to_string(), receives: receiving > 0, reason, connections }
    }

    fn explain_one(&self, considered: &Considered) -> ConsideredConnection {
        let Considered { who, result } = considered;
        let reason = match result {
            DryRunResult::Ending => "is ending".into(),
            DryRunResult::NoRoom => {
                "it is for the connection, which has no room and would be closed with 4420".into()
            }
            DryRunResult::Receives | DryRunResult::NotMeant => self.why(who),
        };
        ConsideredConnection {
            connection_id: who.id.clone(),
            receives: *result == DryRunResult::Receives,
            reason,
        }
    }

    fn why(&self, who: &Present) -> String {
        let candidate = Candidate {
            facts: &who.facts(),
            connection: Some(&who.id),
            narrowing: who.narrowing.as_ref(),
            channels: &who.judged_by.channels,
        };
        match verdict(&self.0, &candidate) {
            // The message was resolved just now, so the channel exists and is only too new here.
            Verdict::Denied(_, Denial::Gone) => "has not been asked about the channel yet".into(),
            verdict => wording::verdict(&verdict),
        }
    }
}

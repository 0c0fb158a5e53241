//! What a dry run tells: who would get the message, and why a user is among them or not.

use super::Api;
use super::error::{Code, Outcome, Problem};
use super::receipt::{
    Completeness, ConsideredConnection, ConsideredUser, MatchedUser, Receipt, Told,
};
use super::resource::{Page, PageParameters};
use super::wording;
use crate::domain::channel::Channels;
use crate::domain::instance::InstanceId;
use crate::domain::message::{Message, Reach};
use crate::domain::principal::{Principal, UserId};
use crate::domain::verdict::{Verdict, verdict};
use crate::relay::{
    Answer, ConnectionSnapshot, Considered, DryRun, DryRunReport, DryRunResult, Query,
};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

/// How to publish.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PublishParameters {
    /// Do everything but the sending: checks, counts, and the rate limit; and tell which users the
    /// message is for. Counted is who is connected at this moment, by the newest rules, ahead of
    /// messages that still wait to be delivered. Needs a component's token or `REALTIME_ADMIN`. The
    /// other parameters need it.
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
    /// Do everything but the sending: checks, counts, and the rate limit. Counted is who is
    /// connected at this moment, ahead of messages that still wait to be delivered. Needs a
    /// component's token or `REALTIME_ADMIN`.
    #[serde(default)]
    dry_run: bool,
}

/// What is asked of a message that is not sent, beyond its counts.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// Only users behind this one, in byte order.
    after: Option<UserId>,
    /// Most users to answer with, at least 1.
    most: usize,
    /// Whose connections to tell one by one.
    about: Option<UserId>,
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
        may_dry_run(principal)?;
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
            may_dry_run(principal)?;
        }
        Ok(self.dry_run)
    }
}

fn may_dry_run(principal: &Principal) -> Outcome<()> {
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

/// Counts whom `message` would be for, and tells what else was asked. Errors: 503 `OVERLOADED` where
/// too many such questions wait.
pub async fn run(
    api: &Api,
    instance: &InstanceId,
    message: &Message,
    inquiry: Option<&Inquiry>,
) -> Outcome<Receipt> {
    let asked = match inquiry.cloned() {
        None => DryRun::of(message),
        Some(Inquiry { after, most, about }) => {
            DryRun { after, most, about, ..DryRun::of(message) }
        }
    };
    let (answer, outcome) = api.relay.survey(instance, &Query::DryRun(asked)).await?;
    let report = if let Answer::DryRun(report) = answer { report } else { DryRunReport::default() };
    let completeness = match outcome {
        Ok(()) => Completeness::Whole,
        Err(_) => Completeness::Partial,
    };
    let cursor = api.relay.cursor(instance);
    let receipt = Receipt::of_dry_run(message, cursor, report.counts, completeness);
    match inquiry {
        None => Ok(receipt),
        Some(inquiry) => Ok(receipt.telling(tell(api, instance, message, inquiry, report).await?)),
    }
}

async fn tell(
    api: &Api,
    instance: &InstanceId,
    message: &Message,
    inquiry: &Inquiry,
    mut report: DryRunReport,
) -> Outcome<Told> {
    let users: Vec<(UserId, u64)> = std::mem::take(&mut report.users).into_iter().collect();
    let show =
        |(user, connections): (UserId, u64)| MatchedUser { user_id: user.to_string(), connections };
    let users = Page::new(users, inquiry.most as u32 - 1, |(user, _)| user.to_string(), show);
    let Some(about) = inquiry.about.clone() else { return Ok(Told { users, explain: None }) };
    let channels = api.catalog.tenant(instance).map(|tenant| tenant.channels.clone());
    let terms = Terms { reach: message.reach.clone(), channels: channels.unwrap_or_default() };
    let explain = api.explain_pool.run(instance, move || terms.explain(&about, report)).await?;
    Ok(Told { users, explain: Some(explain) })
}

/// What decides who gets a message.
struct Terms {
    reach: Arc<Reach>,
    channels: Channels,
}

impl Terms {
    fn explain(&self, user: &UserId, report: DryRunReport) -> ConsideredUser {
        let DryRunReport { considered, connections: count, receiving, .. } = report;
        let connections: Vec<_> =
            considered.iter().map(|considered| self.explain_one(considered)).collect();
        let first = connections.iter().find(|connection| connection.receives == (receiving > 0));
        let reason = match (first, receiving) {
            _ if self.reach.exclude.users.contains(user) => {
                wording::verdict(&Verdict::UserExcluded)
            }
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
        let Considered { connection, result } = considered;
        let reason = match result {
            DryRunResult::Ending => "is ending".into(),
            DryRunResult::NoRoom => {
                "it is for the connection, which has no room and would be closed with 4420".into()
            }
            DryRunResult::Receives | DryRunResult::NotMeant => self.why(connection),
        };
        ConsideredConnection {
            connection_id: connection.id.clone(),
            receives: *result == DryRunResult::Receives,
            reason,
        }
    }

    fn why(&self, connection: &ConnectionSnapshot) -> String {
        let facts = connection.facts();
        let candidate = connection.candidate(&facts, &self.channels);
        wording::verdict(&verdict(&self.reach, &candidate))
    }
}

//! Why someone hears a message or not, told in one sentence a fact: by dry runs, traces and
//! explanations alike.

use crate::domain::audience::Audience;
use crate::domain::expression::{Explanation, Outcome};
use crate::domain::verdict::{Denial, RuleReason, Verdict};

/// What keeps everyone from a channel.
pub const CHANNEL_DISABLED: &str = "the channel is disabled";

/// One word to decide by.
pub fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Hears { .. } => "hears",
        Verdict::UserExcluded | Verdict::ConnectionExcluded => "excluded",
        Verdict::Narrowed(_) => "narrowed",
        Verdict::NotAddressed(_) => "notAddressed",
        Verdict::Denied(..) => "denied",
        Verdict::Filtered(_) => "filtered",
    }
}

/// What decided.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Hears { audience, filter: None } => format!("hears {audience}"),
        Verdict::Hears { audience, filter: Some(filter) } => {
            format!("hears {audience}; {}", filtered(filter))
        }
        Verdict::UserExcluded => "exclude.users names the user".into(),
        Verdict::ConnectionExcluded => "exclude.connections names the connection".into(),
        Verdict::Narrowed(audience) => narrowed(audience),
        Verdict::NotAddressed(reasons) => reasons.join("; "),
        Verdict::Denied(_, denial) => denied(denial),
        Verdict::Filtered(filter) => filtered(filter),
    }
}

/// That the client wants to hear others.
pub fn narrowed(audience: &Audience) -> String {
    format!("left {audience} out with channels=")
}

fn denied(denial: &Denial) -> String {
    match denial {
        Denial::Rule(RuleReason { index, reason }) => format!("rule {index} denied: {reason}"),
        Denial::NoRule(allows) => {
            let told = allows.iter().map(|rule| format!("; rule {}: {}", rule.index, rule.reason));
            format!("no rule allowed{}", told.collect::<String>())
        }
        Denial::Disabled => CHANNEL_DISABLED.into(),
        Denial::Gone => "the channel was deleted".into(),
    }
}

fn filtered(filter: &Explanation) -> String {
    let answer = match filter.outcome {
        Outcome::True => "is true",
        Outcome::False => "is false",
        Outcome::Error => "has no answer",
    };
    format!("the filter {answer}: {}", filter.reason)
}

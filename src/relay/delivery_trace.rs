//! What became of one message for one connection, told from what is remembered of both.

use super::head::Head;
use super::outbox::When;
use super::snapshot::{ConnectionSnapshot, Stage};
use crate::catalog::Tenant;
use crate::domain::verdict::{Candidate, Verdict, verdict};

/// What became of a message for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryTrace {
    /// Handed to the socket.
    Written(When),
    /// Handed to the socket of one who resumed.
    Replayed(When),
    /// In the outbox.
    Waiting,
    /// A newer message took its place.
    Replaced,
    /// Handed to the socket, or replaced: which of both is no longer remembered.
    WrittenOrReplaced,
    /// There was no room: 4420.
    Dropped,
    /// It was queued, and the connection ended before it was written.
    Lost,
    /// The connection began later.
    NotYetConnected,
    /// The connection began later, with a cursor that lies behind the message.
    Resumed,
    /// The connection resumed, but the message was not kept for that, or its `ttl` was over.
    NotReplayed,
    /// The connection had ended.
    NoLongerConnected,
    /// The connection was being closed.
    Ending,
    /// It is not for the connection: any verdict but `Hears`.
    NotFor(Verdict),
    /// It is not queued: its worker has not come to it, or it was not for it then.
    NotQueued,
}

/// How a message comes to a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Live,
    /// To one who resumes.
    Again,
}

/// What became of a message for a connection. Rights are those of now, which is told by
/// [`rights_changed`].
pub fn delivery_trace(
    connection: &ConnectionSnapshot,
    head: &Head,
    tenant: &Tenant,
) -> DeliveryTrace {
    let (position, record) = (head.cursor.position, &connection.record);
    match connection.stage {
        Stage::Open { holds: true } => return DeliveryTrace::Waiting,
        Stage::Gone { position: last, .. } if position > last => {
            return DeliveryTrace::NoLongerConnected;
        }
        _ if record.was_replaced(position) => return DeliveryTrace::Replaced,
        _ if record.refused() == Some(position) => return DeliveryTrace::Dropped,
        _ => {}
    }
    if position > connection.begun.position {
        return match verdict_of(connection, head, tenant, Sent::Live) {
            Verdict::Hears { .. } => sent_live(connection, head),
            verdict => DeliveryTrace::NotFor(verdict),
        };
    }
    match connection.begun.since {
        None => DeliveryTrace::NotYetConnected,
        Some(since) if since >= position => DeliveryTrace::Resumed,
        Some(_) if head.expires.is_none_or(|expires| expires <= connection.begun.at) => {
            DeliveryTrace::NotReplayed
        }
        Some(_) => match verdict_of(connection, head, tenant, Sent::Again) {
            Verdict::Hears { .. } => {
                let written = record.written(position);
                written.map_or_else(|| unwritten(connection), DeliveryTrace::Replayed)
            }
            verdict => DeliveryTrace::NotFor(verdict),
        },
    }
}

/// Whether a connection's rights have changed since the message: what is told of them may have been
/// otherwise then.
pub fn rights_changed(connection: &ConnectionSnapshot, head: &Head) -> bool {
    connection.rights_since_ms >= head.time.timestamp_millis()
}

/// What became of a message that is for the connection.
fn sent_live(connection: &ConnectionSnapshot, head: &Head) -> DeliveryTrace {
    let (position, record) = (head.cursor.position, &connection.record);
    if is_behind_the_end(connection, head) {
        return DeliveryTrace::Ending;
    }
    if record.may_be_replaced(position) && head.progress.was_replaced() {
        return DeliveryTrace::WrittenOrReplaced;
    }
    record.written(position).map_or_else(|| unwritten(connection), DeliveryTrace::Written)
}

fn unwritten(connection: &ConnectionSnapshot) -> DeliveryTrace {
    match connection.stage {
        Stage::Open { .. } if connection.closed().is_none() => DeliveryTrace::NotQueued,
        _ => DeliveryTrace::Lost,
    }
}

/// Whether the connection was closing when the message came.
fn is_behind_the_end(connection: &ConnectionSnapshot, head: &Head) -> bool {
    if let Some(refused) = connection.record.refused() {
        return head.cursor.position > refused;
    }
    let queued_at = head.progress.queued_at_ms();
    connection.closed().is_some_and(|closed| queued_at.is_some_and(|at| at > closed.at_ms))
}

/// Whether a message is for a connection, and why.
fn verdict_of(
    connection: &ConnectionSnapshot,
    head: &Head,
    tenant: &Tenant,
    sent: Sent,
) -> Verdict {
    let facts = connection.facts();
    let live = connection.candidate(&facts, &tenant.channels);
    let candidate = match sent {
        Sent::Live => live,
        // Connections are excluded when a message is sent first.
        Sent::Again => Candidate { connection: None, ..live },
    };
    verdict(&head.reach, &candidate)
}

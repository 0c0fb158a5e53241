//! The relay by itself, without HTTP: publish, receive, cut, resume. `cargo run --example relay`
//! prints what a listener hears.

use herald::catalog::{Catalog, Snapshot, Tenant};
use herald::domain::audience::Address;
use herald::domain::channel::Slow;
use herald::domain::cursor::Cursor;
use herald::domain::instance::{Instance, InstanceId};
use herald::domain::message::{Author, Exclusion, Message, Payload, Reach};
use herald::domain::principal::{Principal, UserId};
use herald::relay::outbox::Next;
use herald::relay::{Joining, Origin, Published, Registration, Relay, RelaySettings, Transport};
use std::error::Error;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Prints the story.
pub fn main() -> Outcome<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let heard = LocalSet::new().block_on(&runtime, story())?;
    heard.iter().for_each(|frame| println!("{frame}"));
    Ok(())
}

/// What alice hears, frame by frame.
pub async fn story() -> Outcome<Vec<String>> {
    // An instance, a relay that knows it, and this thread as the relay's one worker.
    let demo = InstanceId::new("demo")?;
    let tenant = Arc::new(Tenant::new(Instance::new(demo.clone())));
    let snapshot = Snapshot { tenants: [(demo.clone(), tenant.clone())].into_iter().collect() };
    let relay = Relay::new(Catalog::new(snapshot), RelaySettings::default());
    let worker = relay.add_worker();

    // Alice connects, and is sent what is published.
    let alice = relay.connect(&worker, joining(&tenant, None)?).await?;
    let first = publish(&relay, &tenant, "first", r#"{"hello":"world!"}"#).await?;
    assert_eq!((first.counts.matched, first.counts.queued), (1, 1));
    let mut heard = vec![next(&alice).await, next(&alice).await];

    // She is cut, and something is published meanwhile: for nobody, as the counts say.
    drop(alice);
    let second = publish(&relay, &tenant, "second", r#"{"missed":true}"#).await?;
    assert_eq!(second.counts.matched, 0);

    // She comes back with the cursor of the last message that she has, and is sent the rest.
    let alice = relay.connect(&worker, joining(&tenant, Some(first.head.cursor))?).await?;
    publish(&relay, &tenant, "third", r#"{"live":"again"}"#).await?;
    for _ in 0..3 {
        heard.push(next(&alice).await);
    }
    Ok(heard)
}

/// A message for everyone of the instance.
async fn publish(relay: &Relay, tenant: &Tenant, id: &str, json: &str) -> Outcome<Published> {
    let (audiences, _channel) = tenant.resolve(&Address::parse("ALL")?)?;
    let author = Author { user: UserId::new("shop")?, component: Some("shop".into()) };
    let message = Message {
        id: id.into(),
        author: Arc::new(author),
        address: "ALL".into(),
        reach: Arc::new(Reach { audiences, exclude: Exclusion::default(), filter: None }),
        slow: Slow::Disconnect,
        time: "2026-01-31T12:00:00Z".parse()?,
        ttl: None,
        payload: Payload::new(json, 1_024)?,
    };
    Ok(relay.publish(&tenant.instance.id, message, None).await?)
}

/// Alice, as new or with how far she has heard everything.
fn joining(tenant: &Arc<Tenant>, since: Option<Cursor>) -> Outcome<Joining> {
    let connected_at = "2026-01-31T12:00:00Z".parse()?;
    Ok(Joining {
        transport: Transport::Wss,
        principal: Arc::new(Principal::new(UserId::new("alice")?, i64::MAX)),
        tenant: tenant.clone(),
        origin: Origin { address: Ipv4Addr::LOCALHOST.into(), user_agent: "".into(), connected_at },
        narrowing: None,
        since: since.map(Some),
    })
}

/// The next frame that waits for a connection, as its socket would take it.
async fn next(connection: &Registration) -> String {
    match poll_fn(|cx| connection.link.outbox.poll_next(cx, Instant::now)).await {
        Next::Frame(frame) => String::from_utf8_lossy(frame.json()).into_owned(),
        Next::Close(close) => close.reason,
    }
}

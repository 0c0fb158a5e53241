//! One Herald at a time serves a data directory, and a database.

use crate::command_line::{ANYWHERE, Herald, data_directory, herald, refusal};
use crate::support::{postgres, tokens};
use rustix::process::Signal;

#[actix_web::test]
async fn a_data_directory_is_served_by_one_at_a_time_whatever_its_database() {
    let data = data_directory();
    let (one, other) = (postgres::database().await, postgres::database().await);
    let key = ("HERALD_JWT_SECRET", tokens::SECRET);
    let first = Herald::start(data.path(), &[("DATABASE_URL", &one), key]).await;
    for settings in [vec![("DATABASE_URL", other.as_str()), key], vec![key]] {
        let said = refusal(herald(&ANYWHERE).arg(data.path()).envs(settings), 1).await;
        assert!(said.contains("another herald is already running on the data directory"), "{said}");
    }
    assert_eq!(first.end(Signal::TERM).await, Some(0));
    let next = Herald::start(data.path(), &[("DATABASE_URL", &other), key]).await;
    assert_eq!(next.end(Signal::KILL).await, None);
    let last = Herald::start(data.path(), &[("DATABASE_URL", &one), key]).await;
    assert_eq!(last.end(Signal::TERM).await, Some(0));
}

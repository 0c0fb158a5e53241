//! What managed resources share: pages of a list, versions in `ETag` and `If-Match`, and waiting
//! until a change holds.

use super::Api;
use super::error::{Code, Outcome, Problem};
use crate::store::{Committed, StoreError, UpdateError};
use actix_web::dev::Payload;
use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::future::{Ready, ready};
use std::str::FromStr;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// Entries of a page where nothing else is asked for (contract, "Managing").
const DEFAULT_LIMIT: u32 = 50;
/// Most entries of a page.
const MAX_LIMIT: u32 = 200;
/// How long whoever made a change waits until this node knows it; it is committed either way.
const SETTLE: Duration = Duration::from_secs(1);

/// Which part of a list to answer with.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParameters {
    /// Most entries to answer with, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    #[serde(default)]
    limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    after: Option<String>,
}

impl PageParameters {
    /// The two parameters of an operation that has others beside them.
    pub fn new(limit: Option<u32>, after: Option<String>) -> Self {
        Self { limit, after }
    }

    /// Entries to answer with. Errors: 422 outside 1 to 200.
    pub fn limit(&self) -> Outcome<u32> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            limit => {
                let problem =
                    Problem::invalid("limit", format!("a page has 1 to {MAX_LIMIT} entries"));
                Err(problem.with_limit(MAX_LIMIT.into(), limit.into()))
            }
        }
    }

    /// What the page before ended with. Errors: 422 for a text that no page ended with.
    pub fn after<T: FromStr>(&self) -> Outcome<Option<T>> {
        let parse = |text: &String| {
            text.parse().map_err(|_| {
                Problem::invalid("after", "it is not what a page of this list gave as `next`")
            })
        };
        self.after.as_ref().map(parse).transpose()
    }
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries, in the list's order.
    items: Vec<T>,
    /// What to give as `after` for the next page; `null` on the last one.
    next: Option<String>,
}

impl<T> Page<T> {
    /// The entries and `next`.
    pub fn into_parts(self) -> (Vec<T>, Option<String>) {
        (self.items, self.next)
    }

    /// The first `limit` of `rows`, which were asked for with one more: that one tells whether
    /// there is a next page.
    pub fn new<R>(
        mut rows: Vec<R>,
        limit: u32,
        key: impl Fn(&R) -> String,
        show: impl Fn(R) -> T,
    ) -> Self {
        let has_more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = rows.last().filter(|_| has_more).map(key);
        Self { items: rows.into_iter().map(show).collect(), next }
    }
}

/// The `If-Match` header: the versions that the caller has seen (RFC 9110, section 13.1.1).
pub struct IfMatch(Vec<String>);

impl IfMatch {
    /// Checks that the caller saw `current`; the version to change. Errors: 412 `VERSION_STALE`.
    pub fn check(&self, current: i64) -> Outcome<i64> {
        match self.0.iter().any(|tag| tag == "*" || *tag == entity_tag(current)) {
            true => Ok(current),
            false => Err(stale(current)),
        }
    }
}

impl FromRequest for IfMatch {
    type Error = Problem;
    type Future = Ready<Outcome<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let values = request.headers().get_all(IF_MATCH).filter_map(|value| value.to_str().ok());
        let tags =
            values.flat_map(|value| value.split(',')).map(str::trim).filter(|tag| !tag.is_empty());
        let tags: Vec<String> = tags.map(str::to_owned).collect();
        ready(match tags.is_empty() {
            true => {
                Err(Problem::new(Code::IfMatchRequired, "send the ETag that you read in If-Match"))
            }
            false => Ok(Self(tags)),
        })
    }
}

/// Why a resource was not changed: 404 in the words of `missing`, or 412.
pub fn not_changed(error: UpdateError, missing: impl FnOnce() -> Problem) -> Problem {
    match error {
        UpdateError::Missing => missing(),
        UpdateError::Stale { current } => stale(current),
        UpdateError::TooCostly(excess) => Problem::too_costly(excess),
        UpdateError::Store(error) => error.into(),
    }
}

/// 412 `VERSION_STALE`.
fn stale(current: i64) -> Problem {
    Problem::new(Code::VersionStale, format!("the version is {current} by now"))
}

/// 201 with where the new resource is and its version.
pub fn created(location: &str, version: i64, body: impl Serialize) -> HttpResponse {
    HttpResponse::Created()
        .insert_header((LOCATION, location))
        .insert_header((ETAG, entity_tag(version)))
        .json(body)
}

/// 200 with the resource's version.
pub fn versioned(version: i64, body: impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((ETAG, entity_tag(version))).json(body)
}

/// Waits, a second at most, until this node's catalog has the change, so that its maker sees it in
/// force.
pub async fn settle<T>(api: &Api, committed: Committed<T>) -> T {
    api.catalog.wait_for(committed.catalog_version, SETTLE).await;
    committed.value
}

/// Takes a text of at most `most` bytes that Postgres can keep. Errors: 422 at `pointer`.
pub fn text(pointer: &str, text: String, most: usize) -> Outcome<String> {
    if text.len() > most {
        let problem = Problem::invalid(pointer, format!("at most {most} bytes"));
        return Err(problem.with_limit(most as u64, text.len() as u64));
    }
    match text.contains('\0') {
        true => Err(Problem::invalid(pointer, "the character U+0000 cannot be kept")),
        false => Ok(text),
    }
}

/// Reads a time in RFC 3339. Errors: 422 at `pointer`.
pub fn time(pointer: &str, text: &str) -> Outcome<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        Problem::invalid(
            pointer,
            "it is a time such as 2026-01-31T12:00:00Z (RFC 3339), with its offset from UTC",
        )
    })?;
    Ok(time.to_utc())
}

fn entity_tag(version: i64) -> String {
    format!("\"{version}\"")
}

impl From<StoreError> for Problem {
    /// Logs the whole chain here, where it is handled; the client is told no cause.
    fn from(error: StoreError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, error.cause = cause, "the store is away");
                Self::new(
                    Code::StoreUnavailable,
                    "the database cannot be reached; connecting and publishing go on",
                )
                .with_retry_after(SETTLE)
            }
            _ => {
                tracing::error!(%error, error.cause = cause, "the store failed");
                Self::new(Code::Internal, "the change or the question could not be answered")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_whether_there_is_another() {
        let page = |rows: Vec<u32>| Page::new(rows, 2, ToString::to_string, |row| row);
        for (rows, items, next) in
            [(vec![], 0, None), (vec![1, 2], 2, None), (vec![1, 2, 3], 2, Some("2"))]
        {
            let page = page(rows);
            assert_eq!((page.items.len(), page.next.as_deref()), (items, next));
        }
    }

    #[test]
    fn a_page_has_1_to_200_entries() {
        let limit = |limit| PageParameters { limit, after: None }.limit();
        assert_eq!((limit(None), limit(Some(1)), limit(Some(200))), (Ok(50), Ok(1), Ok(200)));
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err());
    }

    #[test]
    fn if_match_is_a_list_of_strong_tags_or_a_star() {
        let check = |tags: &[&str]| {
            IfMatch(tags.iter().map(|tag| (*tag).into()).collect()).check(3).is_ok()
        };
        assert!(check(&["\"3\""]) && check(&["\"1\"", "\"3\""]) && check(&["*"]));
        assert!(!check(&["\"2\""]) && !check(&["3"]) && !check(&["W/\"3\""]));
    }
}

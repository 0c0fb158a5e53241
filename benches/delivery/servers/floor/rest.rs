//! The floor of publishing by itself: an actix handler that reads the same JSON over the same TLS
//! and answers as much.

use actix_web::{App, HttpResponse, HttpServer, web};
use rustls::ServerConfig;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::FloorOptions;
use crate::Outcome;

/// As long as an answer of Herald's.
const ANSWER: &str = r#"{"id":"0193573c-9f4a-7000-8000-000000000000","cursor":"0000000000.0000000000","audience":["user:nobody"],"matched":0,"queued":0,"dropped":0,"duplicate":false}"#;
/// The most that Herald reads of a batch.
const LONGEST_BODY: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Entry {
    channel: String,
    message: Box<RawValue>,
}

#[derive(Deserialize)]
struct Batch {
    messages: Vec<Entry>,
}

/// Serves until its process ends.
pub fn serve(options: &FloorOptions, tls: Option<ServerConfig>, workers: usize) -> Outcome<()> {
    let server = HttpServer::new(|| {
        App::new()
            .app_data(web::JsonConfig::default().limit(LONGEST_BODY))
            .route("/v1/messages", web::post().to(take_message))
            .route("/v1/messages/batch", web::post().to(take_batch))
    });
    let server = server.workers(workers);
    let server = match tls {
        Some(tls) => server.bind_rustls_0_23(options.address, tls)?,
        None => server.bind(options.address)?,
    };
    Ok(actix_web::rt::System::new().block_on(server.run())?)
}

async fn take_message(entry: web::Json<Entry>) -> HttpResponse {
    if !is_entry(&entry) {
        return HttpResponse::UnprocessableEntity().finish();
    }
    HttpResponse::Accepted().content_type("application/json").body(ANSWER)
}

async fn take_batch(batch: web::Json<Batch>) -> HttpResponse {
    if !batch.messages.iter().all(is_entry) {
        return HttpResponse::UnprocessableEntity().finish();
    }
    let answers = vec![ANSWER; batch.messages.len()].join(",");
    HttpResponse::Ok()
        .content_type("application/json")
        .body(format!(r#"{{"results":[{answers}]}}"#))
}

fn is_entry(entry: &Entry) -> bool {
    !entry.channel.is_empty() && !entry.message.get().is_empty()
}

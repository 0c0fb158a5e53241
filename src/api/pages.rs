//! The pages that people open in a browser: `/`, `/errors/{code}`, and `/docs` with Swagger UI.

use super::error::{Code, Outcome, Problem};
use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ContentType, LOCATION};
use actix_web::web::{Bytes, Path};
use std::borrow::Cow;
use std::sync::Arc;
use utoipa_swagger_ui::Config;

/// Scripts and styles come from this server only; sockets may go to it too.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HOME: &str = include_str!("pages/home.html");
const HOME_SCRIPT: &str = include_str!("pages/home.js");
const STYLE: &str = include_str!("pages/style.css");
const DOCS: &str = include_str!("pages/docs.html");
const DOCS_SCRIPT: &str = include_str!("pages/docs.js");

/// The routes of this file; they are pages, not operations, and stand in no document.
pub fn routes(config: &mut actix_web::web::ServiceConfig) {
    use actix_web::web::get;
    config
        .route("/pages/{file}", get().to(show_file))
        .route("/errors/{code}", get().to(explain_error))
        .route(
            "/docs",
            get().to(|| async {
                HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/")).finish()
            }),
        )
        .route("/docs/{file:.*}", get().to(show_docs));
}

/// `/` in a browser: receives and publishes, and links to the documentation.
pub fn home() -> HttpResponse {
    page(Bytes::from_static(HOME.as_bytes()))
}

async fn show_file(file: Path<String>) -> Outcome<HttpResponse> {
    let (kind, text) = match file.as_str() {
        "home.js" => ("text/javascript; charset=utf-8", HOME_SCRIPT),
        "docs.js" => ("text/javascript; charset=utf-8", DOCS_SCRIPT),
        "style.css" => ("text/css; charset=utf-8", STYLE),
        _ => return Err(Problem::new(Code::NotFound, "there is no such file")),
    };
    Ok(HttpResponse::Ok().content_type(kind).body(Bytes::from_static(text.as_bytes())))
}

/// What a code means and what to do: where a problem's `type` leads.
async fn explain_error(code: Path<String>) -> Outcome<HttpResponse> {
    let code = Code::ALL.iter().find(|known| known.as_str() == code.as_str());
    let code = code.ok_or_else(|| Problem::new(Code::NotFound, "there is no such code"))?;
    let others: String = Code::ALL
        .iter()
        .map(|other| {
            format!("<li><a href=\"/errors/{0}\">{0}</a> {1}</li>", other.as_str(), other.title())
        })
        .collect();
    let status = code.status();
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><link rel=\"icon\" href=\"data:,\"><title>{name}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"stylesheet\" href=\"/pages/style.css\"></head><body><main><p><a href=\"/\">Herald</a></p>\
         <h1>{name}</h1><p class=\"lead\">{title}.</p><p>HTTP status {status}.</p><p>{help}</p>\
         <h2>All codes</h2><ul class=\"codes\">{others}</ul></main></body></html>",
        name = code.as_str(),
        title = code.title(),
        help = code.help(),
    );
    Ok(page(text.into()))
}

/// Swagger UI from the files that are built in; its start page is ours, so that it signs in once.
async fn show_docs(file: Path<String>) -> Outcome<HttpResponse> {
    if matches!(file.as_str(), "" | "index.html") {
        return Ok(page(Bytes::from_static(DOCS.as_bytes())));
    }
    let config = Arc::new(Config::from("/openapi.json"));
    match utoipa_swagger_ui::serve(&file, config) {
        Ok(Some(found)) => {
            let mut response = HttpResponse::Ok();
            response.content_type(found.content_type);
            if found.gzpipped {
                response.insert_header((CONTENT_ENCODING, "gzip"));
            }
            Ok(response.body(match found.bytes {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => bytes.into(),
            }))
        }
        _ => Err(Problem::new(Code::NotFound, "there is no such file")),
    }
}

fn page(html: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::html())
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .body(html)
}

//! The two documents as they are served: OpenAPI for requests, AsyncAPI for frames.

use actix_web::HttpResponse;
use actix_web::web::{Bytes, Data};

/// The texts that are served, made once.
#[derive(Clone)]
pub struct Documents {
    openapi: Bytes,
    asyncapi: Bytes,
}

impl Documents {
    /// With the text of the OpenAPI document, which is made from the route table.
    pub fn new(openapi: String) -> Self {
        let asyncapi = Bytes::from_static(include_bytes!("../../openapi/asyncapi.json"));
        Self { openapi: openapi.into(), asyncapi }
    }
}

/// `GET /openapi.json`.
pub async fn show_openapi(documents: Data<Documents>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(documents.openapi.clone())
}

/// `GET /asyncapi.json`.
pub async fn show_asyncapi(documents: Data<Documents>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(documents.asyncapi.clone())
}

//! The OpenAPI document, made from the route table; needs no database, secret or network.

use super::operations;
use super::responses::{FieldProblem, ProblemDocument};
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_actix_web::AppExt;

const ABOUT: &str = "Realtime as a service: publish a JSON message through this API, and every connected client that \
    should see it gets it over `wss` in the same instant.\n\n**Sign in once** with *Authorize*: the token, and the \
    instance it is for. Publishing needs a token with the role `REALTIME_CONNECT` and a `component` claim (or one of the \
    instance's publishRoles), managing channels `REALTIME_ADMIN`, managing instances `REALTIME_OPERATOR` and the instance \
    `*`.\n\nThe socket's frames are described in [asyncapi.json](/asyncapi.json), every error code under `/errors/{code}`.";

#[derive(OpenApi)]
#[openapi(
    info(title = "Herald", description = ABOUT, license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    servers((url = "/", description = "This server")),
    tags(
        (name = "Messages", description = "Publish."),
        (name = "Receiving", description = "The WebSocket, and the event stream."),
        (name = "Connections", description = "Who is there, and sending them away."),
        (name = "Channels", description = "Named audiences with rules."),
        (name = "Quotas", description = "What an instance may use, and asking for more."),
        (name = "Revocations", description = "Tokens that are no longer accepted."),
        (name = "Instances", description = "Tenants; for operators."),
        (name = "Audit", description = "Who changed what."),
        (name = "Operation", description = "For load balancers."),
    ),
    components(schemas(ProblemDocument, FieldProblem)),
    security(("token" = [], "instance" = [])),
    modifiers(&SignIn),
)]
struct Herald;

struct SignIn;

impl Modify for SignIn {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_with(Default::default);
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("The token, without the word Bearer."))
            .build();
        components.add_security_scheme("token", SecurityScheme::Http(token));
        let instance =
            ApiKeyValue::with_description("instance", "The instance that the call is about.");
        components
            .add_security_scheme("instance", SecurityScheme::ApiKey(ApiKey::Header(instance)));
    }
}

/// The document of every operation in the route table.
pub fn document() -> Document {
    let (_, document) = actix_web::App::new()
        .into_utoipa_app()
        .openapi(Herald::openapi())
        .configure(operations)
        .split_for_parts();
    document
}

/// The document as JSON text with a line break at its end, as `openapi/openapi.json` holds it.
/// Errors: those of serialising, which would be a mistake in the document's types.
pub fn text() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&document()).map(|text| text + "\n")
}

/// Every operation as `METHOD path operationId`, sorted, as `openapi/operations.txt` holds them.
pub fn operations_list() -> String {
    let document = serde_json::json!(document());
    let mut lines = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let id = operation["operationId"].as_str().unwrap_or("?");
            lines.push(format!("{} {path} {id}\n", method.to_uppercase()));
        }
    }
    lines.sort();
    lines.concat()
}

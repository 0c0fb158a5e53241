//! The documents: OpenAPI and AsyncAPI as committed, as served, and as the service behaves; the
//! pages of the error codes.

use crate::support::{App, token};
use herald::api::error::Code;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

fn committed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi").join(name);
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn the_committed_openapi_files_are_those_of_the_code() {
    let command = "cargo run -- openapi > openapi/openapi.json && cargo run -- openapi --operations > openapi/operations.txt";
    let text = herald::api::openapi::text().expect("the document can be written");
    assert!(committed("openapi.json") == text, "openapi/openapi.json is stale: {command}");
    let list = herald::api::openapi::operations_list();
    assert!(committed("operations.txt") == list, "openapi/operations.txt is stale: {command}");
}

#[test]
fn the_readme_lists_every_setting_as_it_is() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("there is a README");
    for setting in herald::config::SETTINGS {
        let start = format!("| `{}` |", setting.name);
        let is_its_row = |row: &str| {
            row.starts_with(&start) && row.contains(setting.help) && row.contains(setting.default)
        };
        assert!(
            readme.lines().any(is_its_row),
            "{} is not in the README's table as it is",
            setting.name
        );
    }
}

#[test]
fn every_operation_has_an_id_a_summary_and_its_problems() {
    let document: Value = serde_json::from_str(&herald::api::openapi::text().unwrap()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(operation["operationId"].is_string(), "{name} has no id");
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{name} has no summary"
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(
                    parameter["description"].is_string(),
                    "{name}: {} is not described",
                    parameter["name"]
                );
            }
            // What is said of a body is said where there is one.
            for status in ["408", "413", "415"] {
                assert_eq!(
                    operation["responses"][status].is_object(),
                    operation["requestBody"].is_object(),
                    "{name} and {status}"
                );
            }
            if path.starts_with("/v1/") && operation["operationId"] != "connect" {
                for status in ["401", "403"] {
                    assert!(
                        operation["responses"][status].is_object(),
                        "{name} does not describe {status}"
                    );
                }
            }
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for (field, value) in schema["properties"].as_object().into_iter().flatten() {
            assert!(
                value["description"].is_string()
                    || value["$ref"].is_string()
                    || value["oneOf"].is_array(),
                "{name}.{field} is not described"
            );
        }
    }
}

/// What the document gives as an example for a request's body.
fn example_body(document: &Value, operation: &Value) -> Option<Value> {
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    let name = schema["$ref"].as_str()?.rsplit('/').next()?;
    let schema = &document["components"]["schemas"][name];
    Some(schema["example"].clone())
}

#[actix_web::test]
async fn every_example_runs_as_it_stands() {
    let document: Value = serde_json::from_str(&committed("openapi.json")).unwrap();
    let app = App::start().await;
    let everything = ["REALTIME_CONNECT", "REALTIME_ADMIN", "REALTIME_OPERATOR"];
    let token = token("everyone").roles(&everything).instances(&["*"]).component();
    let mut made = BTreeMap::new();
    let order = [
        "create_",
        "publish_",
        "get_",
        "replace_",
        "explain_",
        "approve_",
        "list_",
        "disconnect_connections",
        "delete_",
    ];
    let mut tried = 0;
    for verb in order {
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                if !id.starts_with(verb) {
                    continue;
                }
                let mut filled = path.clone();
                let mut request_headers = Vec::new();
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let (name, example) =
                        (parameter["name"].as_str().unwrap(), parameter["example"].as_str());
                    match parameter["in"].as_str() {
                        Some("path") => {
                            // What has no name of its own was made under the list's path.
                            let list = path.split("/{").next().unwrap();
                            let id = example
                                .unwrap_or_else(|| made.get(list).map_or("", String::as_str));
                            filled = filled.replace(&format!("{{{name}}}"), id);
                        }
                        // Replacing has given it its second version.
                        Some("header") if verb == "delete_" => {
                            request_headers.push((name, "\"2\""))
                        }
                        Some("header") => {
                            request_headers.push((name, example.expect("an example")))
                        }
                        Some("query") if example.is_some() => {
                            filled += &format!("?{name}={}", example.expect("it is some"));
                        }
                        _ => {}
                    }
                }
                let mut request =
                    app.request(&method.to_uppercase(), &filled).header("instance", "main");
                request = request.bearer_auth(token.sign());
                for (name, value) in request_headers {
                    request = request.header(name, value);
                }
                if let Some(body) = example_body(&document, operation) {
                    assert!(body.is_object(), "{id} has no example of its body");
                    request = request.json(&body);
                }
                let answer = request.send().await.unwrap();
                let (status, text) = (answer.status(), answer.text().await.unwrap());
                assert!(status.is_success(), "{id}: {status} {text}");
                if matches!(verb, "create_" | "publish_") {
                    let body: Value = serde_json::from_str(&text).unwrap();
                    made.insert(path.clone(), body["id"].as_str().unwrap_or_default().to_owned());
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 23, "only {tried} operations were tried");
}

#[actix_web::test]
async fn documents_and_pages_are_served_without_a_token() {
    let app = App::start().await;
    let openapi = app.send(app.request("GET", "/openapi.json"), 200).await;
    assert_eq!(openapi.body["info"]["title"], "Herald");
    let asyncapi = app.send(app.request("GET", "/asyncapi.json"), 200).await;
    assert!(asyncapi.body["asyncapi"].as_str().unwrap().starts_with("3."));
    for (path, kind) in [
        ("/", "text/html"),
        ("/docs/", "text/html"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/pages/home.js", "text/javascript"),
    ] {
        let page = app.send(app.request("GET", path), 200).await;
        assert!(
            page.header("content-type").starts_with(kind),
            "{path}: {}",
            page.header("content-type")
        );
        for (name, value) in [("referrer-policy", "no-referrer"), ("cache-control", "no-store")] {
            assert_eq!(page.header(name), value, "{path}");
        }
        assert!(page.header("strict-transport-security").starts_with("max-age="), "{path}");
        assert!(
            kind != "text/html"
                || page.header("content-security-policy").contains("default-src 'none'")
        );
    }
    app.send(app.request("GET", "/docs/nothing.js"), 404).await;
    app.send(app.request("GET", "/nothing"), 404).await;
}

#[actix_web::test]
async fn every_code_has_its_page_and_every_problem_leads_to_it() {
    let app = App::start().await;
    let problem = app.send(app.request("GET", "/v1/nothing"), 404).await;
    assert_eq!(problem.header("content-type"), "application/problem+json");
    assert_eq!(problem.body["type"], "/errors/NOT_FOUND");
    for code in Code::ALL {
        let request = app.request("GET", &format!("/errors/{}", code.as_str()));
        let page = request.send().await.unwrap();
        assert_eq!(page.status(), 200);
        let text = page.text().await.unwrap();
        assert!(text.contains(code.help()) && text.contains(code.title()), "{}", code.as_str());
    }
    app.send(app.request("GET", "/errors/NOTHING"), 404).await;
}

/// A frame is as `asyncapi.json` says.
pub fn assert_described(frame: &Value) {
    let document: Value =
        serde_json::from_str(&committed("asyncapi.json")).expect("asyncapi.json is JSON");
    let kind = frame["type"].as_str().expect("a type");
    let schema = &document["components"]["messages"][kind]["payload"];
    assert!(schema.is_object(), "{kind} is not described");
    let valid = jsonschema::validator_for(schema)
        .expect("a schema")
        .validate(frame)
        .map_err(|error| error.to_string());
    assert_eq!(valid, Ok(()), "{frame}");
}

#[actix_web::test]
async fn frames_have_the_shape_that_asyncapi_describes() {
    let app = App::start().await;
    let mut socket = app.connect(&token("alice")).await;
    let mut frames = vec![socket.connected.clone()];
    app.publish("ALL", json!({"a": [1]})).await;
    frames.push(socket.frame().await);
    for text in ["PING", "nonsense"] {
        socket.send(text).await;
        frames.push(socket.frame().await);
    }
    let channel = json!({"name": "news"});
    app.call(
        "POST",
        "/v1/channels",
        Some(&crate::support::Token::admin("root")),
        Some(channel),
        201,
    )
    .await;
    frames.push(socket.frame().await);
    let mut app = app;
    app.begin_stop();
    frames.push(socket.frame().await);
    let mut types: Vec<&str> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    frames.iter().for_each(assert_described);
    types.sort_unstable();
    assert_eq!(types, ["CHANNELS", "CONNECTED", "ERROR", "MESSAGE", "PONG", "RECONNECT"]);
}

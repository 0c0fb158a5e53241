//! The pages and the product page's sample, in a real browser; see `tests/clients/run.mjs`.

use crate::support::{App, Token, token};
use serde_json::Value;
use std::path::Path;
use tokio::process::Command;

/// Runs one subject in Chromium and answers with what was seen.
async fn see(app: &App, subject: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let output = Command::new("node")
        .args(["run.mjs", subject])
        .current_dir(folder)
        .env("HERALD_URL", format!("https://localhost:{}", app.port))
        .env("HERALD_INSTANCE", "main")
        .env("HERALD_CLIENT_TOKEN", token("alice").sign())
        .env(
            "HERALD_PUBLISH_TOKEN",
            Token::admin("shop").roles(&["REALTIME_CONNECT", "REALTIME_ADMIN"]).component().sign(),
        )
        .kill_on_drop(true)
        .output()
        .await
        .expect("node runs: apt-get install nodejs npm chromium && npm --prefix tests/clients ci");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{subject}: {seen}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&seen).expect("one line of JSON")
}

#[actix_web::test]
async fn the_sample_of_the_product_page_receives_a_message_and_a_pong() {
    let app = App::start().await;
    let seen = see(&app, "sample").await;
    assert_eq!(seen["published"]["body"]["queued"], 1);
}

#[actix_web::test]
async fn the_sample_with_a_bad_token_is_refused() {
    let app = App::start().await;
    let seen = see(&app, "refused").await;
    assert_eq!(seen["closes"][0]["code"], 4401);
}

#[actix_web::test]
async fn an_event_source_that_is_cut_off_goes_on_by_itself() {
    let app = App::start().await;
    let seen = see(&app, "stream").await;
    assert_eq!(seen["events"].as_array().unwrap().last().unwrap()["frame"]["data"]["number"], 3);
}

#[actix_web::test]
async fn the_ten_lines_of_the_readme_resume() {
    let app = App::start().await;
    let seen = see(&app, "resume").await;
    assert_eq!(seen["errors"], serde_json::json!([]));
}

#[actix_web::test]
async fn the_pages_work_on_their_own_files_alone() {
    let app = App::start().await;
    let seen = see(&app, "pages").await;
    assert_eq!(seen["operations"], herald::api::openapi::operations_list().lines().count());
}

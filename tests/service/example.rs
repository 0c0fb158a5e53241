//! The example runs, and tells what it promises.

#[path = "../../examples/relay.rs"]
mod relay;

use serde_json::{Value, json};

#[test]
fn the_relay_by_itself_publishes_cuts_and_resumes() {
    relay::main().expect("the example ends well");
}

#[tokio::test]
async fn who_comes_back_with_a_cursor_hears_in_order_what_was_missed() {
    let heard = tokio::task::LocalSet::new().run_until(relay::story()).await.expect("a story");
    let frames: Vec<Value> = heard.iter().map(|it| serde_json::from_str(it).unwrap()).collect();
    let told = |frame: &Value| match frame["type"].as_str() {
        Some("CONNECTED") => frame["recovered"].clone(),
        _ => frame["id"].clone(),
    };
    let told: Vec<Value> = frames.iter().map(told).collect();
    assert_eq!(json!(told), json!([null, "first", true, "second", "third"]));
    frames.iter().for_each(crate::documents::assert_described);
}

//! Managing Herald over its REST interface: instances and channels.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::clients::envelope::{EXPRESSION, Envelope, PLAIN, RULED};
use crate::servers::certificate::SERVER_NAME;
use crate::servers::herald::{HeraldServer, INSTANCE};
use crate::{Failure, Outcome};

/// How long a change may take to be in force.
const LONGEST_CHANGE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

impl HeraldServer {
    /// Addresses messages like this from now on, and makes the channels that this needs.
    pub async fn address_by(&mut self, envelope: Envelope) -> Outcome<()> {
        self.envelope = envelope;
        if !envelope.needs_channels() {
            return Ok(());
        }
        let administrator =
            self.setup.token(json!({"sub": "administrator", "roles": ["REALTIME_ADMIN"]}))?;
        let rules = json!([{"effect": "allow", "when": EXPRESSION}]);
        for channel in [json!({"name": PLAIN}), json!({"name": RULED, "rules": rules})] {
            let request = self
                .setup
                .client
                .post(self.url("/v1/channels"))
                .header(CONTENT_TYPE, "application/json");
            let request = request.header("instance", INSTANCE).body(channel.to_string());
            match send(request, &administrator).await? {
                (StatusCode::CREATED | StatusCode::CONFLICT, _) => {}
                (status, text) => {
                    return Err(format!("making a channel was answered {status}: {text}").into());
                }
            }
        }
        Ok(())
    }

    /// Makes an instance if there is none of that id, and waits until it is in force.
    pub async fn make_instance(&self, instance: &str, limits: Value) -> Outcome<()> {
        let operator =
            self.setup.token(json!({"sub": "operator", "roles": ["REALTIME_OPERATOR"]}))?;
        let body = json!({"id": instance, "name": "Benchmark", "limits": limits});
        let request = self
            .setup
            .client
            .post(self.url("/v1/instances"))
            .header(CONTENT_TYPE, "application/json");
        match send(request.body(body.to_string()), &operator).await? {
            (StatusCode::CREATED, _) => {}
            (StatusCode::CONFLICT, text) if text.contains("INSTANCE_EXISTS") => {}
            (status, text) => {
                return Err(format!("making the instance was answered {status}: {text}").into());
            }
        }
        let administrator =
            self.setup.token(json!({"sub": "administrator", "roles": ["REALTIME_ADMIN"]}))?;
        self.wait_for_instance(instance, &administrator).await
    }

    async fn wait_for_instance(&self, instance: &str, administrator: &str) -> Outcome<()> {
        let deadline = Instant::now() + LONGEST_CHANGE;
        loop {
            let request =
                self.setup.client.get(self.url("/v1/quotas")).header("instance", instance);
            match send(request, administrator).await? {
                (StatusCode::OK, _) => return Ok(()),
                (status, text) if Instant::now() > deadline => {
                    return Err(format!(
                        "after {LONGEST_CHANGE:?} the new instance is answered {status}: {text}"
                    )
                    .into());
                }
                _ => sleep(PAUSE).await,
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{SERVER_NAME}:{}{path}", self.address().port())
    }
}

async fn send(request: RequestBuilder, token: &str) -> Outcome<(StatusCode, String)> {
    let answer = request
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .send()
        .await
        .map_err(|error| chain(&error))?;
    let status = answer.status();
    Ok((status, answer.text().await.map_err(|error| Failure::from(chain(&error)))?))
}

/// An error and everything that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source())
        .map(|cause| format!(": {cause}"));
    format!("{error}{}", causes.collect::<String>())
}

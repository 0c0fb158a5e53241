//! One function decides: explanations, dry runs, sockets, event streams and resuming agree, by a
//! table of people and messages.

use crate::support::{App, Options, Socket, Stream, Token, postgres, token};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

enum Line {
    Socket(Box<Socket>),
    Stream(Box<Stream>),
}

/// An open connection.
struct Client {
    user: &'static str,
    token: Token,
    narrowing: &'static str,
    line: Line,
    connected: Value,
}

impl Client {
    async fn open(
        app: &App,
        of: (&'static str, Token, &'static str),
        transport: &str,
        cursor: Option<&str>,
    ) -> Self {
        let (user, token, narrowing) = of;
        let resuming = cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let query = format!("{narrowing}{resuming}");
        let (line, connected) = if transport == "sse" {
            let stream = Stream::open(app.stream_request(&token, &query)).await;
            let connected = stream.connected.json();
            (Line::Stream(Box::new(stream)), connected)
        } else {
            let socket = app.connect_with(&token, &query).await;
            let connected = socket.connected.clone();
            (Line::Socket(Box::new(socket)), connected)
        };
        assert_eq!(connected.get("recovered"), cursor.map(|_| &json!(true)));
        Self { user, token, narrowing, line, connected }
    }

    fn id(&self) -> &str {
        self.connected["connectionId"].as_str().expect("an id")
    }

    /// The numbers of all messages that have come by now: every one is queued before its publisher
    /// is answered.
    async fn messages(&mut self, app: &App) -> Vec<u64> {
        let mut seen = Vec::new();
        match &mut self.line {
            Line::Socket(socket) => {
                socket.send("PING").await;
                loop {
                    let frame = socket.frame().await;
                    match frame["type"].as_str() {
                        Some("PONG") => return seen,
                        Some("MESSAGE") => seen.extend(frame["data"].as_u64()),
                        _ => {}
                    }
                }
            }
            Line::Stream(stream) => {
                let last = app.publish("ALL", json!("the last")).await["id"].clone();
                loop {
                    let frame = stream.event().await.json();
                    if frame["id"] == last {
                        return seen;
                    }
                    seen.extend(frame["data"].as_u64());
                }
            }
        }
    }
}

/// Everyone who connects: user, token, narrowing, transport.
fn people() -> Vec<((&'static str, Token, &'static str), &'static str)> {
    let of = |user: &'static str, groups: &[&str]| token(user).groups(groups);
    vec![
        (("alice", of("alice", &["eng"]).with("plan", "pro"), ""), "wss"),
        (("alice", of("alice", &["eng"]).with("plan", "pro"), "&channels=pro,ALL"), "wss"),
        (("bob", of("bob", &[]).with("plan", "free"), ""), "wss"),
        (("carol", of("carol", &["ops"]), ""), "wss"),
        (
            ("dave", of("dave", &["eng", "ops"]).with("plan", 7), "&channels=news,group:eng,local"),
            "wss",
        ),
        (("erin", of("erin", &["eng"]).with("plan", "free"), ""), "sse"),
        (("erin", of("erin", &["ops"]).with("plan", "pro"), ""), "sse"),
    ]
}

const CHANNELS: [&str; 6] = ["news", "eng", "pro", "unfree", "local", "nobody"];

fn rules(channel: &str) -> Value {
    match channel {
        "news" => json!([{"effect": "allow", "everyone": true}]),
        "eng" => json!([{"effect": "allow", "group": "eng"}, {"effect": "deny", "user": "dave"}]),
        "pro" => json!([{"effect": "allow", "when": "claims.plan == 'pro'"}]),
        "unfree" => {
            json!([{"effect": "allow", "everyone": true}, {"effect": "deny", "when": "claims.plan == 'free'"}])
        }
        "local" => json!([{"effect": "allow", "when": "connection.address == '127.0.0.1'"}]),
        _ => json!([]),
    }
}

/// Every message that is published in a round.
fn drafts() -> Vec<Value> {
    let addresses = ["ALL", "user:alice", "group:eng", "ops", "erin"]
        .iter()
        .map(|address| (*address).to_owned());
    let addresses = addresses.chain(CHANNELS.iter().map(|channel| format!("channel:{channel}")));
    let limits = [
        json!({}),
        json!({"filter": "claims.plan == 'pro'"}),
        json!({"filter": "'eng' in groups && connection.address != ''", "exclude": {"users": ["bob"]}}),
    ];
    let draft = |address: &str, limit: &Value| {
        let mut draft = limit.clone();
        draft["channel"] = json!(address);
        draft
    };
    addresses
        .flat_map(|address| limits.iter().map(|limit| draft(&address, limit)).collect::<Vec<_>>())
        .collect()
}

struct World {
    app: App,
    /// What was published, by its number.
    published: Vec<Value>,
}

impl World {
    async fn start() -> Self {
        let app = App::launch(Options::default(), postgres::database().await).await;
        let most = json!({"messagesPerSecond": 1_000_000, "messageBurst": 1_000_000,
            "userMessagesPerSecond": 1_000_000, "userMessageBurst": 1_000_000});
        app.create_instance("main", most).await;
        let world = Self { app, published: Vec::new() };
        for channel in CHANNELS {
            let body = json!({"name": channel, "rules": rules(channel)});
            world.app.create_channel(body).await;
        }
        world
    }

    async fn post(&self, query: &str, body: &Value) -> Value {
        let publisher = token("publisher").component();
        let path = format!("/v1/messages{query}");
        self.app.call("POST", &path, Some(&publisher), Some(body.clone()), 202).await.body
    }

    /// The ids of the connections that would get a message, as the dry run says of every user, and
    /// its counts.
    async fn told(&self, body: &Value, clients: &[Client]) -> (BTreeSet<String>, Value) {
        let mut receiving = BTreeSet::new();
        let mut users = BTreeMap::new();
        let mut receipt = Value::Null;
        for user in clients.iter().map(|client| client.user).collect::<BTreeSet<_>>() {
            receipt = self.post(&format!("?dryRun=true&explain=user:{user}"), body).await;
            let told = &receipt["explain"];
            let connections = told["connections"].as_array().expect("connections").iter();
            let ids: Vec<String> = connections
                .filter(|connection| connection["receives"] == true)
                .map(|connection| connection["connectionId"].as_str().expect("an id").to_owned())
                .collect();
            assert_eq!(told["receives"], !ids.is_empty(), "{told}");
            if !ids.is_empty() {
                users.insert(user, ids.len());
            }
            receiving.extend(ids);
        }
        let listed = receipt["users"]["items"].as_array().expect("users").iter();
        let listed: Vec<_> = listed
            .map(|item| (item["userId"].as_str().expect("a user"), &item["connections"]))
            .collect();
        let expected: Vec<_> = users.iter().map(|(user, count)| (*user, json!(count))).collect();
        assert_eq!(
            listed,
            expected.iter().map(|(user, count)| (*user, count)).collect::<Vec<_>>(),
            "{body}"
        );
        assert_eq!(receipt["matched"], receiving.len(), "{body} {receipt}");
        (receiving, receipt)
    }

    /// Publishes everything; what comes to whom is what was said, of channels also by their
    /// explanation.
    async fn round(&mut self, clients: &mut [Client]) {
        let hears = self.explained(clients).await;
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for mut body in drafts() {
            let number = self.published.len() as u64;
            body["message"] = json!(number);
            let (receiving, rehearsed) = self.told(&body, clients).await;
            let sent = self.post("", &body).await;
            for count in ["matched", "queued", "dropped", "audience"] {
                assert_eq!(sent[count], rehearsed[count], "{count} of {body}");
            }
            let channel = body["channel"].as_str().expect("a channel");
            if let Some(channel) =
                channel.strip_prefix("channel:").filter(|_| body.get("filter").is_none())
            {
                let heard =
                    hears.iter().filter(|(_, named)| named == channel).map(|(id, _)| id.clone());
                assert_eq!(receiving, heard.collect(), "{body}");
            }
            receiving.into_iter().for_each(|id| expected.entry(id).or_default().push(number));
            self.published.push(body);
        }
        for client in clients {
            let wanted = expected.remove(client.id()).unwrap_or_default();
            assert_eq!(
                client.messages(&self.app).await,
                wanted,
                "{} {}",
                client.user,
                client.narrowing
            );
        }
    }

    /// Which connections hear which channels, as their explanations say; the same as the list of
    /// connections says, and, but for what a user without a connection cannot know or leave out, as
    /// is said of the user.
    async fn explained(&self, clients: &[Client]) -> BTreeSet<(String, String)> {
        let admin = Token::admin("root");
        let mut hears = BTreeSet::new();
        for client in clients {
            for channel in CHANNELS {
                let path = format!("/v1/channels/{channel}/explain");
                let body = json!({"connectionId": client.id()});
                let answer = self.app.call("POST", &path, Some(&admin), Some(body), 200).await.body;
                let claims = client.token.claims();
                let user =
                    json!({"userId": client.user, "groups": claims["groups"], "claims": claims});
                let user = self.app.call("POST", &path, Some(&admin), Some(user), 200).await.body;
                if client.narrowing.is_empty() && channel != "local" {
                    assert_eq!(user["hear"], answer["hear"], "{} {channel}", client.user);
                }
                assert_eq!(user["publish"], answer["publish"], "{} {channel}", client.user);
                if answer["hear"]["allowed"] == true {
                    hears.insert((client.id().to_owned(), channel.to_owned()));
                }
            }
        }
        let list = self.app.call("GET", "/v1/connections", Some(&admin), None, 200).await.body;
        let mut listed = BTreeSet::new();
        for connection in list["items"].as_array().expect("items") {
            let id = connection["connectionId"].as_str().expect("an id");
            let names =
                connection["channels"].as_array().expect("names").iter().filter_map(Value::as_str);
            listed.extend(names.filter_map(|name| {
                Some((id.to_owned(), name.strip_prefix("channel:")?.to_owned()))
            }));
        }
        assert_eq!(hears, listed);
        hears
    }

    async fn replace(&self, channel: &str, rules: Value) {
        let path = format!("/v1/channels/{channel}");
        let request = self
            .app
            .request("PUT", &path)
            .header("instance", "main")
            .bearer_auth(Token::admin("root").sign());
        self.app.send(request.header("if-match", "*").json(&json!({ "rules": rules })), 200).await;
    }
}

async fn renew(client: &mut Client, token: Token) {
    let Line::Socket(socket) = &mut client.line else { panic!("only a socket takes a token") };
    socket.send(&json!({"type": "AUTH", "authorization": token.sign()}).to_string()).await;
    while socket.frame().await["type"] != "CHANNELS" {}
    client.token = token;
}

#[actix_web::test]
async fn what_is_explained_and_rehearsed_is_what_is_delivered_and_replayed() {
    let mut world = World::start().await;
    let mut clients = Vec::new();
    for (person, transport) in people() {
        clients.push(Client::open(&world.app, person, transport, None).await);
    }
    let first = clients[0].connected["cursor"].as_str().expect("a cursor").to_owned();
    world.round(&mut clients).await;

    world.replace("eng", json!([{"effect": "allow", "group": "ops"}])).await;
    world
        .replace(
            "pro",
            json!([{"effect": "deny", "when": "claims.plan == 'pro'"}, {"effect": "allow", "everyone": true}]),
        )
        .await;
    world.replace("nobody", json!([{"effect": "allow", "user": "bob"}])).await;
    world.round(&mut clients).await;

    renew(&mut clients[0], token("alice").groups(&["ops"])).await;
    renew(&mut clients[2], token("bob").groups(&["eng"]).with("plan", "pro")).await;
    world.round(&mut clients).await;

    // Who comes back gets of all rounds what the present rights allow, as is said of the connection
    // that came back.
    let mut resumed = Vec::new();
    for client in clients.drain(..) {
        let transport = if matches!(client.line, Line::Stream(_)) { "sse" } else { "wss" };
        let person = (client.user, client.token, client.narrowing);
        resumed.push(Client::open(&world.app, person, transport, Some(&first)).await);
    }
    let ids: BTreeSet<String> = resumed.iter().map(|client| client.id().to_owned()).collect();
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (number, body) in world.published.iter().enumerate() {
        for user in resumed.iter().map(|client| client.user).collect::<BTreeSet<_>>() {
            let told =
                world.post(&format!("?dryRun=true&explain=user:{user}"), body).await["explain"]
                    .clone();
            for connection in told["connections"].as_array().expect("connections") {
                let id = connection["connectionId"].as_str().expect("an id").to_owned();
                if connection["receives"] == true && ids.contains(&id) {
                    expected.entry(id).or_default().push(number as u64);
                }
            }
        }
    }
    for client in &mut resumed {
        let wanted = expected.remove(client.id()).unwrap_or_default();
        assert!(!wanted.is_empty(), "{} hears something", client.user);
        assert_eq!(
            client.messages(&world.app).await,
            wanted,
            "{} {} resumes",
            client.user,
            client.narrowing
        );
    }
}

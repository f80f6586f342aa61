//! API of a scene, as a signed client sees it. Mappings are created disabled unless a test sets otherwise, so that
//! a change settles at once.

#![allow(dead_code)] // each test file uses its part

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use lighterman::app::host::DataplaneHost;
use lighterman::control::client::ApiClient;
use lighterman::control::controller::Controller;
use lighterman::control::http::{ApiContext, ApiServer};
use lighterman::control::sigv4::SigV4;
use lighterman::control::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::DataplaneScene;

pub(crate) const MAPPINGS: &str = "/2015-03-31/event-source-mappings";
const TAGS: &str = "/2017-03-31/tags";
pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const KEY: (&str, &str) = ("LMANTEST", "a secret");

pub(crate) struct ServedApi {
    folder: TempDir,
    running: Option<(ApiServer, Controller)>,
    pub(crate) client: ApiClient,
    servers: String,
}

impl ServedApi {
    pub(crate) fn on(scene: &DataplaneScene) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (server, controller, client) = start(scene, folder.path());
        let servers = scene.broker.address().to_string();
        Self { folder, running: Some((server, controller)), client, servers }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn restart(&mut self, scene: &DataplaneScene) {
        if let Some((server, controller)) = self.running.take() {
            server.stop().await;
            drop(controller);
        }
        let opened = async {
            loop {
                // The server's threads release the store shortly after their last response.
                if Store::open(self.folder.path()).is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the store is free");
        let (server, controller, client) = start(scene, self.folder.path());
        controller.resume();
        self.running = Some((server, controller));
        self.client = client;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").0.address()
    }

    pub(crate) async fn stop(mut self, scene: &DataplaneScene) {
        if let Some((server, _)) = self.running.take() {
            server.stop().await;
        }
        scene.dataplane.drain().await;
    }

    /// Returns a create request with `changes` in addition to the required members.
    pub(crate) fn body(&self, changes: &Value) -> Value {
        let mut body = json!({
            "FunctionName": "f", "Topics": ["orders"], "Enabled": false,
            "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": [self.servers] } },
            "SourceAccessConfigurations": [
                { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
            ],
        });
        for (name, value) in changes.as_object().expect("object") {
            body[name] = value.clone();
        }
        body
    }

    /// Creates a mapping and waits until it settles. Returns its path.
    pub(crate) async fn create(&self, changes: &Value) -> String {
        let body = self.body(changes);
        let created = self.client.call("POST", MAPPINGS, Some(&body)).await;
        let created = created.unwrap_or_else(|error| panic!("{changes}: {error}"));
        let path = format!("{MAPPINGS}/{}", created["UUID"].as_str().expect("text"));
        self.settled(&path).await;
        path
    }

    /// Updates a mapping and waits until it settles. Returns the response to the update.
    pub(crate) async fn update(&self, path: &str, changes: &Value) -> Value {
        let answer = self.client.call("PUT", path, Some(changes)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{changes}: {error}"));
        self.settled(path).await;
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.client.call("GET", path, None).await.expect("there")
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.client.call("DELETE", path, None).await.expect("accepted");
        let gone = async {
            while self.client.call("GET", path, None).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone).await.expect("gone");
    }

    pub(crate) async fn tags(&self, arn: &str) -> Value {
        let path = format!("{TAGS}/{}", arn.replace(':', "%3A"));
        self.client.call("GET", &path, None).await.expect("tags")["Tags"].clone()
    }

    /// Returns the error of a rejected call as text: status, exception, message.
    pub(crate) async fn refused(&self, method: &str, path: &str, body: &Value) -> String {
        match self.client.call(method, path, Some(body)).await {
            Ok(answer) => panic!("{method} {path} {body} is accepted: {answer}"),
            Err(error) => error.to_string(),
        }
    }

    /// Waits until no change is in progress, and returns the mapping.
    pub(crate) async fn settled(&self, path: &str) -> Value {
        let settled = async {
            loop {
                let shown = self.get(path).await;
                if ["Enabled", "Disabled"].iter().any(|state| shown["State"] == *state) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.expect("settles")
    }
}

fn start(scene: &DataplaneScene, folder: &std::path::Path) -> (ApiServer, Controller, ApiClient) {
    let (store, registry) = Store::open(folder).expect("opens");
    let host = Arc::new(DataplaneHost(Arc::clone(&scene.dataplane)));
    let controller = Controller::new(store, registry, host, REGION.to_owned(), "000000000000".to_owned());
    controller.put_key(KEY.0, KEY.1).expect("stored");
    let authenticator = Arc::new(SigV4 { region: REGION.to_owned() });
    let api = ApiContext { controller: controller.clone(), authenticator, node: "n".to_owned() };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let server = ApiServer::start(api, listener).expect("serves");
    let client = ApiClient::new(format!("http://{}", server.address()), REGION.to_owned(), KEY.0, KEY.1);
    (server, controller, client)
}

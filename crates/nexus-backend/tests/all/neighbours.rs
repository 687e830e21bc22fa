//! Functions that share a node: whose connections are whose.

use crate::common::nodes;
use crate::common::server::{Seen, Server, ok};
use nexus_abi::operation as abi;
use nexus_backend::{CredentialsSource, CredentialsStore, FunctionIdentity, PolicyRules};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

fn function(name: &str, policy: Value) -> FunctionIdentity {
    let document = serde_json::from_value(policy).unwrap();
    let rules = Arc::new(PolicyRules::new(name, &document).unwrap());
    FunctionIdentity::new(name, "us-east-1", rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_for_one_policy_and_one_set_of_credentials() {
    let store = Server::start(|_, _: &Seen| ok(b"object")).await;
    let other = Server::start(|_, _: &Seen| ok(b"page")).await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("own.json");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file
        .create(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    write!(
        file,
        r#"{{"access_key_id": "AKIDOWN", "secret_access_key": "own"}}"#
    )
    .unwrap();
    let place = other.url.strip_prefix("http://").unwrap().to_owned();
    let restricted = json!({"buckets": [{"name": "b"}], "egress": [place]});
    let own = CredentialsStore::new(&CredentialsSource::File(path)).unwrap();
    let mut functions = nodes(
        &store.url,
        [
            function("plain", json!({})),
            function("plain-too", json!({})),
            function("restricted", restricted.clone()),
            function("restricted-too", restricted),
            FunctionIdentity {
                credentials: Some(Arc::new(own)),
                ..function("own-credentials", json!({}))
            },
        ],
    );
    for _ in 0..3 {
        for (number, function) in functions.iter_mut().enumerate() {
            let url = other.url.clone();
            function
                .play(move |guest| {
                    assert_eq!(
                        guest
                            .s3("GetObject", &number.to_string(), b"")
                            .http_status(),
                        200
                    );
                    if matches!(number, 2 | 3) {
                        let head = json!({"method": "GET", "url": format!("{url}/{number}")});
                        assert_eq!(guest.call(abi::HTTP, &head, b"").http_status(), 200);
                    }
                })
                .await;
        }
    }
    let connections = |server: &Server, target: &str| {
        let seen = server.seen();
        let mut of = seen
            .iter()
            .filter(|s| s.target == target)
            .map(|s| s.connection);
        let first = of.next().unwrap();
        assert!(
            of.clone().count() == 2 && of.all(|one| one == first),
            "it is used again"
        );
        first
    };
    let of_store: Vec<usize> = (0..5)
        .map(|n| connections(&store, &format!("/b/{n}")))
        .collect();
    assert_eq!(of_store, [0, 0, 1, 2, 3]);
    assert_eq!(
        [2, 3].map(|n| connections(&other, &format!("/{n}"))),
        [0, 1]
    );
}

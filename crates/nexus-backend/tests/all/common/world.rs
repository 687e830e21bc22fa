//! A node with several instances: the scheduler's part is played by a task each.

use super::guest::Guest;
use nexus_abi::operation as abi;
use nexus_backend::{
    Backend, EventHead, FunctionIdentity, PolicyDocument, RuntimeMessage, Scope, Wake, WriteMode,
    WriteOptions,
};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub struct World {
    pub backend: Arc<Backend>,
    _files: tempfile::TempDir,
}

/// One instance, whose guest is played on this thread.
pub struct Instance {
    pub guest: Guest,
    orders: mpsc::UnboundedSender<Order>,
    count: u32,
}

enum Order {
    Event(EventHead),
    End(oneshot::Sender<Option<Arc<Scope>>>),
}

impl World {
    pub async fn new(endpoint: &str, journal: Option<&Path>) -> Self {
        let (backend, files) = super::backend(endpoint);
        if let Some(directory) = journal {
            backend.open_journal(directory).await.unwrap();
            backend.resume_writes(|name| Some(identity(name)));
        }
        Self {
            backend,
            _files: files,
        }
    }

    pub fn instance(&self, function: &str, mode: WriteMode, deadline_ms: u64) -> Instance {
        let (mut channel, descriptors) = self
            .backend
            .open(identity(function), 8 << 20, Wake::Eventfd)
            .unwrap();
        channel.set_writes(WriteOptions {
            mode,
            deadline: Duration::from_millis(deadline_ms),
        });
        let (orders, mut inbox) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = channel.receive() => {
                        if let RuntimeMessage::Broken(what) = message {
                            panic!("{what}");
                        }
                    }
                    order = inbox.recv() => match order {
                        None => return,
                        Some(Order::Event(head)) => {
                            channel.deliver(&head, bytes::Bytes::from_static(b"{}")).await.unwrap();
                        }
                        Some(Order::End(reply)) => {
                            let _ = reply.send(channel.end_invocation());
                        }
                    },
                }
            }
        });
        Instance {
            guest: Guest::new(descriptors),
            orders,
            count: 0,
        }
    }
}

impl Instance {
    /// Let an invocation begin.
    pub async fn begin(&mut self) {
        self.count += 1;
        let id = self
            .play(|guest| guest.submit(abi::NEXT, &json!({}), b""))
            .await;
        // The submission must have been taken before the event can be delivered.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let head = EventHead {
            request_id: format!("r-{}", self.count),
            deadline_ms: 0,
            function_arn: String::new(),
            client_context: None,
            identity: None,
            trace_id: None,
        };
        assert!(self.orders.send(Order::Event(head)).is_ok());
        let got = self.play(Guest::wait).await;
        assert_eq!(got.id, id);
    }

    /// The handler has ended.
    pub async fn end(&self) -> Arc<Scope> {
        let (reply, answer) = oneshot::channel();
        assert!(self.orders.send(Order::End(reply)).is_ok());
        answer.await.unwrap().unwrap()
    }

    pub async fn play<T: Send + 'static>(
        &mut self,
        part: impl FnOnce(&mut Guest) -> T + Send + 'static,
    ) -> T {
        super::play(&mut self.guest, part).await
    }

    pub async fn s3(&mut self, op: &'static str, key: &'static str, body: &'static [u8]) -> u64 {
        self.play(move |guest| guest.s3(op, key, body).http_status())
            .await
    }
}

fn identity(function: &str) -> FunctionIdentity {
    super::identity(function, &PolicyDocument::default())
}

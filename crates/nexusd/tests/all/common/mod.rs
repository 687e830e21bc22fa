//! A node of the test's own with the fake VMM, and a small HTTP client.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running nexusd with a state directory that goes when this does.
pub struct TestNode {
    pub directory: PathBuf,
    pub address: String,
    pub process: Child,
    configuration: String,
}

pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn error_type(&self) -> &str {
        self.header("x-amzn-errortype")
    }
}

impl TestNode {
    pub fn start(configuration: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("nexusd-test-{}-{number}", std::process::id()));
        for part in ["code", "runtime/nexus/guest", "state"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        // The VMM runs with an empty environment: its interpreter is named by its real path.
        let python = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .unwrap();
        let python = String::from_utf8(python.stdout).unwrap();
        let vmm = directory.join("vmm");
        let script = format!("#!{} -IS\n{}", python.trim(), include_str!("fake_vmm.py"));
        fs::write(&vmm, script).unwrap();
        fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).unwrap();
        let (process, address) = launch(&directory, configuration);
        Self {
            directory,
            address,
            process,
            configuration: configuration.to_owned(),
        }
    }

    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// A new nexusd on the same state; the old one must have ended.
    pub fn restart(&mut self) {
        let _ = self.process.wait();
        (self.process, self.address) = launch(&self.directory, &self.configuration);
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.process.id()).unwrap();
        // SAFETY: a process this test started and has not reaped.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    pub fn deployment(&self, change: &Value) -> Value {
        let mut body = json!({
            "handler": "m.handler",
            "code": self.directory.join("code"),
            "runtime": self.directory.join("runtime"),
            "python": "/bin/sh",
            "digest": "0123456789abcdef",
        });
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    }

    pub fn deploy(&self, name: &str, change: &Value) {
        let reply = self.try_deploy(name, change);
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    }

    pub fn try_deploy(&self, name: &str, change: &Value) -> Reply {
        let body = self.deployment(change).to_string();
        let path = format!("/nexus/v1/functions/{name}");
        self.send("PUT", &path, &[], body.as_bytes())
    }

    pub fn invoke(&self, name: &str, event: &Value) -> Reply {
        self.invoke_with(name, &[], event.to_string().as_bytes())
    }

    pub fn invoke_with(&self, name: &str, headers: &[(&str, &str)], event: &[u8]) -> Reply {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        self.send("POST", &path, headers, event)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn logs(&self, name: &str) -> String {
        let reply = self.get(&format!("/nexus/v1/functions/{name}/logs?lines=100000"));
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    pub fn instances(&self) -> Vec<Value> {
        let reply = self.get("/nexus/v1/instances");
        reply.json().as_array().unwrap().clone()
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.address,
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has refused the head may not read the body.
        let _ = stream.write_all(body);
        read_reply(stream).expect("a reply")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.join("nexusd.log")).unwrap_or_default();
            eprintln!("--- nexusd's log\n{log}");
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn launch(directory: &Path, configuration: &str) -> (Child, String) {
    let config = directory.join("nexusd.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate = {:?}\nvmm = {:?}\n{configuration}",
        directory.join("state"),
        directory.join("vmm")
    );
    fs::write(&config, text).unwrap();
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("nexusd.log"))
        .unwrap();
    let announced = directory.join("state/nexusd.json");
    let _ = fs::remove_file(&announced);
    let mut process = Command::new(env!("CARGO_BIN_EXE_nexusd"))
        .arg("--config")
        .arg(&config)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(text) = fs::read(&announced) {
            let value: Value = serde_json::from_slice(&text).unwrap();
            return (process, value["address"].as_str().unwrap().to_owned());
        }
        if process.try_wait().unwrap().is_some() || Instant::now() > deadline {
            let log = fs::read_to_string(directory.join("nexusd.log")).unwrap_or_default();
            panic!("nexusd did not start:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One reply; `None` where the connection ends before it.
pub fn read_reply(stream: TcpStream) -> Option<Reply> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Reply {
        status,
        headers,
        body,
    })
}

/// Wait until `what` holds, at most ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process that is not a zombie has this id.
pub fn is_alive(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

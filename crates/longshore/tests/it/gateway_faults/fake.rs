//! A fake provider: writes the bytes that a test scripted, right or wrong, and keeps what it received.
//!
//! For what the simulated provider does not do, since that one always answers as HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The header by which a request says which script it is for.
pub const CASE: &str = "x-case";

/// What is done for one request.
#[derive(Clone)]
pub enum Act {
    Write(Vec<u8>),
    /// Writes this so many times.
    Repeat(Vec<u8>, usize),
    /// The connection ends here.
    Close,
    /// Nothing more until the client leaves.
    Silence,
}

/// One script for each request of a case; the last one is used again and again.
pub type Scripts = HashMap<&'static str, Vec<Vec<Act>>>;

#[derive(Clone, Debug)]
pub struct Received {
    pub case: String,
    /// Method and path.
    pub line: String,
    /// As it came.
    pub head: String,
    pub body: Vec<u8>,
}

pub struct Fake {
    pub address: String,
    received: Arc<Mutex<Vec<Received>>>,
    serving: JoinHandle<()>,
}

impl Fake {
    pub async fn start(scripts: Scripts) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (received, scripts) = (Arc::<Mutex<Vec<Received>>>::default(), Arc::new(scripts));
        let keeper = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(attend(stream, Arc::clone(&scripts), Arc::clone(&keeper)));
            }
        });
        Fake { address, received, serving }
    }

    pub fn received(&self, case: &str) -> Vec<Received> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|it| it.case == case).cloned().collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn attend(mut stream: TcpStream, scripts: Arc<Scripts>, keeper: Arc<Mutex<Vec<Received>>>) {
    while let Some(received) = read(&mut stream).await {
        let case = received.case.clone();
        let nth = {
            let mut kept = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(received);
            kept.iter().filter(|it| it.case == case).count()
        };
        let script = scripts.get(case.as_str()).and_then(|script| script.get(nth - 1).or(script.last()));
        let Some(script) = script else { return };
        if play(&mut stream, script).await.is_none() {
            return;
        }
    }
}

/// `None`: the connection is over.
async fn play(stream: &mut TcpStream, script: &[Act]) -> Option<()> {
    for act in script {
        match act {
            Act::Write(bytes) => stream.write_all(bytes).await.ok()?,
            Act::Repeat(bytes, times) => {
                for _ in 0..*times {
                    stream.write_all(bytes).await.ok()?;
                }
            }
            Act::Close => return None,
            Act::Silence => {
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
                return None;
            }
        }
    }
    Some(())
}

async fn read(stream: &mut TcpStream) -> Option<Received> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let mut more = async |bytes: &mut Vec<u8>| {
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        Some(())
    };
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        more(&mut bytes).await?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = field("content-length").map_or(0, |length| length.parse().expect("a number"));
    while bytes.len() < end + length {
        more(&mut bytes).await?;
    }
    let line = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let case = field(CASE).unwrap_or_default();
    Some(Received { case, line, head, body: bytes[end..].to_vec() })
}

/// A whole answer with its length.
pub fn answer(status: u16, kind: &str, more: &[(&str, &str)], body: &[u8]) -> Act {
    let head = head(status, kind, more, &format!("content-length: {}", body.len()));
    Act::Write([head.as_bytes(), body].concat())
}

pub fn head(status: u16, kind: &str, more: &[(&str, &str)], framing: &str) -> String {
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Said\r\ncontent-type: {kind}\r\n{more}{framing}\r\n\r\n")
}

/// The head of a stream in chunks, and each of these in one.
pub fn stream(events: &[&str]) -> Vec<Act> {
    let head = head(200, "text/event-stream", &[], "transfer-encoding: chunked");
    let mut acts = vec![Act::Write(head.into_bytes())];
    acts.extend(events.iter().map(|event| chunk(event.as_bytes())));
    acts
}

pub fn chunk(bytes: &[u8]) -> Act {
    Act::Write([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
}

/// The stream ends in good order.
pub fn done() -> Act {
    Act::Write(b"0\r\n\r\n".to_vec())
}

/// The answer of a chat, as it should be.
pub fn chat_answer() -> Vec<u8> {
    br#"{"id":"c1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#.to_vec()
}

/// One piece of a chat's stream.
pub fn said(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

pub const STOP: &str = "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

pub const DONE: &str = "data: [DONE]\n\n";

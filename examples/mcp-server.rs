//! An MCP server that has no key in any file: it takes the one it needs from Valetkey while it runs.
//!
//! ```text
//! mcp-server http://api.example.com:80 [tools socket]
//! ```
//!
//! What to copy from here into a server of your own is marked 1 to 5. `client-configs/` shows how MCP clients start it, and the
//! operator's side is one table:
//!
//! ```toml
//! [tool.weather]
//! run-as = { user = "weather" }
//! secrets."weather/api-key" = {}
//! ```

use std::{process::ExitCode, time::Duration};

use rmcp::{
    ServerHandler, ServiceExt,
    handler::server::wrapper::Parameters,
    schemars::{self, JsonSchema},
    tool, tool_handler, tool_router,
};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use valetkey::client::{Change, Client, Error, Secret, Session};
use zeroize::Zeroizing;

/// 1. Libraries copy what passes through them, and free it as it is. With this allocator nothing of that outlives its owner.
#[global_allocator]
static WIPING: valetkey::secret::WipingAllocator = valetkey::secret::WipingAllocator::new();

const KEY: &str = "weather/api-key";
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that sends without end must not fill our memory.
const LARGEST_ANSWER: u64 = 1024 * 1024;

// Over stdio, standard output belongs to the protocol: everything for people goes to standard error.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // 2. No core dumps, and no other process of this user reads our memory.
    let hardening = valetkey::secret::harden_process();
    if !hardening.is_complete() {
        eprintln!("mcp-server: the kernel refused some of the process hardening: {hardening}");
    }
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("mcp-server: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: mcp-server http://HOST:PORT [TOOLS-SOCKET]";
    let upstream = arguments.next().as_deref().and_then(|url| url.strip_prefix("http://")).ok_or(usage)?.to_owned();
    let client = arguments.next().map_or_else(Client::new, Client::at);

    // 3. Declare what is needed, before the first message of the protocol: a server that is not allowed its key says so at the
    //    start, where the user looks, and not in the middle of a conversation. There is nothing to log in with.
    let opening = client.session("weather").secret(KEY).purpose("forecasts for an assistant").open();
    let session = opening.await.map_err(|error| error.to_string())?;
    let key = session.get(KEY).await.map_err(|error| error.to_string())?;
    session.acknowledge(&key).await.map_err(|error| error.to_string())?;
    tokio::spawn(follow_rotations(session.clone()));

    let server = Weather { session, upstream }.serve(rmcp::transport::stdio()).await.map_err(|error| error.to_string())?;
    server.waiting().await.map_err(|error| error.to_string())?;
    Ok(())
}

/// 4. Say which version is in use, so that the old one can be retired. Each call below asks the session for the key and keeps
///    none, so a new version is in use as soon as it is known; a call that is under way with the old one tries again if that is
///    refused.
async fn follow_rotations(session: Session) {
    let mut changes = session.watch();
    while let Some(Change { secret, previous }) = changes.next().await {
        eprintln!("mcp-server: {} is now version {}, was {}", secret.name(), secret.version(), previous.version());
        if session.acknowledge(&secret).await.is_err() {
            break;
        }
    }
    eprintln!("mcp-server: the session has ended; calls will say why");
}

struct Weather {
    session: Session,
    /// `host:port`.
    upstream: String,
}

#[derive(Deserialize, JsonSchema)]
struct City {
    /// Name of the city, as in "Oslo".
    city: String,
}

// An `Err` of a tool is shown to the model. What stands in one must be safe to show: the client library's errors carry no value,
// and an upstream's error page, which may well repeat the key it refused, is not passed on.
#[tool_router]
impl Weather {
    /// The weather forecast for a city, as JSON.
    #[tool]
    async fn forecast(&self, Parameters(City { city }): Parameters<City>) -> Result<String, String> {
        // 5. Ask each time: once fetched, this is a read from our own memory, and always the current version.
        let key = self.session.get(KEY).await.map_err(say)?;
        let mut answer = self.ask(&city, &key).await?;
        if answer.status == 401 {
            // Perhaps it was rotated a moment ago. Asking with the same version again would only look like an attack.
            let fresh = self.session.fetch(KEY).await.map_err(say)?;
            if fresh.version() != key.version() {
                answer = self.ask(&city, &fresh).await?;
            }
        }
        match answer.status {
            200 => Ok(answer.body),
            401 => Err(format!("the weather service does not accept our key ({KEY}): tell the operator")),
            status => Err(format!("the weather service answers with status {status}")),
        }
    }

    /// Which key this server uses: its name and version, never its value.
    #[tool]
    async fn key_info(&self) -> Result<String, String> {
        let key = self.session.get(KEY).await.map_err(say)?;
        Ok(format!("{} version {}", key.name(), key.version()))
    }
}

#[tool_handler(name = "weather", instructions = "Weather forecasts.")]
impl ServerHandler for Weather {}

fn say(error: Error) -> String {
    format!("the key cannot be had: {error}")
}

struct Answer {
    status: u16,
    body: String,
}

impl Weather {
    /// A request of the plainest kind. A real server would use an HTTP client with TLS here, and mark the header as sensitive.
    async fn ask(&self, city: &str, key: &Secret) -> Result<Answer, String> {
        let unreachable = |error: std::io::Error| format!("the weather service cannot be reached: {error}");
        let exchange = async {
            let mut connection = tokio::net::TcpStream::connect(&self.upstream).await.map_err(unreachable)?;
            connection.write_all(&self.request(city, key)?).await.map_err(unreachable)?;
            let mut text = Vec::new();
            connection.take(LARGEST_ANSWER).read_to_end(&mut text).await.map_err(unreachable)?;
            parse(&text).ok_or("the weather service's answer makes no sense".to_owned())
        };
        tokio::time::timeout(UPSTREAM_TIMEOUT, exchange).await.map_err(|_| "the weather service does not answer".to_owned())?
    }

    /// The only place that sees the value. What it makes of it is wiped when dropped, and never grows, which would leave a copy.
    fn request(&self, city: &str, key: &Secret) -> Result<Zeroizing<Vec<u8>>, String> {
        let (path, host) = (escape(city), &self.upstream);
        key.expose(|key| {
            if !key.iter().all(u8::is_ascii_graphic) {
                return Err(format!("{KEY} is not text that fits an HTTP header: tell the operator"));
            }
            // Version 1.0, so that the answer comes in one piece and the connection closes after it.
            let head = format!("GET /forecast/{path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer ");
            let mut request = Zeroizing::new(Vec::with_capacity(head.len() + key.len() + 4));
            [head.as_bytes(), key, b"\r\n\r\n"].iter().for_each(|part| request.extend_from_slice(part));
            Ok(request)
        })
    }
}

/// What the model wrote must not be able to change the request.
fn escape(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let (head, body) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.into() })
}

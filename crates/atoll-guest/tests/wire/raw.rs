//! The wire as clients of other makers see it: JSON, forms, gzip. Spoken by hand, so that
//! nothing of our own client can hide a mistake. Needs root.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::Agent;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }

    /// The frames of a stream, each with its flag.
    fn frames(&self) -> Vec<(u8, Value)> {
        let mut rest = self.body.as_slice();
        let mut frames = Vec::new();
        while let [flag, a, b, c, d, ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            frames.push((*flag, serde_json::from_slice(&rest[5..5 + length]).unwrap()));
            rest = &rest[5 + length..];
        }
        frames
    }
}

/// One request on a connection of its own.
pub(crate) fn request(agent: &Agent, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(&agent.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..split].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut body = answer[split + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = unchunk(&body);
    }
    Answer { status, headers, body }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|part| part == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = &body[end + 4 + length..];
    }
}

const ROOT: (&str, &str) = ("Authorization", "Basic cm9vdDo=");

fn call(agent: &Agent, method: &str, message: &Value) -> Answer {
    let headers = [ROOT, ("Content-Type", "application/json"), ("Connect-Protocol-Version", "1")];
    request(agent, &format!("POST /{method}"), &headers, message.to_string().as_bytes())
}

fn start(agent: &Agent, message: &Value, more: &[(&str, &str)]) -> Answer {
    let message = message.to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message.as_bytes());
    let mut headers = vec![ROOT, ("Content-Type", "application/connect+json"), ("Connect-Protocol-Version", "1")];
    headers.extend(more);
    request(agent, "POST /process.Process/Start", &headers, &body)
}

#[test]
fn a_json_stream_holds_nothing_that_was_not_asked_for() {
    let agent = Agent::start();
    let message = json!({"process": {"cmd": "/bin/sh", "args": ["-c", "printf hi; kill -9 $$"], "envs": {}}, "stdin": false, "unknown": 1});
    let answer = start(&agent, &message, &[("Accept-Encoding", "zstd, gzip, br")]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/connect+json");
    assert_eq!(answer.headers.get("content-encoding"), None);
    let frames = answer.frames();
    let pid = frames[0].1["event"]["start"]["pid"].as_u64().unwrap();
    assert_eq!(frames[0], (0, json!({"event": {"start": {"pid": pid}}})));
    assert_eq!(frames[1], (0, json!({"event": {"data": {"stdout": "aGk="}}})));
    assert_eq!(
        frames[2],
        (0, json!({"event": {"end": {"exitCode": 137, "status": "signal: killed", "error": "signal: killed"}}}))
    );
    assert_eq!(frames[3], (2, json!({})));
    assert_eq!(frames.len(), 4);
}

#[test]
fn a_stream_of_input_is_answered_with_one_message_and_an_end() {
    let agent = Agent::start();
    let frame = |message: Value| {
        let message = message.to_string();
        [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message.as_bytes()].concat()
    };
    let proof = agent.path("proof");
    let line = format!("read a; read b; echo $b $a > {proof}.t; mv {proof}.t {proof}");
    let starting = json!({"process": {"cmd": "/bin/sh", "args": ["-c", line]}, "tag": "reader"});
    let feed = |messages: &[Value]| {
        let body: Vec<u8> = messages.iter().flat_map(|message| frame(message.clone())).collect();
        let headers = [ROOT, ("Content-Type", "application/connect+json"), ("Connect-Protocol-Version", "1")];
        request(&agent, "POST /process.Process/StreamInput", &headers, &body)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| start(&agent, &starting, &[]));
        let listed = || call(&agent, "process.Process/List", &json!({})).json()["processes"].is_array();
        let until = Instant::now() + Duration::from_secs(10);
        while !listed() {
            assert!(Instant::now() < until, "it did not start");
        }
        let data = |text: &str| json!({"data": {"input": {"stdin": STANDARD.encode(text)}}});
        let answer = feed(&[
            json!({"start": {"process": {"tag": "reader"}}}),
            data("one\n"),
            json!({"keepalive": {}}),
            data("two\n"),
        ]);
        assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/connect+json"));
        assert_eq!(answer.frames(), [(0, json!({})), (2, json!({}))]);
    });
    assert_eq!(std::fs::read_to_string(&proof).unwrap(), "two one\n");
    let frames = feed(&[json!({"start": {"process": {"tag": "nobody"}}})]).frames();
    assert_eq!(frames.last().unwrap().1["error"]["code"], "not_found");
}

#[test]
fn a_deadline_in_a_header_is_an_error_at_the_end_of_the_stream() {
    let agent = Agent::start();
    let message = json!({"process": {"cmd": "sleep", "args": ["1000"]}});
    let frames = start(&agent, &message, &[("Connect-Timeout-Ms", "300")]).frames();
    let (flag, end) = frames.last().unwrap();
    assert_eq!((*flag, end["error"]["code"].as_str()), (2, Some("deadline_exceeded")), "{end}");
}

#[test]
fn unary_errors_are_http_errors_with_json() {
    let agent = Agent::start();
    let answer = call(&agent, "filesystem.Filesystem/Stat", &json!({"path": "/no/such"}));
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")));
    let answer =
        call(&agent, "process.Process/SendSignal", &json!({"process": {"pid": 1}, "signal": "SIGNAL_SIGKILL"}));
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")), "PID 1 is not ours");
    let answer = call(&agent, "process.Process/NoSuchMethod", &json!({}));
    assert_eq!(answer.status, 404);
    let answer = request(&agent, "POST /process.Process/List", &[("Content-Type", "application/json")], b"{nonsense");
    assert_eq!(answer.status, 400);
}

#[test]
fn forms_write_one_file_or_many() {
    let agent = Agent::start();
    let (one, two) = (agent.path("one"), agent.path("deep/two"));
    let form = format!(
        "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{one}\"\r\n\r\nfirst\r\n\
         --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{two}\"\r\n\r\nsecond\r\n--B--\r\n"
    );
    let headers = [("Content-Type", "multipart/form-data; boundary=B")];
    let answer = request(&agent, "POST /files?username=root", &headers, form.as_bytes());
    assert_eq!(
        answer.json(),
        json!([{"path": one, "name": "one", "type": "file"}, {"path": two, "name": "two", "type": "file"}])
    );
    assert_eq!(std::fs::read(&one).unwrap(), b"first");
    assert_eq!(std::fs::read(&two).unwrap(), b"second");
    // With `path` in the query, the name in the form does not count.
    let target = format!("POST /files?username=root&path={}", agent.path("three"));
    assert_eq!(request(&agent, &target, &headers, form.as_bytes()).status, 200);
    assert_eq!(std::fs::read(agent.path("three")).unwrap(), b"second");
    let answer = request(&agent, "POST /files?username=root", &headers, &form.as_bytes()[..90]);
    assert_eq!(answer.status, 400);
}

#[test]
fn gzip_goes_both_ways() {
    let agent = Agent::start();
    let content: Vec<u8> = (0..2_000_000_u32).map(|i| (i / 7 % 97) as u8).collect();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(&content).unwrap();
    let packed = packer.finish().unwrap();
    let path = agent.path("packed");
    let target = format!("POST /files?username=root&path={path}");
    let headers = [("Content-Type", "application/octet-stream"), ("Content-Encoding", "gzip")];
    assert_eq!(request(&agent, &target, &headers, &packed).status, 200);
    assert!(std::fs::read(&path).unwrap() == content);
    for broken in [&packed[..packed.len() / 2], b"no gzip at all"] {
        assert_eq!(request(&agent, &target, &headers, broken).status, 400);
    }
    std::fs::write(&path, &content).unwrap();
    let target = format!("GET /files?username=root&path={path}");
    let answer = request(&agent, &target, &[("Accept-Encoding", "br, gzip;q=0.5")], b"");
    assert_eq!(answer.headers["content-encoding"], "gzip");
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == content);
    let answer = request(&agent, &target, &[("Accept-Encoding", "gzip;q=0")], b"");
    assert_eq!((answer.headers.get("content-encoding"), answer.body.len()), (None, content.len()));
}

#[test]
fn a_form_may_be_packed_as_a_whole() {
    let agent = Agent::start();
    let content = "line\n".repeat(300_000);
    let form = format!(
        "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\r\n{content}\r\n--B--\r\n",
        agent.path("packed-form")
    );
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(form.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let headers = [("Content-Type", "multipart/form-data; boundary=B"), ("Content-Encoding", "gzip")];
    let before = agent.resident();
    assert_eq!(request(&agent, "POST /files?username=root", &headers, &packed).status, 200);
    assert!(std::fs::read(agent.path("packed-form")).unwrap() == content.as_bytes());
    assert!(agent.resident() < before + (16 << 20));
    assert_eq!(request(&agent, "POST /files?username=root", &headers, &packed[..packed.len() / 2]).status, 400);
}

#[test]
fn a_file_that_is_known_is_not_sent_again() {
    let agent = Agent::start();
    std::fs::write(agent.path("known"), "0123456789").unwrap();
    let target = format!("GET /files?username=root&path={}", agent.path("known"));
    let first = request(&agent, &target, &[], b"");
    let (tag, date) = (first.headers["etag"].clone(), first.headers["last-modified"].clone());
    for known in [("If-None-Match", tag.as_str()), ("If-Modified-Since", date.as_str())] {
        let again = request(&agent, &target, &[known], b"");
        assert_eq!((again.status, again.body.len()), (304, 0));
        assert_eq!(again.headers["etag"], tag);
    }
    assert_eq!(request(&agent, &target, &[("If-Match", "\"other\"")], b"").status, 412);
    let part = |range_of: &str| {
        let headers = [("Range", "bytes=2-4"), ("If-Range", range_of)];
        let answer = request(&agent, &target, &headers, b"");
        (answer.status, answer.body)
    };
    assert_eq!(part(&tag), (206, b"234".to_vec()));
    assert_eq!(part("\"other\""), (200, b"0123456789".to_vec()));
    std::fs::write(agent.path("known"), "01234567890").unwrap();
    let again = request(&agent, &target, &[("If-None-Match", tag.as_str())], b"");
    assert_eq!((again.status, again.body.len()), (200, 11));
    let head = request(&agent, &target.replace("GET", "HEAD"), &[], b"");
    assert_eq!((head.headers["content-length"].as_str(), head.body.len()), ("11", 0));
    let packed = request(&agent, &target, &[("Accept-Encoding", "gzip")], b"");
    assert_ne!(packed.headers["etag"], again.headers["etag"], "another coding is another entity");
}

#[test]
fn what_is_noted_about_a_file_travels_with_it() {
    let agent = Agent::start();
    let path = agent.path("noted");
    let target = format!("POST /files?username=root&path={path}");
    let kind = ("Content-Type", "application/octet-stream");
    let headers = [kind, ("X-Metadata-Color", "blue"), ("X-Metadata-Size", "2 x 3")];
    let answer = request(&agent, &target, &headers, b"x");
    if answer.status == 400 && answer.json()["message"].as_str().unwrap().contains("keeps no metadata") {
        println!("skipped: the file system of the temporary directory has no user attributes");
        return;
    }
    let noted = json!({"color": "blue", "size": "2 x 3"});
    assert_eq!(answer.json()[0]["metadata"], noted);
    let stat = |path: &str| {
        let answer = call(&agent, "filesystem.Filesystem/Stat", &json!({"path": path}));
        answer.json()["entry"]["metadata"].clone()
    };
    assert_eq!(stat(&path), noted);
    let (from, to) = (path.clone(), agent.path("moved"));
    call(&agent, "filesystem.Filesystem/Move", &json!({"source": from, "destination": to}));
    assert_eq!(stat(&to), noted);
    // Another upload replaces all of it.
    let target = format!("POST /files?username=root&path={to}");
    request(&agent, &target, &[kind, ("X-Metadata-Shape", "round")], b"y");
    assert_eq!(stat(&to), json!({"shape": "round"}));
    request(&agent, &target, &[kind], b"z");
    assert_eq!(stat(&to), Value::Null);
    let large = "v".repeat(5000);
    assert_eq!(request(&agent, &target, &[kind, ("X-Metadata-Large", &large)], b"z").status, 400);
}

/// Polls a watcher until it has told so many events.
fn events(agent: &Agent, id: &str, wanted: usize) -> Vec<(String, String)> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    while seen.len() < wanted && Instant::now() < until {
        let answer = call(agent, "filesystem.Filesystem/GetWatcherEvents", &json!({"watcherId": id})).json();
        for event in answer["events"].as_array().into_iter().flatten() {
            let text = |name: &str| event[name].as_str().unwrap_or("").to_owned();
            seen.push((text("name"), text("type")));
        }
        std::thread::yield_now();
    }
    seen
}

fn watch(agent: &Agent, recursive: bool) -> String {
    let message = json!({"path": agent.dir.path(), "recursive": recursive});
    let answer = call(agent, "filesystem.Filesystem/CreateWatcher", &message);
    answer.json()["watcherId"].as_str().unwrap().to_owned()
}

fn event(name: &str, kind: &str) -> (String, String) {
    (name.to_owned(), format!("EVENT_TYPE_{kind}"))
}

#[test]
fn a_new_file_is_exactly_three_events() {
    let agent = Agent::start();
    let id = watch(&agent, false);
    let target = format!("POST /files?username=root&path={}", agent.path("new"));
    let headers = [("Content-Type", "application/octet-stream")];
    assert_eq!(request(&agent, &target, &headers, b"content").status, 200);
    // A fourth event after it shows that there was none in between.
    std::fs::remove_file(agent.path("new")).unwrap();
    assert_eq!(
        events(&agent, &id, 4),
        [event("new", "CREATE"), event("new", "CHMOD"), event("new", "WRITE"), event("new", "REMOVE")]
    );
}

#[test]
fn a_watch_follows_what_appears_and_leaves_what_goes() {
    let agent = Agent::start();
    std::fs::create_dir_all(agent.path("old/inner")).unwrap();
    let id = watch(&agent, true);
    std::fs::write(agent.path("old/inner/x"), "").unwrap();
    assert_eq!(events(&agent, &id, 1), [event("old/inner/x", "CREATE")]);
    std::fs::create_dir_all(agent.path("a/b")).unwrap();
    std::fs::write(agent.path("a/b/file"), "").unwrap();
    let mut seen = events(&agent, &id, 3);
    seen.sort();
    let wanted = [event("a", "CREATE"), event("a/b", "CREATE"), event("a/b/file", "CREATE")];
    assert_eq!(seen, wanted, "each once, whether seen or found");
    std::fs::rename(agent.path("a"), agent.path("z")).unwrap();
    let seen = events(&agent, &id, 4);
    let wanted = [("a", "RENAME"), ("z", "CREATE"), ("z/b", "CREATE"), ("z/b/file", "CREATE")];
    assert_eq!(seen, wanted.map(|(name, kind)| event(name, kind)));
    std::fs::write(agent.path("z/b/later"), "").unwrap();
    assert_eq!(events(&agent, &id, 1), [event("z/b/later", "CREATE")]);
    std::fs::write(agent.path("z/b/later"), "x").unwrap();
    assert!(events(&agent, &id, 1).contains(&event("z/b/later", "WRITE")));
    assert_eq!(call(&agent, "filesystem.Filesystem/RemoveWatcher", &json!({"watcherId": id})).status, 200);
    let gone = call(&agent, "filesystem.Filesystem/GetWatcherEvents", &json!({"watcherId": id}));
    assert_eq!(gone.status, 404);
}

#[test]
fn only_directories_are_watched() {
    let agent = Agent::start();
    std::fs::write(agent.path("file"), "").unwrap();
    let create = |path: String| call(&agent, "filesystem.Filesystem/CreateWatcher", &json!({"path": path}));
    assert_eq!(create(agent.path("file")).json()["code"], "invalid_argument");
    assert_eq!(create(agent.path("missing")).json()["code"], "not_found");
}

#[test]
fn nonsense_on_the_wire_costs_the_agent_nothing() {
    let agent = Agent::start();
    let long = format!("GET /files?username=root&path={}", "a".repeat(5000));
    assert_eq!(request(&agent, &long, &[], b"").status, 400);
    assert_eq!(request(&agent, "GET /nowhere", &[], b"").status, 404);
    assert_eq!(request(&agent, "DELETE /files", &[], b"").status, 405);
    assert_eq!(request(&agent, "POST /init", &[], b"[1,2").status, 400);
    let body = json!({"accessToken": "short"}).to_string();
    assert_eq!(request(&agent, "POST /init", &[], body.as_bytes()).status, 400);
    let mut frame = vec![0, 0xff, 0xff, 0xff, 0xff];
    frame.extend(b"{}");
    let headers = [("Content-Type", "application/connect+json"), ("Connect-Protocol-Version", "1")];
    let answer = request(&agent, "POST /process.Process/Start", &headers, &frame);
    assert!(answer.frames().last().is_some_and(|(flag, end)| *flag == 2 && end.get("error").is_some()));
    let token = STANDARD.encode("x".repeat(100_000));
    let mut stream = TcpStream::connect(&agent.address).unwrap();
    let _ = stream.write_all(format!("GET /envs HTTP/1.1\r\nX-Access-Token: {token}\r\n\r\n").as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(request(&agent, "GET /health", &[], b"").status, 200);
}

//! Lies in the body of an answer.

use std::{io, time::Duration};

use atoll_guest_client::{Code, FileBody, GuestError, Limits, Phase};
use bytes::Bytes;

use crate::liar::{Act, Liar, SLACK, head, limits, say, soon};

const PROTO: &str = "application/proto";
const JSON: &str = "application/json";

#[tokio::test]
async fn endless_bodies_are_cut_off() {
    let more = || Act::Forever(vec![b' '; 1000]);
    let chunks = || Act::Forever(b"3e8\r\n".iter().copied().chain([b' '; 1000]).chain(*b"\r\n").collect());
    let chunked = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n");
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: 99999999999\r\n\r\n");
    for acts in [[head(JSON), more()], [say(&chunked), chunks()], [say(&huge), more()]] {
        let liar = Liar::new(acts);
        let error = soon(liar.client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::TooLarge { limit, .. } if limit == limits().body_bytes), "{error}");
        assert!(liar.written() < limits().body_bytes as u64 + SLACK, "{} bytes were taken", liar.written());
    }
    let liar = Liar::new([head(PROTO), more()]);
    let error = soon(liar.client.list()).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLarge { .. }), "{error}");
    let liar = Liar::new([say("HTTP/1.1 500 No\r\n\r\n"), more()]);
    let error = soon(liar.client.list()).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_stops_or_trickles_is_given_up() {
    for act in [Act::Hang, Act::Trickle(vec![b' '; 1000], Duration::from_millis(30))] {
        let liar = Liar::new([head(JSON), act]);
        let error = soon(liar.client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::Timeout { phase: Phase::Body, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_bomb_is_not_unpacked() {
    for coding in ["gzip", "zstd", "br", "deflate", "gzip, gzip"] {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-encoding: {coding}\r\n\r\n");
        let liar = Liar::new([say(&text), Act::Forever(vec![0x1f; 1000])]);
        let error = soon(liar.client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
        let error = soon(liar.client.read_file("/x", None, None)).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
        assert!(liar.written() < 2 * SLACK, "{} bytes were taken", liar.written());
    }
}

#[tokio::test]
async fn empty_elements_without_number_do_not_fill_memory() {
    // Two bytes on the wire each, and a whole structure each once decoded.
    let elements = [0x0a, 0x00].repeat((4 << 20) / 2 - 1);
    let patient = Limits { body: Duration::from_secs(20), ..Limits::default() };
    let liar = Liar::with(vec![head(PROTO), Act::Say(elements)], true, patient);
    let error = soon(liar.client.list_dir("/", 1, None)).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    let error = soon(liar.client.list()).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn the_wrong_type_is_refused() {
    for kind in ["text/html", "application/json", "application/connect+proto", "application/protobuf", ""] {
        let error = soon(Liar::new([head(kind), say("{}")]).client.list()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{kind}: {error}");
    }
    let error = soon(Liar::new([head("text/html"), say("{\"version\":\"1\"}")]).client.health()).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn what_does_not_decode_is_refused() {
    let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(4));
    for body in ["", "{", "[]", "{\"version\":1}", "\u{0}", &deep] {
        let error = soon(Liar::new([head(JSON), say(body)]).client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    }
    for body in
        [&b"\x0a\xff"[..], b"\x0a\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x07"]
    {
        let error = soon(Liar::new([head(PROTO), Act::Say(body.to_vec())]).client.list()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_body_shorter_than_it_says_is_an_error() {
    let text = format!("HTTP/1.1 200 OK\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n{{\"version\":\"1\"}}");
    let error = soon(Liar::new([say(&text)]).client.health()).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn the_words_of_an_error_are_bounded() {
    let words = "x".repeat(50_000);
    let body = format!("{{\"code\":\"not_found\",\"message\":\"{words}\"}}");
    let text = format!("HTTP/1.1 404 No\r\natoll-reason: nonsense\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let error = soon(Liar::new([say(&text)]).client.list()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(Code::NotFound), None));
    assert!(error.to_string().len() < 3000);
    // A code of another type, or none at all, is still an error of the agent.
    let text = "HTTP/1.1 404 No\r\ncontent-length: 24\r\n\r\n{\"code\":404,\"message\":1}";
    let error = soon(Liar::new([say(text)]).client.list()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn a_file_without_end_stops_at_what_its_reader_takes() {
    let liar = Liar::new([head("application/octet-stream"), Act::Forever(vec![7; 1000])]);
    let reader = soon(liar.client.read_file("/x", None, None)).await.unwrap();
    let error = soon(reader.read_to_end(100_000)).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLarge { limit: 100_000, .. }), "{error}");
    assert!(liar.written() < 100_000 + SLACK, "{} bytes were taken", liar.written());
}

#[tokio::test]
async fn a_file_that_trickles_has_an_end() {
    let liar = Liar::new([head("x/y"), Act::Trickle(vec![7; 1000], Duration::from_millis(50))]);
    let reader = soon(liar.client.read_file("/x", None, None)).await.unwrap();
    let error = soon(reader.read_to_end(100_000)).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Body, .. }), "{error}");
    let liar = Liar::new([head("x/y"), Act::Hang]);
    let reader = soon(liar.client.read_file("/x", None, None)).await.unwrap();
    let error = soon(reader.read_to_end(100_000)).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Idle, .. }), "{error}");
}

fn endless_upload() -> FileBody {
    FileBody::stream(futures_util::stream::repeat_with(|| Ok(Bytes::from_static(&[7; 8192]))))
}

#[tokio::test]
async fn an_agent_that_takes_nothing_does_not_hold_an_upload() {
    let error = soon(Liar::deaf([Act::Hang]).client.write_file("/x", None, endless_upload())).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Head, .. }), "{error}");
    // And one that takes everything without an end does not either.
    let error = soon(Liar::new([Act::Hang]).client.write_file("/x", None, endless_upload())).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Head, .. }), "{error}");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_an_upload_is_heard() {
    let body = "{\"code\":507,\"message\":\"full\"}";
    let text = format!("HTTP/1.1 507 Full\r\natoll-reason: disk_full\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let error = soon(Liar::new([say(&text), Act::Hang]).client.write_file("/x", None, endless_upload())).await;
    assert_eq!(error.unwrap_err().code(), Some(Code::ResourceExhausted));
}

#[tokio::test]
async fn a_source_that_fails_is_told_as_such() {
    let broken = futures_util::stream::iter([Ok(Bytes::from("x")), Err(io::Error::other("gone"))]);
    let liar = Liar::new([Act::Hang]);
    let error = soon(liar.client.write_file("/x", None, FileBody::stream(broken))).await.unwrap_err();
    assert!(matches!(error, GuestError::Source(_)), "{error}");
    let liar = Liar::new([head(JSON), say("[]")]);
    let error = soon(liar.client.write_file("/x", None, FileBody::bytes("x"))).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "an answer that names no file: {error}");
}

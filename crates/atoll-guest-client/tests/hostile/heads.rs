//! Lies in the head of an answer, and before it.

use std::{io, time::Duration};

use atoll_guest_client::{Code, GuestClient, GuestError, Phase, dial_fn};

use crate::liar::{Act, Liar, SLACK, limits, say, soon};

fn timed_out(error: &GuestError, wanted: Phase) -> bool {
    matches!(error, GuestError::Timeout { phase, .. } if *phase == wanted)
}

#[tokio::test]
async fn a_connection_that_never_stands_is_given_up() {
    let never = dial_fn(std::future::pending);
    let client = GuestClient::new(never, None).with_limits(limits());
    let error = soon(client.health()).await.unwrap_err();
    assert!(timed_out(&error, Phase::Dial), "{error}");
    let refused = dial_fn(|| async { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) });
    let error = soon(GuestClient::new(refused, None).health()).await.unwrap_err();
    assert!(matches!(error, GuestError::Dial(_)), "{error}");
}

#[tokio::test]
async fn silence_is_given_up() {
    for liar in [Liar::new([Act::Hang]), Liar::deaf([Act::Hang]), Liar::new([say("HTTP/1.1 20"), Act::Hang])] {
        let error = soon(liar.client.health()).await.unwrap_err();
        assert!(timed_out(&error, Phase::Head), "{error}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    let liar = Liar::new([Act::Trickle(head, Duration::from_millis(30))]);
    let error = soon(liar.client.health()).await.unwrap_err();
    assert!(timed_out(&error, Phase::Head), "{error}");
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    let endless: [&[u8]; 3] = [b"x-more: and more\r\n", b"x", b"x-one: \t\t\t\t"];
    for piece in endless {
        let liar = Liar::new([say("HTTP/1.1 200 OK\r\n"), Act::Forever(piece.to_vec())]);
        let error = soon(liar.client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::TooLarge { .. } | GuestError::Protocol(_)), "{error}");
        assert!(liar.written() < SLACK, "{} bytes of head were taken", liar.written());
    }
    let many: String = (0..40).map(|i| format!("x-{i}: y\r\n")).collect();
    let liar = Liar::new([say(&format!("HTTP/1.1 200 OK\r\n{many}\r\n"))]);
    let error = soon(liar.client.health()).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_only_says_continue_is_given_up() {
    let liar = Liar::new([Act::Forever(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())]);
    let error = soon(liar.client.health()).await.unwrap_err();
    assert!(timed_out(&error, Phase::Head) || matches!(error, GuestError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_http_is_said_to_be_none() {
    for text in [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxy",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let error = soon(Liar::new([say(text)]).client.health()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_) | GuestError::Rejected { .. }), "{text:?}: {error}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let liar = Liar::new([say("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n")]);
    let error = soon(liar.client.health()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unknown), "{error}");
}

//! Lies in streams: frames, their order, their end.

use std::time::Duration;

use atoll_guest_client::{
    Code, GuestError, Phase, ProcessEvent, ProcessStream, Reason, Selector, StartRequest, WatchEvent,
};

use crate::liar::{Act, Liar, SLACK, head, limits, soon};

const STREAM: &str = "application/connect+proto";
/// `start` with pid 7, `end`, a keepalive, and output of one byte, as `StartResponse`.
const START: &[u8] = b"\x0a\x04\x0a\x02\x08\x07";
const END: &[u8] = b"\x0a\x02\x1a\x00";
const KEEPALIVE: &[u8] = b"\x0a\x02\x22\x00";
const OUTPUT: &[u8] = b"\x0a\x05\x12\x03\x0a\x01x";
/// An event from the future.
const UNKNOWN: &[u8] = b"\x0a\x04\xfa\x3f\x01x";

fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[flag], &length.to_be_bytes()[..], payload].concat()
}

fn start() -> StartRequest {
    StartRequest { cmd: "true".into(), ..StartRequest::default() }
}

/// Follows a stream of frames to its end.
async fn read(frames: &[Vec<u8>], last: Act) -> Result<Vec<ProcessEvent>, GuestError> {
    let liar = Liar::new([head(STREAM), Act::Say(frames.concat()), last]);
    let all = async {
        let mut stream = liar.client.start(&start()).await?;
        let mut events = Vec::new();
        while let Some(event) = stream.next().await? {
            events.push(event);
        }
        Ok(events)
    };
    soon(all).await
}

fn close() -> Act {
    Act::Say(Vec::new())
}

#[tokio::test]
async fn an_honest_stream_is_read_to_its_end() {
    let frames = [START, UNKNOWN, OUTPUT, KEEPALIVE, END].map(|payload| frame(0, payload));
    let events = read(&[frames.concat(), frame(2, b"{}")], close()).await.unwrap();
    assert_eq!(events.len(), 5, "{events:?}");
    assert!(matches!(events[4], ProcessEvent::Ended { exit_code: 0, signal: None, .. }));
}

#[tokio::test]
async fn a_frame_of_four_gibibytes_is_refused_by_its_head() {
    let liar = Liar::new([head(STREAM), Act::Say(vec![0, 0xff, 0xff, 0xff, 0xff]), Act::Forever(vec![0; 1000])]);
    let mut stream = soon(liar.client.start(&start())).await.unwrap();
    let error = soon(stream.next()).await.unwrap_err();
    assert!(matches!(error, GuestError::TooLarge { limit, .. } if limit == limits().frame_bytes), "{error}");
    assert!(liar.written() < SLACK, "{} bytes were taken", liar.written());
}

#[tokio::test]
async fn frames_that_break_off_are_errors() {
    let started = frame(0, START);
    for tail in [&b""[..], b"\0", b"\0\0\0", b"\0\0\0\0\x05abc"] {
        let error = read(&[started.clone(), tail.to_vec()], close()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    }
    for tail in [frame(1, OUTPUT), frame(3, b"{}"), frame(2, b"no json"), frame(0, b"\x0a\xff"), frame(2, b"{}")] {
        let error = read(&[started.clone(), tail], close()).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn events_come_in_their_order_or_not_at_all() {
    for frames in [
        vec![OUTPUT],
        vec![END],
        vec![START, START],
        vec![START, END, OUTPUT],
        vec![START, END, END],
        vec![START, END, KEEPALIVE],
    ] {
        let frames: Vec<_> = frames.into_iter().map(|payload| frame(0, payload)).collect();
        let error = read(&frames, Act::Hang).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_silent_stream_is_given_up() {
    for frames in [vec![], vec![frame(0, START)], vec![frame(0, START), b"\0\0\0\0\x05abc".to_vec()]] {
        let error = read(&frames, Act::Hang).await.unwrap_err();
        assert!(matches!(error, GuestError::Timeout { phase: Phase::Idle, .. }), "{error}");
    }
}

#[tokio::test]
async fn an_error_at_the_end_is_typed_and_bounded() {
    let words = "y".repeat(20_000);
    let end = format!(
        "{{\"error\":{{\"code\":\"invalid_argument\",\"message\":\"{words}\"}},\"metadata\":{{\"atoll-reason\":[\"bad_cwd\"]}}}}"
    );
    let error = read(&[frame(2, end.as_bytes())], close()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Some(Code::InvalidArgument), Some(Reason::BadCwd)));
    assert!(error.to_string().len() < 3000);
}

#[tokio::test]
async fn the_wrong_type_of_stream_is_refused() {
    for kind in ["application/proto", "application/connect+json", "text/html", ""] {
        let liar = Liar::new([head(kind), Act::Say(frame(0, START)), Act::Hang]);
        let error = soon(liar.client.start(&start())).await.unwrap_err();
        assert!(matches!(error, GuestError::Protocol(_)), "{kind}: {error}");
    }
}

async fn reach(stream: &mut ProcessStream, offset: u64) {
    while stream.offset() < offset {
        stream.next().await.unwrap();
    }
}

#[tokio::test]
async fn output_that_nobody_reads_costs_bounded_memory() {
    let output = [b"\x0a\xec\x07\x12\xe9\x07\x0a\xe6\x07".to_vec(), vec![b'x'; 998]].concat();
    let liar = Liar::new([head(STREAM), Act::Say(frame(0, START)), Act::Forever(frame(0, &output))]);
    let mut stream = soon(liar.client.start(&start())).await.unwrap();
    soon(reach(&mut stream, 998)).await;
    // The liar stands still once the buffers are full; only then is there nothing left to write.
    let mut before = 0;
    while before != liar.written() {
        before = liar.written();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 2 * SLACK, "{before} bytes were taken for one that was read");
    soon(reach(&mut stream, 10 << 20)).await;
}

#[tokio::test]
async fn endless_nothing_comes_back_to_its_reader() {
    for event in [KEEPALIVE, UNKNOWN, b""] {
        let liar = Liar::new([head(STREAM), Act::Say(frame(0, START)), Act::Forever(frame(0, event))]);
        let mut stream = soon(liar.client.connect(&Selector::Pid(7), 0)).await.unwrap();
        soon(async {
            stream.next().await.unwrap();
            for _ in 0..1000 {
                assert_eq!(stream.next().await.unwrap(), Some(ProcessEvent::Keepalive));
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_deadline_of_a_process_holds_on_this_side_too() {
    let alive = Act::Trickle(frame(0, KEEPALIVE).repeat(10_000), Duration::from_millis(5));
    let liar = Liar::new([head(STREAM), Act::Say(frame(0, START)), alive]);
    let deadline = StartRequest { timeout: Some(Duration::from_millis(1)), ..start() };
    let endless = async {
        let mut stream = liar.client.start(&deadline).await?;
        while stream.next().await?.is_some() {}
        Ok(())
    };
    let error: GuestError = soon(endless).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Body, .. }), "{error}");
}

#[tokio::test]
async fn a_watch_is_bounded_in_the_same_ways() {
    let event = frame(0, b"\x0a\x00");
    let liar = Liar::new([head(STREAM), Act::Say(event.clone()), Act::Hang]);
    let mut watch = soon(liar.client.watch_dir("/", false, None)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap(), Some(WatchEvent::Started));
    let error = soon(watch.next()).await.unwrap_err();
    assert!(matches!(error, GuestError::Timeout { phase: Phase::Idle, .. }), "{error}");
    let liar = Liar::new([head(STREAM), Act::Say(event), Act::Say(vec![0, 0xff, 0xff, 0xff, 0xff])]);
    let mut watch = soon(liar.client.watch_dir("/", false, None)).await.unwrap();
    soon(watch.next()).await.unwrap();
    assert!(matches!(soon(watch.next()).await, Err(GuestError::TooLarge { .. })));
}

#[tokio::test]
async fn input_that_nobody_takes_is_given_up() {
    let liar = Liar::deaf([Act::Hang]);
    let mut input = liar.client.open_input(&Selector::Pid(7), false).unwrap();
    let error = soon(async {
        loop {
            if let Err(error) = input.send(&vec![7; 32 * 1024]).await {
                return error;
            }
        }
    })
    .await;
    assert!(matches!(error, GuestError::Timeout { .. }), "{error}");
    // A refusal comes through to whoever sends, and to whoever finishes.
    let refusal = b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_vec();
    let liar = Liar::new([Act::Say(refusal)]);
    let input = liar.client.open_input(&Selector::Pid(7), true).unwrap();
    assert_eq!(soon(input.finish()).await.unwrap_err().code(), Some(Code::NotFound));
}

//! What an agent may see of a stream, and when.

use longshore_gateway::facts::Facts;
use longshore_gateway::scan::{Piece, Scan, Verdict};
use longshore_gateway::shape::Shape;
use longshore_gateway::usage::Usage;
use proptest::prelude::*;

use crate::streams::{COMPLETE, Stream, WITH_USAGE, WITHOUT_USAGE};

/// What a stream came to: bytes shown at once, bytes held, and the verdict.
#[derive(Debug, PartialEq)]
struct Seen {
    open: String,
    held: String,
    verdict: Verdict,
}

/// Scans a text that arrives in pieces of these sizes, over and over.
fn scan(shape: Shape, asked: bool, text: &str, sizes: &[usize], clean_end: bool) -> Seen {
    let (mut scan, mut rest, mut pieces) = (Scan::new(shape, asked), text.as_bytes(), Vec::new());
    for size in sizes.iter().cycle() {
        let (now, later) = rest.split_at((*size).min(rest.len()));
        pieces.extend(scan.push(now).expect("events are short"));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let (last, verdict) = scan.finish(clean_end).expect("events are short");
    let (mut open, mut held) = (Vec::new(), Vec::new());
    for piece in pieces.into_iter().chain(last) {
        match piece {
            Piece::Open(bytes) => {
                assert!(held.is_empty(), "once held, everything after is held");
                open.extend_from_slice(&bytes);
            }
            Piece::Held(bytes) => held.extend_from_slice(&bytes),
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("events are cut between characters");
    Seen { open: text(open), held: text(held), verdict }
}

/// In one piece, and cut in two at every byte, and byte by byte: the outcome is one and the same.
fn scan_every_way(shape: Shape, asked: bool, text: &str, clean_end: bool) -> Seen {
    let whole = scan(shape, asked, text, &[text.len().max(1)], clean_end);
    for cut in 1..text.len() {
        assert_eq!(scan(shape, asked, text, &[cut, text.len()], clean_end), whole, "cut at {cut}");
    }
    assert_eq!(scan(shape, asked, text, &[1], clean_end), whole, "byte by byte");
    whole
}

/// Where the event begins that holds the first occurrence of a text.
fn event_with(text: &str, needle: &str) -> usize {
    let at = text.find(needle).unwrap_or_else(|| panic!("{needle} is in the stream"));
    text[..at].rfind("\n\n").map_or(0, |end| end + 2)
}

fn complete(stream: &Stream) -> Verdict {
    let tokens = stream.tokens.map(|(input, cached, output)| Usage { input, cached, output });
    Verdict::Complete(Facts { tokens, model: Some(stream.model.into()), finish: Some(stream.finish.into()) })
}

fn check_verdict(shape: Shape, text: &str, clean_end: bool, expected: Verdict) -> Seen {
    let seen = scan_every_way(shape, true, text, clean_end);
    assert_eq!(seen.verdict, expected, "{text}");
    assert_eq!([seen.open.as_str(), &seen.held].concat(), text, "no byte is lost");
    seen
}

#[test]
fn answers_are_held_from_their_finishing_event_on() {
    for stream in COMPLETE {
        let seen = scan_every_way(stream.shape, true, stream.text, true);
        let (open, held) = stream.text.split_at(event_with(stream.text, stream.finishing));
        assert_eq!((seen.open.as_str(), seen.held.as_str()), (open, held), "{}", stream.name);
        assert_eq!(seen.verdict, complete(stream), "{}", stream.name);
    }
}

#[test]
fn other_line_ends_change_nothing() {
    for stream in COMPLETE {
        for line_end in ["\r\n", "\r"] {
            let text = stream.text.replace('\n', line_end);
            let seen = scan_every_way(stream.shape, true, &text, true);
            let open = &stream.text[..event_with(stream.text, stream.finishing)];
            assert_eq!(seen.open, open.replace('\n', line_end), "{}", stream.name);
            assert_eq!([seen.open, seen.held].concat(), text);
            assert_eq!(seen.verdict, complete(stream), "{}", stream.name);
        }
    }
}

#[test]
fn usage_that_the_agent_did_not_ask_for_is_taken_out_and_nothing_else() {
    let seen = scan_every_way(Shape::Chat, false, WITH_USAGE, true);
    assert_eq!([seen.open.as_str(), &seen.held].concat(), WITHOUT_USAGE);
    assert!(seen.held.starts_with(&WITHOUT_USAGE[event_with(WITHOUT_USAGE, "\"stop\"")..]));
    let Verdict::Complete(facts) = seen.verdict else { panic!("{:?}", seen.verdict) };
    assert_eq!(facts.tokens, Some(Usage { input: 7, cached: 0, output: 2 }));
    // Asked for, it stays; in other shapes there is nothing to take out.
    let asked = scan_every_way(Shape::Chat, true, WITH_USAGE, true);
    assert_eq!([asked.open, asked.held].concat(), WITH_USAGE);
    for stream in COMPLETE.iter().filter(|stream| matches!(stream.shape, Shape::Responses | Shape::Messages))
    {
        let seen = scan(stream.shape, false, stream.text, &[64], true);
        assert_eq!([seen.open, seen.held].concat(), stream.text);
    }
}

#[test]
fn a_stream_that_breaks_off_is_truncated_wherever_that_is() {
    for stream in COMPLETE {
        let last = stream.text.trim_end().rfind("\n\n").expect("several events") + 2;
        for cut in (0..last).filter(|cut| stream.text.is_char_boundary(*cut)) {
            let seen = scan(stream.shape, true, &stream.text[..cut], &[cut.max(1)], false);
            assert_eq!(seen.verdict, Verdict::Truncated, "{} at {cut}", stream.name);
        }
        // The final event is there: the connection's own end does not matter any more.
        let whole = scan(stream.shape, true, stream.text, &[64], false);
        assert_eq!(whole.verdict, complete(stream), "{}", stream.name);
    }
}

#[test]
fn a_clean_end_stands_in_for_the_last_event_where_the_reason_was_told() {
    let without = |stream: &Stream, last: &str| stream.text[..event_with(stream.text, last)].to_owned();
    for (stream, last) in [(&COMPLETE[1], "[DONE]"), (&COMPLETE[7], "event: message_stop")] {
        check_verdict(stream.shape, &without(stream, last), true, complete(stream));
        check_verdict(stream.shape, &without(stream, last), false, Verdict::Truncated);
    }
    let response = &COMPLETE[5];
    check_verdict(response.shape, &without(response, "event: response.completed"), true, Verdict::NoFinish);
}

#[test]
fn a_stream_without_a_finish_is_open_to_its_last_event() {
    for stream in COMPLETE {
        let start = &stream.text[..event_with(stream.text, stream.finishing)];
        let seen = check_verdict(stream.shape, start, true, Verdict::NoFinish);
        assert_eq!(seen.held, "", "{}", stream.name);
    }
    check_verdict(Shape::Chat, "data: [DONE]\n\n", true, Verdict::NoFinish);
    check_verdict(Shape::Chat, "", true, Verdict::NoFinish);
    check_verdict(Shape::Messages, "", false, Verdict::Truncated);
}

#[test]
fn half_an_event_is_never_shown() {
    let half = "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n";
    let seen = check_verdict(Shape::Chat, half, false, Verdict::Truncated);
    assert_eq!((seen.open.as_str(), seen.held.as_str()), ("", half));
}

#[test]
fn errors_inside_a_stream_are_told_and_held() {
    let anthropic = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let chat = "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"server_error\"}}\n\n";
    let response = "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"Overloaded\",\"param\":null}\n\n";
    let unnamed = "data: {\"type\":\"error\",\"code\":\"x\",\"message\":\"Overloaded\",\"param\":null}\n\n";
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\
        \"error\":{\"code\":\"server_error\",\"message\":\"Overloaded\"}}}\n\n";
    for (shape, error) in [
        (Shape::Messages, anthropic),
        (Shape::Chat, chat),
        (Shape::Responses, response),
        (Shape::Responses, unnamed),
        (Shape::Responses, failed),
    ] {
        let told = |first| Verdict::ErrorEvent { first, message: "Overloaded".into() };
        let early = [": hello\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n", error].concat();
        assert_eq!(check_verdict(shape, &early, true, told(true)).held, error);
        let stream = COMPLETE.iter().find(|stream| stream.shape == shape).expect("one of each");
        let start = &stream.text[..event_with(stream.text, stream.finishing)];
        assert_eq!(check_verdict(shape, &[start, error].concat(), false, told(false)).held, error);
        // An answer that an error follows is none, even when it looked complete.
        check_verdict(shape, &[stream.text, error].concat(), true, told(false));
    }
}

#[test]
fn an_error_that_is_no_json_is_told_as_it_is() {
    let told = Verdict::ErrorEvent { first: true, message: "upstream sent too much".into() };
    check_verdict(Shape::Chat, "event: error\ndata: upstream sent too much\n\n", true, told);
}

#[test]
fn what_cannot_be_read_finishes_nothing() {
    for text in [
        "<html>502</html>\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"\n\n",
        "data: [{\"finish_reason\":\"stop\"}]\n\n",
        "data: {\"choices\":{\"finish_reason\":\"stop\"}}\n\n",
        "data\n\nevent: message_stop\n\n: data: [DONE]\n\n",
    ] {
        check_verdict(Shape::Chat, text, true, Verdict::NoFinish);
    }
    check_verdict(
        Shape::Messages,
        "event: content_block_stop\ndata: {\"index\":0}\n\n",
        true,
        Verdict::NoFinish,
    );
    check_verdict(
        Shape::Responses,
        "event: response.output_item.done\ndata: {}\n\n",
        true,
        Verdict::NoFinish,
    );
}

#[test]
fn data_over_several_lines_is_read_as_one() {
    let text =
        "data: {\"model\":\"m\",\"choices\":[\ndata: {\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let facts = Facts { tokens: None, model: Some("m".into()), finish: Some("stop".into()) };
    assert_eq!(check_verdict(Shape::Chat, text, true, Verdict::Complete(facts)).open, "");
}

#[test]
fn an_endless_event_ends_the_scan() {
    let mut scan = Scan::limited(Shape::Chat, true, 1_000);
    let refused = (0..200).any(|_| scan.push(b"data: more\n").is_err());
    assert!(refused);
}

#[test]
fn calls_of_other_shapes_pass_at_once() {
    let mut scan = Scan::new(Shape::Plain, true);
    assert_eq!(scan.push(b"half a li").expect("passes"), [Piece::Open("half a li".into())]);
    assert_eq!(scan.finish(true).expect("passes"), (Vec::new(), Verdict::NoFinish));
}

fn any_stream() -> impl Strategy<Value = &'static Stream> {
    (0..COMPLETE.len()).prop_map(|at| &COMPLETE[at])
}

proptest! {
    #[test]
    fn nothing_at_or_after_the_finishing_event_is_open(
        stream in any_stream(), sizes in prop::collection::vec(1usize..400, 1..20), clean_end: bool,
    ) {
        let seen = scan(stream.shape, true, stream.text, &sizes, clean_end);
        prop_assert_eq!(seen.open.len(), event_with(stream.text, stream.finishing));
        prop_assert_eq!([seen.open, seen.held].concat(), stream.text);
        prop_assert_eq!(seen.verdict, complete(stream));
    }

    #[test]
    fn any_bytes_pass_unchanged_or_are_refused(
        shape in prop::sample::select(vec![Shape::Chat, Shape::Responses, Shape::Messages, Shape::Embeddings]),
        lines in prop::collection::vec("(data: |event: |:|)[ -~\n\r]{0,20}", 0..20),
        sizes in prop::collection::vec(1usize..30, 1..9),
    ) {
        let text = lines.join("\n");
        let seen = scan(shape, true, &text, &sizes, true);
        prop_assert_eq!([seen.open, seen.held].concat(), text);
    }
}

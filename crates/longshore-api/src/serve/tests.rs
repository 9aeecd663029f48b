//! Real connections to a listener that says its own body's name.

use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;

/// Long enough for a busy machine to do what it should do at once.
const SOON: Duration = Duration::from_secs(20);

/// Short, as limits of a test go.
const SHORT: Duration = Duration::from_millis(300);

const LONG: Duration = Duration::from_secs(3600);

/// What no system keeps for a reader who does not read.
const LARGE: usize = 64 << 20;

/// What answers `/held`.
type Held = mpsc::UnboundedSender<Result<Frame<Bytes>, Error>>;

struct Scene {
    addr: SocketAddr,
    room: Arc<Room>,
    held: mpsc::UnboundedReceiver<Held>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

/// Who takes an answer is waited for as long as for a request.
fn patience(head: Duration, idle: Duration) -> Patience {
    Patience { head, idle, take: idle, stall: LONG }
}

async fn scene(most: usize, head: Duration, idle: Duration) -> Scene {
    scene_in(Room::with_patience("test", most, patience(head, idle))).await
}

async fn scene_in(room: Arc<Room>) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let (holds, held) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let holds = holds.clone();
        async move { Ok::<_, Error>(Response::new(answer(request.uri().path(), &holds))) }
    });
    let its = Arc::clone(&room);
    let serving = tokio::spawn(async move {
        serve(listener, its, plain(service), async { _ = stopped.await }).await;
    });
    Scene { addr, room, held, stop: Some(stop), serving }
}

fn answer(path: &str, holds: &mpsc::UnboundedSender<Held>) -> BoxBody<Bytes, Error> {
    if path == "/large" {
        return Full::new(Bytes::from(vec![b'x'; LARGE])).map_err(Into::into).boxed();
    }
    if path != "/held" {
        return Full::new(Bytes::from_static(b"ok")).map_err(Into::into).boxed();
    }
    let (sender, body) = mpsc::unbounded_channel();
    holds.send(sender).expect("the scene lives");
    let body = Mutex::new(body);
    let frames = stream::poll_fn(move |cx| body.lock().expect("no holder panics").poll_recv(cx));
    BodyExt::boxed(StreamBody::new(frames))
}

impl Scene {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("accepted by the system")
    }

    /// A connection that has said this.
    async fn saying(&self, words: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(words.as_bytes()).await.expect("sent");
        stream
    }

    async fn ask(&self, path: &str) -> TcpStream {
        self.saying(&request(path)).await
    }

    async fn held(&mut self) -> Held {
        timeout(SOON, self.held.recv()).await.expect("in time").expect("the server lives")
    }

    async fn is_full(&self, stands: usize) {
        let end = Instant::now() + SOON;
        while self.room.taken() != stands {
            assert!(Instant::now() < end, "{} of {stands} seats are taken", self.room.taken());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// Reads until this comes; false: the connection was closed before.
async fn hears(stream: &mut TcpStream, words: &str) -> bool {
    let mut text = Vec::new();
    let read = async {
        loop {
            match stream.read_buf(&mut text).await {
                Ok(0) | Err(_) => return false,
                Ok(_) if text.windows(words.len()).any(|part| part == words.as_bytes()) => return true,
                Ok(_) => {}
            }
        }
    };
    timeout(SOON, read).await.expect("in time")
}

async fn is_closed(mut stream: TcpStream) {
    assert!(!hears(&mut stream, "anything").await, "it is closed without an answer");
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection_and_a_wait_for_one_does_not() {
    let scene = scene(10, SHORT, LONG).await;
    let mut silent = scene.connect().await;
    let mut kept = scene.ask("/").await;
    assert!(hears(&mut kept, "ok").await);
    for slow in [scene.saying("GET / HTTP/1.1\r\nHost: x\r\n").await, scene.saying("G").await] {
        is_closed(slow).await;
    }
    // A byte now and then buys no time.
    let mut dripping = scene.saying("GET / HTTP/1.1\r\nX: ").await;
    let began = Instant::now();
    while dripping.write_all(b"x").await.is_ok() && began.elapsed() < SOON {
        sleep(SHORT / 10).await;
    }
    assert!(began.elapsed() < SOON, "it was closed");
    // Both were without a word for longer than a head may take.
    for waiting in [&mut silent, &mut kept] {
        waiting.write_all(request("/").as_bytes()).await.expect("sent");
        assert!(hears(waiting, "ok").await);
    }
}

#[tokio::test]
async fn the_head_of_a_request_that_comes_with_the_one_before_has_as_much_time_as_any() {
    let scene = scene(10, SHORT, LONG).await;
    let begun = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}", "c".repeat(HEAD_SIZE - 1000));
    let mut ahead = scene.saying(&(request("/") + &begun)).await;
    assert!(hears(&mut ahead, "ok").await);
    is_closed(ahead).await;
    let mut whole = scene.saying(&(request("/") + &request("/"))).await;
    assert!(hears(&mut whole, "ok").await);
    sleep(SHORT * 2).await;
    whole.write_all(request("/").as_bytes()).await.expect("sent");
    assert!(hears(&mut whole, "ok").await, "both were answered, and none was begun");
}

#[tokio::test]
async fn a_connection_that_is_not_used_is_closed_after_a_while() {
    let scene = scene(10, LONG, SHORT).await;
    is_closed(scene.connect().await).await;
    let mut used = scene.ask("/").await;
    assert!(hears(&mut used, "ok").await);
    is_closed(used).await;
    scene.is_full(0).await;
}

#[tokio::test]
async fn an_answer_may_take_longer_than_any_wait() {
    let mut scene = scene(10, SHORT, SHORT).await;
    let mut asking = scene.ask("/held").await;
    let held = scene.held().await;
    sleep(SHORT * 3).await;
    for _ in 0..3 {
        held.send(Ok(Frame::data(Bytes::from_static(b"part")))).expect("it listens");
        assert!(hears(&mut asking, "part").await);
        sleep(SHORT * 2).await;
    }
    drop(held);
    assert!(hears(&mut asking, "0\r\n\r\n").await, "ended in order");
    // And the next wait counts from here.
    is_closed(asking).await;
}

#[tokio::test]
async fn who_waits_makes_room_for_who_comes_and_who_is_answered_does_not() {
    let mut scene = scene(3, LONG, LONG).await;
    let mut busy = scene.ask("/held").await;
    let first = scene.held().await;
    let half = scene.saying("GET /").await;
    let silent = scene.connect().await;
    scene.is_full(3).await;
    let mut new = scene.ask("/").await;
    assert!(hears(&mut new, "ok").await);
    is_closed(half).await;
    // By the time that each has waited: the next is the one that never said a word, then the one that was answered.
    let mut newer = scene.ask("/held").await;
    let _second = scene.held().await;
    is_closed(silent).await;
    let _newest = scene.ask("/held").await;
    let _third = scene.held().await;
    is_closed(new).await;
    // All are answered now.
    is_closed(scene.ask("/").await).await;
    first.send(Ok(Frame::data(Bytes::from_static(b"part")))).expect("it listens");
    assert!(hears(&mut busy, "part").await);
    drop(first);
    assert!(hears(&mut busy, "0\r\n\r\n").await);
    let mut next = scene.ask("/").await;
    assert!(hears(&mut next, "ok").await, "there is room again");
    _ = newer.shutdown().await;
}

#[tokio::test]
async fn who_reads_slowly_gets_an_answer_to_its_end_and_waits_only_then() {
    let scene = scene(1, LONG, LONG).await;
    let mut slow = scene.ask("/large").await;
    // What is taken over at once is all that there is.
    let mut rest = after_head(&mut slow).await;
    is_closed(scene.ask("/").await).await;
    let mut part = vec![0; 1 << 20];
    while rest > 0 {
        let read = timeout(SOON, slow.read(&mut part)).await.expect("in time").expect("it goes on");
        assert!(read > 0, "cut off {rest} bytes before the end");
        rest -= read;
    }
    for _ in 0..2 {
        slow.write_all(request("/").as_bytes()).await.expect("sent");
        assert!(hears(&mut slow, "ok").await, "it is kept for the next request");
    }
    let mut new = scene.ask("/").await;
    assert!(hears(&mut new, "ok").await, "and gives way when it has none");
    is_closed(slow).await;
}

#[tokio::test]
async fn who_does_not_read_the_end_of_an_answer_is_not_waited_for_without_end() {
    let scene = scene(1, LONG, SHORT).await;
    let mut deaf = scene.ask("/large").await;
    after_head(&mut deaf).await;
    scene.is_full(0).await;
}

#[tokio::test]
async fn where_answers_are_short_nobody_keeps_others_out() {
    let mut scene = scene_in(Room::of_short_answers("test", 4)).await;
    // Two that take no answer, one of which has asked for more, and two whose answers do not come.
    let deaf = [scene.saying(&request("/large").repeat(9)).await, scene.ask("/large").await];
    let mut silent = Vec::new();
    for _ in 0..2 {
        let stream = scene.ask("/held").await;
        silent.push((stream, scene.held().await));
    }
    scene.is_full(4).await;
    for _ in 0..20 {
        let mut probe = scene.ask("/").await;
        assert!(hears(&mut probe, "ok").await, "whoever is there");
    }
    for mut deaf in deaf {
        let stream = scene.ask("/held").await;
        silent.push((stream, scene.held().await));
        // What the system had taken over comes still.
        let mut nowhere = tokio::io::sink();
        let whole = timeout(SOON, tokio::io::copy(&mut deaf, &mut nowhere)).await.expect("in time");
        assert!(!whole.is_ok_and(|bytes| bytes > LARGE as u64));
    }
    let mut probe = scene.ask("/").await;
    assert!(hears(&mut probe, "ok").await);
    assert!(!hears(&mut silent[0].0, "part").await, "the one that has waited the longest went");
    for (stream, held) in &mut silent[1..] {
        held.send(Ok(Frame::data(Bytes::from_static(b"part")))).expect("it listens");
        assert!(hears(stream, "part").await);
    }
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_makes_room_after_a_while_and_who_waits_for_one_does_not() {
    let stall = Patience { stall: SHORT, ..patience(LONG, LONG) };
    let mut scene = scene_in(Room::with_patience("test", 3, stall)).await;
    let mut asking = scene.ask("/held").await;
    let held = scene.held().await;
    let mut deaf = [scene.ask("/large").await, scene.saying(&request("/large").repeat(9)).await];
    for stream in &mut deaf {
        after_head(stream).await;
    }
    let end = Instant::now() + SOON;
    loop {
        assert!(Instant::now() < end, "nobody makes room");
        let mut new = scene.ask("/").await;
        if hears(&mut new, "ok").await {
            break;
        }
    }
    held.send(Ok(Frame::data(Bytes::from_static(b"part")))).expect("it listens");
    assert!(hears(&mut asking, "part").await);
    // The others have as much time again after each bit that they take.
    scene.is_full(2).await;
}

#[tokio::test]
async fn who_is_slow_and_takes_some_of_an_answer_again_and_again_is_waited_for() {
    let take = Patience { take: 10 * SHORT, ..patience(LONG, LONG) };
    let scene = scene_in(Room::with_patience("test", 1, take)).await;
    let mut slow = scene.ask("/large").await;
    let (began, mut rest) = (Instant::now(), after_head(&mut slow).await);
    let mut part = vec![0; 512 << 10];
    while began.elapsed() < 25 * SHORT {
        let read = timeout(SOON, slow.read(&mut part)).await.expect("in time").expect("it goes on");
        assert!(read > 0, "cut off {rest} bytes before the end");
        rest -= read;
        sleep(SHORT / 3).await;
    }
    assert!(rest > LARGE / 4, "too fast to prove anything");
    while rest > 0 {
        let read = timeout(SOON, slow.read(&mut part)).await.expect("in time").expect("it goes on");
        assert!(read > 0, "cut off {rest} bytes before the end");
        rest -= read;
    }
}

#[tokio::test]
async fn a_head_may_be_large_and_not_without_end() {
    let scene = scene(10, LONG, LONG).await;
    let with = |size| format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "c".repeat(size));
    let mut kept = scene.saying(&with(HEAD_SIZE / 2)).await;
    assert!(hears(&mut kept, "ok").await);
    kept.write_all(with(HEAD_SIZE - 100).as_bytes()).await.expect("sent");
    assert!(hears(&mut kept, "ok").await);
    let mut large = scene.connect().await;
    // It may be closed before all is sent.
    _ = large.write_all(&with(HEAD_SIZE).as_bytes()[..HEAD_SIZE]).await;
    assert!(hears(&mut large, "431 Request Header Fields Too Large").await);
}

#[tokio::test]
async fn of_those_whose_requests_have_begun_only_so_many_are_waited_for() {
    let (most, room) = (room::MOST_SPEAKING, Room::with_patience("test", 10, patience(LONG, LONG)));
    let waiting = Place::new(Arc::clone(&room));
    let places: Vec<_> = (0..most + 2).map(|_| Place::new(Arc::clone(&room))).collect();
    for place in &places {
        place.heard();
    }
    let told = |place: &Arc<Place>| {
        let told = place.told_to_go();
        std::pin::pin!(told)
            .as_mut()
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
            .is_ready()
    };
    assert_eq!(places.iter().map(told).filter(|told| *told).count(), 2);
    assert!(!told(&waiting), "it holds nothing");
    assert!(!places[0].busy() && places[2].busy(), "the first");
    places[3].heard();
    let last = Place::new(Arc::clone(&room));
    last.heard();
    assert!(!told(&places[3]), "the one that came whole is no longer counted");
}

/// Reads the head of an answer to `/large`; returns how much is still to come.
async fn after_head(stream: &mut TcpStream) -> usize {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("in time").expect("it goes on"));
    }
    LARGE
}

#[tokio::test]
async fn many_times_more_than_there_are_seats_come_and_somebody_with_a_request_is_answered() {
    let scene = scene(20, LONG, LONG).await;
    let mut flood = Vec::new();
    for _ in 0..500 {
        flood.push(scene.saying("GET / HTTP/1.1\r\nHost: x\r\n").await);
    }
    let mut asking = scene.ask("/").await;
    assert!(hears(&mut asking, "ok").await);
    assert!(scene.room.taken() <= 20, "{}", scene.room.taken());
    for stream in flood.drain(..400) {
        is_closed(stream).await;
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up_and_holds_up_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let room = Room::with_patience("test", 4, patience(SHORT, LONG));
    let service = service_fn(async |_| Ok::<_, Error>(Response::new(Full::new(Bytes::from_static(b"ok")))));
    // The handshake is one byte of the client's.
    let greet = move |mut stream: TcpStream| async move {
        stream.read_u8().await?;
        Ok((stream, service))
    };
    let serving = tokio::spawn(serve(listener, room, greet, never()));
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(addr).await.expect("accepted by the system"));
    }
    let mut asking = TcpStream::connect(addr).await.expect("accepted by the system");
    asking.write_all(format!("!{}", request("/")).as_bytes()).await.expect("sent");
    assert!(hears(&mut asking, "ok").await);
    for stream in silent {
        is_closed(stream).await;
    }
    serving.abort();
}

#[tokio::test]
async fn at_the_stop_who_waits_is_closed_and_who_is_answered_is_answered_to_the_end() {
    let mut scene = scene(10, LONG, LONG).await;
    let (silent, mut kept) = (scene.connect().await, scene.ask("/").await);
    assert!(hears(&mut kept, "ok").await);
    let half = scene.saying("GET / HTTP/1.1\r\nHost: x\r\n").await;
    let mut asking = scene.ask("/held").await;
    let held = scene.held().await;
    scene.is_full(4).await;
    scene.stop.take().expect("not stopped").send(()).expect("it serves");
    is_closed(silent).await;
    is_closed(kept).await;
    is_closed(half).await;
    assert!(TcpStream::connect(scene.addr).await.is_err(), "nobody new is taken");
    assert!(!scene.serving.is_finished());
    held.send(Ok(Frame::data(Bytes::from_static(b"part")))).expect("it listens");
    assert!(hears(&mut asking, "part").await);
    drop(held);
    is_closed_after(&mut asking, "0\r\n\r\n").await;
    timeout(SOON, scene.serving).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn before_a_stop_each_answer_is_its_connections_last_and_new_ones_are_taken() {
    let mut scene = scene(10, LONG, LONG).await;
    let mut kept = scene.ask("/").await;
    assert!(hears(&mut kept, "ok").await);
    let mut asking = scene.ask("/held").await;
    let held = scene.held().await;
    scene.room.end_connections();
    drop(held);
    assert!(hears(&mut asking, "0\r\n\r\n").await);
    kept.write_all(request("/").as_bytes()).await.expect("it is kept until it is used");
    for mut stream in [kept, scene.ask("/").await] {
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("closed in time").expect("in order");
        assert!(text.contains("connection: close\r\n") && text.ends_with("ok"), "{text}");
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_word_is_found_out_by_the_system() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let (tell, mut told) = mpsc::unbounded_channel();
    let service = service_fn(async |_| Ok::<_, Error>(Response::new(Full::new(Bytes::from_static(b"ok")))));
    let greet = move |stream: TcpStream| {
        let of = SockRef::from(&stream);
        let asks = (of.keepalive(), of.tcp_keepalive_time(), of.tcp_keepalive_interval());
        let unheard = of.tcp_user_timeout().ok().flatten();
        tell.send((asks.0.ok(), asks.1.ok(), asks.2.ok(), of.tcp_keepalive_retries().ok(), unheard))
            .expect("it listens");
        std::future::ready(Ok((stream, service)))
    };
    let serving = tokio::spawn(serve(listener, Room::new("test", 4), greet, never()));
    let _stream = TcpStream::connect(addr).await.expect("accepted by the system");
    let asks = timeout(SOON, told.recv()).await.expect("in time");
    assert_eq!(asks, Some((Some(true), Some(SILENT), Some(ASK_EVERY), Some(ASK), Some(TAKE))));
    assert_eq!(TAKE, SILENT + ASK * ASK_EVERY, "whatever it is that gets no answer");
    serving.abort();
}

async fn is_closed_after(stream: &mut TcpStream, words: &str) {
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.expect("in time").expect("closed in order");
    assert!(text.ends_with(words), "{text}");
}

#[test]
fn files_are_shared_so_that_no_listener_takes_them_all() {
    let check = |files, few, many| assert_eq!(Shares::of(files), Shares { few, many }, "{files}");
    check(0, 4, 16);
    check(300, 18, 75);
    check(1024, 64, 277);
    check(524_288, 64, 174_698);
    for files in [0, 64, 100, 1000, u64::MAX] {
        let Shares { few, many } = Shares::of(files);
        let all = 2 * few as u128 + 2 * many as u128;
        assert!(few > 0 && many > few && all + (many as u128) < u128::from(files.max(64)), "{files}");
    }
}

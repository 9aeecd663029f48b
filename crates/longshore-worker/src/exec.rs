//! The exec protocol: one process per task.
//!
//! Standard input carries the task, standard output events and text, standard error log lines. Nothing here waits for
//! the agent to read or to fall silent.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_api::link::{ClaimedTask, Outcome};
use longshore_core::id::FleetName;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::time::Instant;

use crate::attempt::{Attempt, StopReceiver};
use crate::environment::{self, Environment};
use crate::folder::{Private, RunFolder};
use crate::log::{AgentLog, Source};
use crate::memory::OomCounter;
use crate::outbox::Speaker;
use crate::output::{Line, Lines, Output, Tail, TooLarge};
use crate::process::{Agent, Host, Left, Mark, Pipes};
use crate::relay::Addresses;
use crate::verdict::{self, Cause, End};

/// How long the pipes of an agent that has ended may stay open: its children may hold them for ever.
const PIPES_CLOSE: Duration = Duration::from_secs(1);

/// What is the same for every attempt of this worker.
pub struct Setting {
    pub host: &'static Host,
    pub fleet: FleetName,
    pub command: Vec<String>,
    pub environment: Environment,
    pub folders: RunFolder,
    pub oom: OomCounter,
    pub result_limit: usize,
    pub kill_grace: Duration,
    /// Where agents' calls go.
    pub addresses: Arc<Addresses>,
}

impl Setting {
    /// The agent's command with its streams as pipes; environment and folder are the caller's to add.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The task as agents read it.
#[derive(Serialize)]
pub struct TaskDocument<'a> {
    id: longshore_core::id::TaskId,
    fleet: &'a FleetName,
    attempt: u32,
    input: &'a longshore_core::json::Json,
    labels: &'a BTreeMap<String, String>,
    conversation: Option<&'a longshore_api::link::History>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    questions: &'a BTreeMap<String, longshore_api::link::Answered>,
}

impl<'a> TaskDocument<'a> {
    pub fn new(task: &'a ClaimedTask, fleet: &'a FleetName) -> TaskDocument<'a> {
        TaskDocument {
            id: task.id,
            fleet,
            attempt: task.attempt,
            input: &task.input,
            labels: &task.labels,
            conversation: task.conversation.as_ref(),
            questions: &task.questions,
        }
    }
}

fn standard_input(task: &ClaimedTask, fleet: &FleetName) -> Vec<u8> {
    #[derive(Serialize)]
    struct Document<'a> {
        longshore: u32,
        task: TaskDocument<'a>,
    }
    let document = Document { longshore: 1, task: TaskDocument::new(task, fleet) };
    let mut text = serde_json::to_vec(&document).expect("plain data always serialises");
    // A line like any other: without its end a shell's `read` fails, and what follows an echo of it is no line of its own.
    text.push(b'\n');
    text
}

/// How an attempt went, and whether all is gone that it started.
pub struct Ran {
    /// `None`: its lease is gone, so nothing may be written.
    pub outcome: Option<Outcome>,
    pub cleared: Result<(), Left>,
}

/// Runs one attempt to its end, and to the end of all that it started.
pub async fn run(setting: &Setting, attempt: Attempt, speaker: Speaker) -> Ran {
    let program = &setting.command[0];
    let failed = |error: io::Error| Some(Outcome::Failed(verdict::spawn_failed(program, &error)));
    let folder = match setting.folders.private() {
        Ok(folder) => folder,
        Err(error) => return Ran { outcome: failed(error), cleared: Ok(()) },
    };
    let (stay, mark) = (setting.host.enter(), Mark::of(&attempt.task));
    let oom_kills = setting.oom.kills();
    let outcome = match start(setting, &attempt.task, &folder).await {
        Ok((agent, pipes)) => Some(attend(setting, attempt, speaker, agent, pipes, oom_kills).await),
        Err(error) => Some(failed(error)),
    };
    // Before its end is known: the next task must not meet what watches for it.
    let cleared = stay.leave(&mark).await;
    folder.discard().await;
    Ran { outcome: outcome.flatten(), cleared }
}

async fn start(setting: &Setting, task: &ClaimedTask, folder: &Private) -> io::Result<(Agent, Pipes)> {
    let mut command = setting.command();
    let mut own = environment::of_task(task);
    own.extend(environment::of_names(setting.addresses.of_task(&task.token)));
    own.extend(environment::of_folder(folder.path()));
    setting.environment.apply(&mut command, own);
    setting.host.spawn(command).await
}

async fn attend(
    setting: &Setting,
    attempt: Attempt,
    speaker: Speaker,
    mut agent: Agent,
    pipes: Pipes,
    oom_kills: u64,
) -> Option<Outcome> {
    let Attempt { task, mut stop } = attempt;
    let timeout = Duration::from_millis(task.timeout_ms);
    let input = standard_input(&task, &setting.fleet);
    let log = AgentLog::new(Source::Attempt { task: task.id, attempt: task.attempt });
    drop(task); // its input may be large
    let (mut output, mut tail) = (Output::new(setting.result_limit), Tail::default());
    let carried = carry(pipes, input, &mut output, &mut tail, log, speaker);
    let limits = Limits { timeout, grace: setting.kill_grace, result: setting.result_limit };
    let (status, cause) = until_end(&mut agent, carried, &mut stop, limits).await;
    // Told at the last moment that the lease is gone: nothing may be written.
    let told = stop.now().map(|stop| stop.why).filter(|why| *why == crate::attempt::Why::Lost);
    let cause = told.map(Cause::Told).or(cause);
    let out_of_memory = setting.oom.kills() > oom_kills;
    verdict::of_exec(cause, &End { status, out_of_memory, last_words: tail.text() }, output)
}

#[derive(Clone, Copy)]
struct Limits {
    timeout: Duration,
    grace: Duration,
    result: usize,
}

/// Waits for the agent's end, stops it when that is due, and leaves nothing of its group behind.
async fn until_end(
    agent: &mut Agent,
    carried: impl Future<Output = Result<(), TooLarge>>,
    stop: &mut StopReceiver,
    limits: Limits,
) -> (ExitStatus, Option<Cause>) {
    let mut carried = pin!(carried);
    let mut open = true;
    let mut cause = None;
    let mut kill_at: Option<Instant> = None;
    let mut timeout = pin!(tokio::time::sleep(limits.timeout));
    let status = loop {
        tokio::select! {
            biased;
            status = agent.ended() => break status,
            done = &mut carried, if open => {
                open = false;
                if done.is_err() {
                    cause.get_or_insert(Cause::TooLarge { limit: limits.result });
                    agent.kill_group();
                }
            }
            order = stop.changed() => {
                cause.get_or_insert(Cause::Told(order.why));
                kill_at = Some(terminate(agent, order.grace, kill_at));
            }
            () = &mut timeout, if cause.is_none() => {
                cause = Some(Cause::Timeout { after_ms: limits.timeout.as_millis() as u64 });
                kill_at = Some(terminate(agent, limits.grace, kill_at));
            }
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                agent.kill_group();
                kill_at = None;
            }
        }
    };
    for patience in [PIPES_CLOSE, PIPES_CLOSE / 10] {
        if open && let Ok(done) = tokio::time::timeout(patience, &mut carried).await {
            open = false;
            if done.is_err() {
                cause.get_or_insert(Cause::TooLarge { limit: limits.result });
            }
        }
        // Then once more: what the killed had written is still to be read.
        agent.kill_group();
    }
    (status, cause)
}

/// Returns when to kill: a second order can only bring that forward.
fn terminate(agent: &Agent, grace: Duration, kill_at: Option<Instant>) -> Instant {
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    let at = Instant::now() + grace;
    kill_at.map_or(at, |earlier| earlier.min(at))
}

/// Feeds and reads the agent's streams; returns when its output is closed and its input is read or refused.
async fn carry(
    pipes: Pipes,
    input: Vec<u8>,
    output: &mut Output,
    tail: &mut Tail,
    log: AgentLog,
    speaker: Speaker,
) -> Result<(), TooLarge> {
    let log = Mutex::new(log);
    let read = async {
        let errors = async {
            read_errors(pipes.stderr, tail, &log).await;
            Ok(())
        };
        tokio::try_join!(read_output(pipes.stdout, output, &log, speaker), errors).map(drop)
    };
    // Feeding goes on when the output is closed already: an agent may answer first and read to the end later.
    tokio::try_join!(read, feed(pipes.stdin, input)).map(drop)
}

/// Writes the task; an agent need not read it, nor all of it.
async fn feed(stdin: Option<pipe::Sender>, input: Vec<u8>) -> Result<(), TooLarge> {
    if let Some(mut stdin) = stdin {
        _ = stdin.write_all(&input).await;
    }
    Ok(())
}

async fn read_output(
    stdout: Option<pipe::Receiver>,
    output: &mut Output,
    log: &Mutex<AgentLog>,
    speaker: Speaker,
) -> Result<(), TooLarge> {
    let Some(mut stdout) = stdout else { return Ok(()) };
    let too_much = AtomicBool::new(false);
    let mut tell = |line: Line| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Line::Log(line) => log.line("stdout", line),
            Line::Odd(why) => log.odd(&why),
            Line::Progress(data) => speaker.progress(data),
            Line::Message(data) => {
                let refused = speaker.message(data).is_err();
                too_much.fetch_or(refused, Ordering::Relaxed);
            }
        }
    };
    let mut buffer = vec![0; 8 << 10];
    loop {
        match stdout.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => output.push(&buffer[..n], &mut tell)?,
        }
        if too_much.load(Ordering::Relaxed) {
            return Err(TooLarge);
        }
    }
    output.finish(&mut tell)?;
    if too_much.into_inner() { Err(TooLarge) } else { Ok(()) }
}

async fn read_errors(stderr: Option<pipe::Receiver>, tail: &mut Tail, log: &Mutex<AgentLog>) {
    let Some(mut stderr) = stderr else { return };
    let mut lines = Lines::default();
    let mut tell = |line: &[u8]| log.lock().unwrap_or_else(PoisonError::into_inner).line("stderr", line);
    let mut buffer = vec![0; 8 << 10];
    loop {
        match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                tail.push(&buffer[..n]);
                lines.push(&buffer[..n], &mut tell);
            }
        }
    }
    lines.finish(&mut tell);
}

//! A server's process: started, ended, stopped and continued by its id, with all of its children.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{self, Signal};
use nix::unistd::{self, Pid};

use crate::programs::Unprivileged;

/// Longer than any server here needs, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is started, each time it is.
#[derive(Debug, Clone)]
pub struct Plan {
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Where its output goes; emptied at each start.
    pub log: PathBuf,
    pub user: Option<Unprivileged>,
    /// The signal that asks it to end by itself.
    pub end: Signal,
}

pub struct Process {
    plan: Plan,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    guard: Option<Guard>,
}

impl Process {
    /// Starts the server and waits until it, whose id it is asked with, is `ready`.
    pub fn start(plan: Plan, ready: impl FnMut(u32) -> bool) -> Process {
        let process = Process { plan, state: Mutex::default() };
        process.start_again(ready);
        process
    }

    /// Starts it after it has ended.
    pub fn start_again(&self, mut ready: impl FnMut(u32) -> bool) {
        let mut state = self.state();
        assert!(state.child.is_none(), "{} runs already", self.name());
        let plan = self.plan.clone();
        let child = on_the_lasting_thread(move || spawn(&plan));
        let child = child.unwrap_or_else(|error| panic!("could not start {}: {error}", self.name()));
        let child = state.child.insert(child);
        let id = child.id();
        let running = || child.try_wait().expect("it is our child").is_none();
        if let Err(why) = wait(running, || ready(id)) {
            panic!("{}: {why}; it said:\n{}", self.name(), self.log());
        }
    }

    /// Its id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Ends it and all of its children at once, as a crash would. It may be stopped, or have ended.
    pub fn kill(&self) {
        let mut state = self.state();
        let Some(mut child) = state.child.take() else { return };
        let parent = pid(&child);
        // Stopped, it makes no further children, and does not bury those that are killed: their ids stay theirs.
        send(parent, Signal::SIGSTOP);
        let children = children(parent);
        children.iter().for_each(|&child| send(child, Signal::SIGKILL));
        send(parent, Signal::SIGKILL);
        child.wait().expect("it is our child");
        state.guard = None;
        until("the children's end", || children.iter().all(|&child| ended(child)));
    }

    /// Asks it to end and waits until it has.
    pub fn shut_down(&self) -> Option<ExitStatus> {
        self.continue_all();
        let mut state = self.state();
        let child = state.child.as_mut()?;
        send(pid(child), self.plan.end);
        let mut status = None;
        until("its end", || {
            status = child.try_wait().expect("it is our child");
            status.is_some()
        });
        state.child = None;
        status
    }

    /// Stops it and all of its children: connections stay open, and nothing answers.
    pub fn stop_all(&self) {
        let mut state = self.state();
        let parent = pid(state.child.as_ref().expect("only a running server can be stopped"));
        send(parent, Signal::SIGSTOP);
        let children = children(parent);
        state.guard = Some(Guard::of(&children));
        children.iter().for_each(|&child| send(child, Signal::SIGSTOP));
        until("all to stand still", || {
            [parent].iter().chain(&children).all(|&process| matches!(status(process), Some('T' | 'Z') | None))
        });
    }

    /// Lets what was stopped go on.
    pub fn continue_all(&self) {
        let mut state = self.state();
        let Some(child) = &state.child else { return };
        let parent = pid(child);
        children(parent).into_iter().chain([parent]).for_each(|process| send(process, Signal::SIGCONT));
        state.guard = None;
    }

    /// What it has written since its last start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.plan.log).unwrap_or_default()).into_owned()
    }

    fn name(&self) -> String {
        self.plan.program.display().to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held is a test that failed; what it started is still to be ended.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// While children are stopped: continues them if this process ends before it did.
///
/// The server itself dies with us, stopped or not. Its children end when they notice that, which they do not while stopped.
struct Guard(Child);

impl Guard {
    fn of(children: &[Pid]) -> Guard {
        let ids: Vec<_> = children.iter().map(Pid::to_string).collect();
        let child = Command::new("sh")
            // The pipe ends when we do. Then, and not when we kill it, `read` returns.
            .args(["-c", "read -r _; [ $# -eq 0 ] || kill -CONT \"$@\"", "guard"])
            .args(ids)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A runner that ends a test ends its process group.
            .process_group(0)
            .spawn();
        Guard(child.expect("sh can be started"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Before the pipe is closed, which is a field of it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(plan: &Plan) -> io::Result<Child> {
    let log = File::create(&plan.log)?;
    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).current_dir(&plan.folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some((uid, gid)) = plan.user.and_then(Unprivileged::ids) {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    let parent = unistd::getpid();
    // SAFETY: two system calls, neither of which allocates or takes a lock.
    unsafe {
        // Runs after the change of user, which would clear the setting.
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // We may have died before the line above.
            if unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
        });
    }
    command.spawn()
}

/// "Parent" in the parent-death signal is the thread that forked. A test's thread, or one of a runtime, may end while its
/// server should live; this one never does.
fn on_the_lasting_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    type Job = Box<dyn FnOnce() + Send>;
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || queue.into_iter().for_each(|job| job()));
        jobs
    });
    let (answer, answered) = mpsc::channel();
    let job = Box::new(move || drop(answer.send(job())));
    jobs.send(job).expect("the thread never ends");
    answered.recv().expect("the job does not panic")
}

/// Waits for what should come soon; a panic if it does not.
pub fn until(what: &str, ready: impl FnMut() -> bool) {
    if let Err(why) = wait(|| true, ready) {
        panic!("waited for {what}: {why}");
    }
}

fn wait(mut running: impl FnMut() -> bool, mut ready: impl FnMut() -> bool) -> Result<(), &'static str> {
    let begin = Instant::now();
    // In this order: a server that ends while we ask must not be taken for ready.
    while !ready() {
        if !running() {
            return Err("it ended");
        }
        if begin.elapsed() > PATIENCE {
            return Err("it took too long");
        }
        thread::sleep(Duration::from_millis(5));
    }
    if running() { Ok(()) } else { Err("it ended") }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("process ids are small"))
}

/// A process that has ended meanwhile is what the sender wants or finds out next.
fn send(pid: Pid, signal: Signal) {
    let _ = signal::kill(pid, signal);
}

fn children(parent: Pid) -> Vec<Pid> {
    // Of its first thread, which is the one that forks in all servers here.
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw).collect()
}

fn ended(pid: Pid) -> bool {
    matches!(status(pid), None | Some('Z' | 'X'))
}

/// The letter of `/proc/PID/stat`; it follows the name, which may hold anything.
fn status(pid: Pid) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Runs a program to its end and gives what it printed; a panic with its complaint if it fails.
pub fn run(command: &mut Command) -> String {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().unwrap_or_else(|error| panic!("could not start {program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} failed with {:?}: {complaint}{}",
        output.status.code().or(output.status.signal()),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).expect("what is printed is UTF-8").trim_end().to_owned()
}

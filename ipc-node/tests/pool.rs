//! The pool with real workers, which are really killed.
//!
//! Workers are this test program again, as its test `worker`.

mod waiting;

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipc_node::pool::{
    Context, Handlers, Intensity, JobError, Pool, PoolBuilder, PoolError, RestartPolicy,
    as_completed,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use waiting::{PATIENCE, until, wait};

fn handlers() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.add("fail", |why: String, _: &Context<'_>| Err::<(), _>(why));
    handlers.add(
        "panic",
        |why: String, _: &Context<'_>| -> Result<(), String> { panic!("{why}") },
    );
    handlers.add(
        "die",
        |signal: i32, _: &Context<'_>| -> Result<(), String> { die(signal) },
    );
    // Dies unless the file exists; creates it.
    handlers.add("die once", |file: String, context: &Context<'_>| {
        if !Path::new(&file).exists() {
            fs::write(&file, "").map_err(|error| error.to_string())?;
            die(9);
        }
        Ok::<_, String>(context.attempt())
    });
    handlers.add(
        "hang",
        |file: String, _: &Context<'_>| -> Result<(), String> {
            fs::write(file, std::process::id().to_string()).map_err(|error| error.to_string())?;
            loop {
                thread::park();
            }
        },
    );
    handlers.add("until cancelled", |file: String, context: &Context<'_>| {
        fs::write(file, "").map_err(|error| error.to_string())?;
        while !context.is_cancelled() {
            context.progress(1, 2);
            thread::sleep(Duration::from_millis(1));
        }
        Ok::<_, String>(())
    });
    handlers.add("when there", |file: String, _: &Context<'_>| {
        while !file.is_empty() && !Path::new(&file).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok::<_, String>(())
    });
    handlers.add("eat", |mib: usize, _: &Context<'_>| -> Result<(), String> {
        let eaten = vec![1_u8; mib << 20];
        loop {
            thread::park();
            std::hint::black_box(&eaten);
        }
    });
    handlers.add("pid", |(): (), _: &Context<'_>| {
        Ok::<_, String>(std::process::id())
    });
    // Starts a program that outlives it, and reports that program's process number.
    handlers.add("have a child", |(): (), _: &Context<'_>| {
        let child = Command::new("sleep").arg("1000").spawn();
        child.map(|child| child.id())
    });
    handlers
}

fn die(signal: i32) -> ! {
    let signal = Signal::try_from(signal).expect("a signal");
    kill(Pid::this(), signal).expect("it is ours to send");
    loop {
        thread::park();
    }
}

#[test]
fn worker() {
    let mut handlers = handlers();
    handlers.add("program with a pool", |(): (), _: &Context<'_>| {
        let output = program("program_with_a_pool").output()?;
        Ok::<_, std::io::Error>(output.status.success())
    });
    handlers.work_if_worker();
}

/// A program that a worker starts.
#[test]
fn program_with_a_pool() {
    if std::env::var_os("IPC_POOL_WORKER").is_some() {
        handlers().work_if_worker();
        let pool = pool(1).start().unwrap();
        assert_eq!(wait::<u64>(pool.submit("square", &4_u64).unwrap()), Ok(16));
    }
}

fn program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

fn pool(workers: usize) -> PoolBuilder {
    Pool::builder().workers(workers).command(program("worker"))
}

/// Returns `true` if the process has ended, even if it was not reaped.
fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn said_in(file: &Path) -> i32 {
    let mut pid = None;
    until("it says its number", || {
        pid = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.parse().ok());
        pid.is_some()
    });
    pid.expect("just seen")
}

#[test]
fn a_program_that_a_worker_starts_may_have_a_pool() {
    let pool = pool(1).start().unwrap();
    let ticket = pool.submit("program with a pool", &()).unwrap();
    assert_eq!(wait(ticket), Ok(true));
}

#[test]
fn every_job_is_answered_by_its_handlers_result() {
    let pool = pool(2).start().unwrap();
    let squares = pool.map::<u64, u64>("square", 0..1000);
    assert!(squares.into_iter().eq((0..1000).map(|n| Ok(n * n))));
    let failed = wait(pool.submit::<_, ()>("fail", &"no such image").unwrap());
    assert_eq!(
        failed,
        Err(JobError::Failed {
            message: "no such image".to_owned(),
            attempts: 1,
        })
    );
    let said = |name: &str, input: &str| match wait(pool.submit::<_, ()>(name, &input).unwrap()) {
        Err(JobError::Failed { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    assert!(said("panic", "out of range").contains("out of range"));
    assert!(said("cube", "").contains("no handler \"cube\""));
    let mut places: Vec<_> = pool
        .map_unordered::<u64, u64>("square", 0..100)
        .map(|(place, square)| {
            assert_eq!(square, Ok((place * place) as u64));
            place
        })
        .collect();
    places.sort_unstable();
    assert!(places.into_iter().eq(0..100));
    pool.shutdown().unwrap();
}

#[test]
fn workers_on_demand_are_started_when_more_jobs_are_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(3).start_on_demand().start().unwrap();
    for n in 0..5_u64 {
        assert_eq!(wait(pool.submit("square", &n).unwrap()), Ok(n * n));
    }
    assert_eq!(pool.workers().len(), 1);
    let hung = ["a", "b"].map(|name| {
        let file = folder.path().join(name);
        let hung = pool.submit::<_, ()>("hang", &file.to_str().unwrap());
        until("it began", || file.exists());
        hung.unwrap()
    });
    assert_eq!(wait(pool.submit("square", &3_u64).unwrap()), Ok(9_u64));
    assert_eq!(pool.workers().len(), 3);
    assert_eq!(pool.status().unwrap().restarts, 0);
    drop(hung);
}

#[test]
fn a_map_takes_endless_inputs_as_it_returns_answers() {
    let pool = pool(2).start().unwrap();
    let taken = Cell::new(0);
    let inputs = || (0_u64..).inspect(|_| taken.set(taken.get() + 1));
    let mut squares = pool.map::<u64, u64>("square", inputs()).in_flight(10);
    for n in 0..300 {
        assert_eq!(squares.next(), Some(Ok(n * n)));
        assert!(
            taken.get() <= n + 11,
            "{} inputs for {n} answers",
            taken.get()
        );
    }
    drop(squares);
    taken.set(0);
    let unordered = pool.map_unordered::<u64, u64>("square", inputs());
    for (given, (place, square)) in unordered.take(300).enumerate() {
        assert_eq!(square, Ok((place * place) as u64));
        assert!(taken.get() <= given as u64 + 65);
    }
    pool.shutdown().unwrap();
}

#[test]
fn the_first_answer_arrives_while_other_jobs_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go").display().to_string();
    let pool = pool(2).start().unwrap();
    let inputs = [file.clone(), String::new()];
    let mut answers = pool.map_unordered::<String, ()>("when there", inputs);
    assert_eq!(answers.next(), Some((1, Ok(()))));
    fs::write(&file, "").unwrap();
    assert_eq!(answers.next(), Some((0, Ok(()))));
    assert_eq!(answers.next(), None);
    drop(answers);
    pool.shutdown().unwrap();
}

#[test]
fn a_dropped_map_cancels_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let never = folder.path().join("never").display().to_string();
    let pool = pool(2).start().unwrap();
    let inputs = [never.clone(), String::new(), never];
    let mut answers = pool.map_unordered::<String, ()>("when there", inputs);
    assert_eq!(answers.next(), Some((1, Ok(()))));
    drop(answers);
    // This would wait forever if the others still ran.
    pool.shutdown().unwrap();
}

#[test]
fn a_map_is_complete_even_if_workers_are_killed() {
    let pool = pool(3).attempt_limit(100).start().unwrap();
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            for turn in 0..20 {
                let mut victim = None;
                until("somebody is at work", || {
                    let workers = pool.status().unwrap().workers;
                    let ready: Vec<_> = workers.iter().filter(|worker| worker.ready).collect();
                    victim = ready
                        .get(turn % ready.len().max(1))
                        .map(|worker| worker.pid);
                    victim.is_some()
                });
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(victim.unwrap() as i32), Signal::SIGKILL);
            }
        });
        let tickets = (0..1000).map(|n| pool.submit::<u64, u64>("square", &n).unwrap());
        let answers: Vec<_> = as_completed(tickets.collect::<Vec<_>>()).collect();
        assert_eq!(answers.len(), 1000);
        for (n, square) in answers {
            assert_eq!(square, Ok((n * n) as u64));
        }
        killer.join().unwrap();
    });
}

#[test]
fn a_job_whose_worker_dies_is_done_by_another_worker() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(1).start().unwrap();
    let file = folder.path().join("began").display().to_string();
    let attempt = wait(pool.submit::<_, u8>("die once", &file).unwrap());
    assert_eq!(attempt, Ok(2));
    assert_eq!(pool.status().unwrap().restarts, 1);
}

#[test]
fn a_job_that_kills_every_worker_becomes_a_dead_letter_and_the_others_are_done() {
    let pool = pool(2).attempt_limit(2).start().unwrap();
    let poison: Vec<_> = (0..4)
        .map(|_| pool.submit::<_, ()>("die", &6).unwrap())
        .collect();
    let squares = pool.map::<u64, u64>("square", 0..100);
    assert!(squares.into_iter().eq((0..100).map(|n| Ok(n * n))));
    for ticket in poison {
        let answer = wait(ticket);
        let Err(JobError::Crashed {
            signal: Some(6),
            attempts: 2,
            ..
        }) = answer
        else {
            panic!("{answer:?}");
        };
    }
    assert_eq!(pool.dead_letters().len(), 4);
    until("each dead worker is replaced", || {
        pool.status().unwrap().restarts == 8
    });
}

#[test]
fn a_sigkill_from_elsewhere_is_reported_as_one() {
    let pool = pool(1).attempt_limit(1).start().unwrap();
    let answer = wait(pool.submit::<_, ()>("die", &9).unwrap());
    let Err(JobError::Crashed { note, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert!(note.contains("out of memory"), "{note}");
}

#[test]
fn a_hung_job_is_ended_with_its_worker_and_not_retried() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let after = Duration::from_millis(50);
    let pool = pool(1).job_timeout(after).start().unwrap();
    let hung = pool
        .submit::<_, ()>("hang", &file.display().to_string())
        .unwrap();
    let pid = said_in(&file);
    assert_eq!(wait(hung), Err(JobError::TimedOut { after }));
    let square = wait(pool.submit::<u64, u64>("square", &3).unwrap());
    assert_eq!(square, Ok(9));
    assert!(is_gone(pid));
    assert_eq!(pool.status().unwrap().restarts, 1);
}

#[test]
fn a_worker_that_uses_too_much_memory_is_killed_and_only_its_job_fails() {
    let most = 256 << 20;
    let pool = pool(1)
        .attempt_limit(1)
        .max_memory_bytes(most)
        .start()
        .unwrap();
    let answer = wait(pool.submit::<_, ()>("eat", &400_usize).unwrap());
    let Err(JobError::Crashed { note, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert!(
        note.contains("bytes of memory, more than 268435456"),
        "{note}"
    );
    assert_eq!(wait(pool.submit::<u64, u64>("square", &3).unwrap()), Ok(9));
}

#[test]
fn a_cancelled_job_never_begins_or_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let pool = pool(1).grace(Duration::from_millis(50)).start().unwrap();
    // The handler notices it, and its worker survives.
    let polite = pool
        .submit::<_, ()>("until cancelled", &file("polite"))
        .unwrap();
    let waiting = pool.submit::<_, ()>("hang", &file("never")).unwrap();
    until("it runs", || polite.progress() == (1, 2));
    waiting.cancel();
    polite.cancel();
    assert_eq!(wait(polite), Err(JobError::Cancelled));
    assert_eq!(wait(waiting), Err(JobError::Cancelled));
    assert_eq!(wait(pool.submit::<u64, u64>("square", &3).unwrap()), Ok(9));
    assert_eq!(pool.status().unwrap().restarts, 0);
    assert!(!Path::new(&file("never")).exists());
    // The handler does not check, so its worker is killed.
    let rude = pool.submit::<_, ()>("hang", &file("rude")).unwrap();
    let pid = said_in(Path::new(&file("rude")));
    rude.cancel();
    assert_eq!(wait(rude), Err(JobError::Cancelled));
    assert_eq!(wait(pool.submit::<u64, u64>("square", &3).unwrap()), Ok(9));
    assert!(is_gone(pid));
}

#[test]
fn a_job_that_is_not_begun_in_time_expires() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let pool = pool(1).start().unwrap();
    let busy = pool
        .submit::<_, ()>("hang", &file.display().to_string())
        .unwrap();
    said_in(&file);
    let after = Duration::from_millis(20);
    let late = pool
        .submit_expiring::<u64, u64>("square", &3, after)
        .unwrap();
    assert_eq!(wait(late), Err(JobError::Expired { after }));
    drop(busy);
}

#[test]
fn a_pool_whose_workers_cannot_start_ends_with_their_output() {
    let mut broken = Command::new("sh");
    broken.args(["-c", "echo no such library >&2; exit 3"]);
    let intensity = Intensity {
        deaths: 2,
        within: PATIENCE,
    };
    let pool = Pool::builder()
        .workers(1)
        .intensity(intensity)
        .command(broken)
        .start()
        .unwrap();
    let ticket = pool.submit::<u64, u64>("square", &3);
    let reason = match ticket.map(wait) {
        Ok(Err(JobError::PoolEnded { reason })) | Err(PoolError::Ended { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(
        reason.contains("before they were ready") && reason.contains("no such library"),
        "{reason}"
    );
    assert!(matches!(
        pool.submit::<u64, u64>("square", &3),
        Err(PoolError::Ended { .. })
    ));
    assert!(pool.wait().is_err());
}

#[test]
fn a_worker_that_never_gets_ready_is_killed() {
    let mut slow = Command::new("sleep");
    slow.arg("1000");
    let pool = Pool::builder()
        .workers(1)
        .restart(RestartPolicy::Never)
        .startup_timeout(Duration::from_millis(50))
        .command(slow)
        .start()
        .unwrap();
    let ended = pool.wait();
    assert!(matches!(ended, Err(PoolError::Ended { .. })), "{ended:?}");
}

#[test]
fn a_worker_is_replaced_after_its_number_of_jobs() {
    let pool = pool(1).max_jobs(3).start().unwrap();
    let pids = pool.map::<(), u32>("pid", [(); 9]);
    let pids: Vec<_> = pids.into_iter().map(Result::unwrap).collect();
    for of_one in pids.chunks(3) {
        assert!(of_one.iter().all(|pid| *pid == of_one[0]), "{pids:?}");
    }
    assert_ne!(pids[0], pids[3]);
    assert_ne!(pids[3], pids[6]);
}

#[test]
fn programs_started_by_a_worker_end_with_it() {
    let pool = pool(1).start().unwrap();
    let child = wait(pool.submit::<(), u32>("have a child", &()).unwrap()).unwrap();
    drop(pool);
    until("it ends", || is_gone(child as i32));
}

#[test]
fn shutdown_finishes_existing_jobs_and_accepts_no_more() {
    let pool = pool(2).start().unwrap();
    let tickets: Vec<_> = (0..200)
        .map(|n| pool.submit::<u64, u64>("square", &n).unwrap())
        .collect();
    pool.shutdown().unwrap();
    for (n, ticket) in (0..).zip(tickets) {
        assert_eq!(wait(ticket), Ok(n * n));
    }
}

#[test]
fn drain_that_takes_too_long_abandons_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let pool = pool(1)
        .drain_timeout(Duration::from_millis(50))
        .start()
        .unwrap();
    let hung = pool
        .submit::<_, ()>("hang", &file.display().to_string())
        .unwrap();
    let pid = said_in(&file);
    assert!(matches!(pool.shutdown(), Err(PoolError::Ended { .. })));
    assert!(matches!(wait(hung), Err(JobError::PoolEnded { .. })));
    assert!(is_gone(pid));
}

/// A pool in a separate process, which is killed, or told to end. Only when started by
/// `supervisor_in_a_process`.
#[test]
fn supervisor() {
    let Ok(folder) = std::env::var("POOL_TEST_FOLDER") else {
        return;
    };
    let folder = Path::new(&folder);
    let pool = pool(2).sigterm_drains().start().unwrap();
    let child = wait(pool.submit::<(), u32>("have a child", &()).unwrap()).unwrap();
    fs::write(folder.join("child"), child.to_string()).unwrap();
    let mut tickets = Vec::new();
    if folder.join("hang").exists() {
        let hung = folder.join("hung").display().to_string();
        tickets.push(pool.submit::<_, ()>("hang", &hung).unwrap());
    }
    fs::write(folder.join("pool"), std::process::id().to_string()).unwrap();
    let ended = pool.wait();
    fs::write(folder.join("ended"), format!("{ended:?}")).unwrap();
}

struct Supervisor {
    folder: tempfile::TempDir,
    process: std::process::Child,
}

impl Supervisor {
    fn start(hanging: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if hanging {
            fs::write(folder.path().join("hang"), "").unwrap();
        }
        let mut program = program("supervisor");
        program.env("POOL_TEST_FOLDER", folder.path());
        let process = program.spawn().unwrap();
        let supervisor = Self { folder, process };
        supervisor.number("pool");
        supervisor
    }

    fn number(&self, of: &str) -> i32 {
        said_in(&self.folder.path().join(of))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// Pending signals of the same kind are delivered only once.
    fn signal_was_delivered(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap_or_default();
        let pending = status.lines().filter(|line| line.contains("Pnd:"));
        pending
            .into_iter()
            .all(|line| line.ends_with("0000000000000000"))
    }

    fn end(mut self) -> String {
        self.process.wait().unwrap();
        fs::read_to_string(self.folder.path().join("ended")).unwrap_or_default()
    }
}

#[test]
fn workers_and_their_programs_end_with_a_killed_supervisor_and_leave_nothing() {
    let supervisor = Supervisor::start(true);
    let (pool, child, worker) = (
        supervisor.number("pool"),
        supervisor.number("child"),
        supervisor.number("hung"),
    );
    supervisor.signal(Signal::SIGKILL);
    supervisor.end();
    until("the worker ends", || is_gone(worker));
    until("what it started ends", || is_gone(child));
    let namespace = ipc_shm::Namespace::new("default").unwrap();
    until("nothing is left", || {
        let files = fs::read_dir(namespace.path());
        let mut names = files
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.file_name());
        !names.any(|name| name.to_string_lossy().contains(&format!("pool-{pool}-")))
    });
}

#[test]
fn sigterm_drains_and_a_second_one_kills() {
    let supervisor = Supervisor::start(false);
    supervisor.signal(Signal::SIGTERM);
    assert_eq!(supervisor.end(), "Ok(())");
    let supervisor = Supervisor::start(true);
    let hung = supervisor.number("hung");
    supervisor.signal(Signal::SIGTERM);
    until("it is delivered", || supervisor.signal_was_delivered());
    supervisor.signal(Signal::SIGTERM);
    let ended = supervisor.end();
    assert!(ended.contains("told twice"), "{ended}");
    until("the worker ends", || is_gone(hung));
}

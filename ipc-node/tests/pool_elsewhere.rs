//! Pools whose workers are threads or remote, or whose queues are elsewhere; and the content that
//! travels with their jobs.
//!
//! Worker processes run this test program, as its test `worker`.

mod waiting;

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ipc_node::pool::{
    Context, Handlers, JobError, OpenTickets, Pool, PoolBuilder, PoolError, WorkerExit,
};
use ipc_queue::SendFailure;
use ipc_queue::transport::{OpenMode, Wait};

use waiting::{PATIENCE, until, wait};

fn handlers() -> Handlers {
    let mut handlers = Handlers::new();
    handlers.add("square", |n: u64, _: &Context<'_>| Ok::<_, String>(n * n));
    handlers.add("content", |(): (), context: &Context<'_>| {
        Ok::<_, String>(context.content().to_vec())
    });
    // The first attempt works until it is killed; the next one is done at once.
    handlers.add("die once", |(): (), context: &Context<'_>| {
        while context.attempt() == 1 {
            context.progress(0, 1);
            thread::yield_now();
        }
        Ok::<_, String>((context.worker().to_owned(), context.attempt()))
    });
    // Waits until another worker is present, and returns its own name.
    handlers.add(
        "meet",
        |(ours, theirs): (String, String), context: &Context<'_>| {
            std::fs::write(ours, "").map_err(|error| error.to_string())?;
            while !Path::new(&theirs).exists() {
                thread::yield_now();
            }
            Ok::<_, String>(context.worker().to_owned())
        },
    );
    handlers.add("take", |time: Duration, context: &Context<'_>| {
        thread::sleep(time);
        Ok::<_, String>(context.attempt())
    });
    handlers
}

#[test]
fn worker() {
    let mut handlers = handlers();
    handlers.add("program with a pool", |(): (), _: &Context<'_>| {
        let output = program("program_with_a_pool").output()?;
        Ok::<_, io::Error>(output.status.success())
    });
    handlers.work_if_worker();
}

/// A program that a worker starts.
#[test]
fn program_with_a_pool() {
    if std::env::var_os("IPC_POOL_WORKER").is_some() {
        handlers().work_if_worker();
        let pool = processes().workers(1).start().unwrap();
        assert_eq!(wait::<u64>(pool.submit("square", &4_u64).unwrap()), Ok(16));
    }
}

#[test]
fn a_program_that_a_worker_starts_may_have_a_pool() {
    let pool = processes().workers(1).start().unwrap();
    let ticket = pool.submit("program with a pool", &()).unwrap();
    assert_eq!(wait(ticket), Ok(true));
}

fn program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
}

fn processes() -> PoolBuilder {
    Pool::builder().command(program("worker"))
}

/// Returns a pool at an address that no other test uses.
fn threads(name: &str) -> PoolBuilder {
    Pool::builder()
        .at(&format!("local:{name}"))
        .threads(handlers())
}

#[test]
fn threads_do_what_processes_do() {
    let pool = threads("plain").workers(3).start().unwrap();
    let squares = pool.map::<u64, u64>("square", 0..100);
    assert!(squares.into_iter().eq((0..100).map(|n| Ok(n * n))));
    pool.shutdown().unwrap();
    let left = ipc_queue::QueueOptions::new().mode(OpenMode::Open);
    assert!(left.open_bytes("local:plain.jobs").is_err());
}

#[test]
fn a_killed_worker_costs_its_job_an_attempt_as_thread_or_process() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/pool", folder.path().display());
    for builder in [threads("killed"), processes(), processes().at(&socket)] {
        let losses = Arc::new(Mutex::new(Vec::<WorkerExit>::new()));
        let told = Arc::clone(&losses);
        let builder = builder.on_worker_exit(move |loss| told.lock().unwrap().push(loss));
        let pool = builder.workers(1).start().unwrap();
        let ticket = pool.submit::<_, (String, u8)>("die once", &()).unwrap();
        let number = ticket.number();
        let mut worker = None;
        until("it is at work", || {
            let workers = pool.status().unwrap().workers;
            worker = workers.into_iter().find(|worker| worker.job.is_some());
            worker.is_some()
        });
        let worker = worker.unwrap();
        pool.kill_worker(worker.number);
        assert_eq!(wait(ticket), Ok(("worker-1".to_owned(), 2)));
        assert_eq!(pool.status().unwrap().restarts, 1);
        let losses = losses.lock().unwrap();
        assert_eq!((losses.len(), losses[0].pid), (1, worker.pid));
        assert_eq!(losses[0].job.map(|(ticket, _)| ticket), Some(number));
        assert!(losses[0].note.contains("kill_worker"), "{losses:?}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[test]
fn remote_workers_do_some_of_the_work_and_end_with_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let pool = processes().workers(1).start().unwrap();
    let remote = processes().workers(1).worker_name("remote");
    let remote = remote.at(pool.address()).join().unwrap();
    // Neither job is done unless both workers run at the same time.
    let (one, other) = ((file("1"), file("2")), (file("2"), file("1")));
    let tickets = [&one, &other].map(|who| pool.submit::<_, String>("meet", who).unwrap());
    let mut names: Vec<String> = tickets.map(|ticket| wait(ticket).unwrap()).into();
    names.sort();
    assert_eq!(names, ["remote-1", "worker-1"]);
    let status = pool.status().unwrap();
    assert!(status.workers.iter().any(|worker| worker.is_remote));
    pool.shutdown().unwrap();
    remote.wait().unwrap();
}

#[test]
fn a_remote_worker_that_dies_is_replaced_and_its_job_done() {
    let pool = processes()
        .at(&format!("shm:default/pool-remote-{}", std::process::id()))
        .workers(1)
        .start()
        .unwrap();
    let remote = processes().workers(1).worker_name("remote");
    let remote = remote.at(pool.address()).join().unwrap();
    let mut first = None;
    until("a remote worker is ready", || {
        let workers = pool.status().unwrap().workers;
        first = workers.iter().find(|worker| worker.is_remote).cloned();
        first.is_some()
    });
    // Both are kept busy; the remote worker is killed during its job.
    let tickets = [(); 2].map(|()| pool.submit::<_, (String, u8)>("die once", &()).unwrap());
    let first = first.unwrap();
    until("the remote worker is at work", || {
        let workers = pool.status().unwrap().workers;
        workers
            .iter()
            .any(|worker| worker.number == first.number && worker.job.is_some())
    });
    let pid = nix::unistd::Pid::from_raw(first.pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let own = pool.status().unwrap().workers;
    let own = own.iter().find(|worker| !worker.is_remote).unwrap().number;
    let mut open = OpenTickets::default();
    tickets.into_iter().for_each(|ticket| open.push(ticket));
    let (_, done) = open
        .next(Some(PATIENCE))
        .expect("the remote worker's job is done again");
    assert_eq!(done.map(|(_, attempt)| attempt), Ok(2));
    pool.kill_worker(own);
    let (_, done) = open.next(Some(PATIENCE)).expect("and so is the other");
    assert_eq!(done.map(|(_, attempt)| attempt), Ok(2));
    pool.shutdown().unwrap();
    remote.wait().unwrap();
}

#[test]
fn remote_workers_need_a_pool() {
    let joined = processes().at("shm:default/pool-of-nobody").join();
    assert!(matches!(joined, Err(PoolError::Queue(_))), "{joined:?}");
}

#[test]
fn content_arrives_as_it_was_written_however_much_of_its_room_was_needed() {
    for builder in [threads("content"), processes()] {
        let pool = builder.workers(1).start().unwrap();
        let submit = |room, bytes: &'static [u8]| {
            let fill = |memory: &mut [u8]| {
                memory[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            };
            pool.submit_with::<_, Vec<u8>>("content", &(), room, Wait::Forever, fill)
        };
        for (room, bytes) in [(0, &b""[..]), (5, b"bytes"), (1 << 19, b"few")] {
            assert_eq!(wait(submit(room, bytes).unwrap()).as_deref(), Ok(bytes));
        }
        let too_large = submit(1 << 30, b"");
        let refused = matches!(
            too_large,
            Err(PoolError::Send(ref error)) if matches!(error.failure, SendFailure::TooLarge { .. })
        );
        assert!(refused, "{too_large:?}");
        let unreadable = |_: &mut [u8]| Err(io::Error::other("unreadable"));
        let ticket = pool.submit_with::<_, ()>("content", &(), 9, Wait::Forever, unreadable);
        assert!(matches!(ticket, Err(PoolError::System(_))), "{ticket:?}");
        assert_eq!(pool.stats().unwrap().0.sent, 3);
    }
}

#[test]
fn a_job_buried_by_another_process_is_answered() {
    // Its workers never become ready, so none takes the job before this test.
    let mut sleeps = Command::new("sleep");
    sleeps.arg("1000");
    let pool = Pool::builder().workers(1).command(sleeps).start().unwrap();
    let ticket = pool.submit::<u64, u64>("square", &3).unwrap();
    let jobs = ipc_queue::ByteQueue::open(format!("{}.jobs", pool.address()));
    jobs.unwrap().receiver().recv().unwrap().bury().unwrap();
    let answer = wait(ticket);
    let Err(JobError::GivenUp { attempts: 1, why }) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("could not read"), "{why}");
}

#[test]
fn shutdown_messages_end_each_worker_when_the_jobs_before_are_done() {
    let pool = processes().workers(2).start().unwrap();
    let tickets: Vec<_> = (0..50)
        .map(|n| pool.submit::<u64, u64>("square", &n).unwrap())
        .collect();
    pool.close_by_message().unwrap();
    pool.wait().unwrap();
    for (n, ticket) in (0..).zip(tickets) {
        assert_eq!(wait(ticket), Ok(n * n));
    }
}

#[test]
fn a_worker_that_reports_progress_keeps_its_job_beyond_its_lease() {
    let lease = Duration::from_secs(1);
    let pool = processes().workers(2).keep_alive(lease).start().unwrap();
    let ticket = pool.submit::<_, u8>("take", &(2 * lease)).unwrap();
    assert_eq!(wait(ticket), Ok(1));
    assert_eq!(pool.stats().unwrap().0.redelivered, 0);
}

#[test]
fn a_taken_address_is_refused_and_keeps_its_owner() {
    let pool = threads("taken").workers(1).start().unwrap();
    let second = threads("taken").start();
    let Err(PoolError::Taken { owner, .. }) = second else {
        panic!("{second:?}");
    };
    assert_eq!(owner.pid, std::process::id());
    assert_eq!(wait(pool.submit::<u64, u64>("square", &3).unwrap()), Ok(9));
}

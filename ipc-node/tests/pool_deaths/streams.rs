//! Jobs without tickets, handles for other threads, and workers that return.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ipc_node::pool::{
    Intensity, JobError, JobEvent, Pool, PoolError, PoolHandle, Ticket, decode_answer,
};
use ipc_queue::transport::Wait;

use crate::support::{PATIENCE, handlers, pool, program, said_in, until, wait};

/// Returns the events of this many answered jobs, by job.
fn events(pool: &Pool, answers: usize) -> HashMap<u64, Vec<JobEvent>> {
    let mut found: HashMap<u64, Vec<JobEvent>> = HashMap::new();
    let mut answered = 0;
    while answered < answers {
        let events = pool.job_events(PATIENCE);
        assert!(
            !events.is_empty(),
            "{answered} of {answers} answers within {PATIENCE:?}"
        );
        for event in events {
            let (job, is_last) = match &event {
                JobEvent::Begun { job } => (*job, false),
                JobEvent::Answered { job, .. } => (*job, true),
                other => panic!("{other:?}"),
            };
            answered += usize::from(is_last);
            found.entry(job).or_default().push(event);
        }
    }
    found
}

#[test]
fn streamed_jobs_are_begun_and_answered_once_each() {
    let pool = pool(2).attempt_limit(2).start().unwrap();
    let mut squares = HashMap::new();
    for n in 0..100_u64 {
        let job = pool.submit_streamed("square", &n, Wait::Forever).unwrap();
        squares.insert(job, n * n);
    }
    let crash = pool
        .submit_streamed("die", &Vec::<u8>::new(), Wait::Forever)
        .unwrap();
    let mut found = events(&pool, 101);
    let crashed = found.remove(&crash).unwrap();
    let [JobEvent::Begun { .. }, JobEvent::Answered { answer, .. }] = &crashed[..] else {
        panic!("{crashed:?}");
    };
    assert!(
        matches!(answer, Err(JobError::Crashed { attempts: 2, .. })),
        "{answer:?}"
    );
    for (job, events) in found {
        let [JobEvent::Begun { .. }, JobEvent::Answered { answer, .. }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(decode_answer::<u64>(answer.clone()), Ok(squares[&job]));
    }
    assert!(pool.job_events(Duration::ZERO).is_empty());
    pool.shutdown().unwrap();
}

#[test]
fn streamed_jobs_can_be_cancelled_and_are_answered_when_the_pool_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(1).start().unwrap();
    let staying = pool.submit_streamed("stay", &file, Wait::Forever).unwrap();
    said_in(Path::new(&file));
    let waiting = pool
        .submit_streamed("square", &3_u64, Wait::Forever)
        .unwrap();
    pool.cancel(waiting);
    pool.handle().kill();
    let mut found = events(&pool, 2);
    let mut last = |job| found.remove(&job).unwrap().pop();
    let answer = Err(JobError::Cancelled);
    assert_eq!(
        last(waiting),
        Some(JobEvent::Answered {
            job: waiting,
            answer
        })
    );
    let ended = last(staying);
    let is_told = matches!(
        ended,
        Some(JobEvent::Answered {
            answer: Err(JobError::PoolEnded { .. }),
            ..
        })
    );
    assert!(is_told, "{ended:?}");
}

#[test]
fn a_handle_shuts_the_pool_down_while_its_owner_waits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(1).start().unwrap();
    let staying: Ticket<()> = pool.submit("stay", &file).unwrap();
    said_in(Path::new(&file));
    let handle: PoolHandle = pool.handle();
    let other = std::thread::spawn(move || handle.clone().shutdown());
    until("it takes no more", || {
        let refused = pool.submit::<_, u64>("square", &3_u64);
        matches!(refused, Err(PoolError::Ended { .. }))
    });
    fs::remove_file(&file).unwrap();
    assert_eq!(wait(staying), Ok(()));
    other.join().unwrap().unwrap();
    pool.wait().unwrap();
}

/// A worker with work to do at its end. Does nothing unless a pool started it.
#[test]
fn worker_that_returns() {
    if let Some(code) = handlers().work_to_end() {
        let folder = std::env::var("POOL_TEST_FOLDER").unwrap();
        let file = Path::new(&folder).join(std::process::id().to_string());
        fs::write(file, "goodbye").unwrap();
        std::process::exit(code);
    }
}

#[test]
fn a_worker_that_returns_has_time_for_its_own_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program("streams::worker_that_returns");
    command.env("POOL_TEST_FOLDER", folder.path());
    let pool = Pool::builder().workers(2).max_jobs(1).command(command);
    let pool = pool.start().unwrap();
    let squares = pool.map::<u64, u64>("square", 0..4);
    assert!(squares.into_iter().eq((0..4).map(|n| Ok(n * n))));
    pool.shutdown().unwrap();
    let said = fs::read_dir(folder.path()).unwrap().count();
    assert!(said >= 4, "{said}");
}

/// A worker that never finishes its end. Does nothing unless a pool started it.
#[test]
fn worker_that_lingers() {
    if handlers().work_to_end().is_some() {
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_worker_that_never_finishes_ending_is_killed_at_the_drain_timeout() {
    let pool = Pool::builder()
        .workers(1)
        .drain_timeout(Duration::from_millis(300))
        .command(program("streams::worker_that_lingers"));
    let pool = pool.start().unwrap();
    let ticket: Ticket<u64> = pool.submit("square", &3_u64).unwrap();
    assert_eq!(wait(ticket), Ok(9));
    let handle = pool.handle();
    let other = std::thread::spawn(move || pool.shutdown());
    until("it has ended", || handle.has_ended());
    until("its threads have ended", || other.is_finished());
    let ended = other.join().unwrap();
    assert!(matches!(ended, Err(PoolError::Ended { .. })), "{ended:?}");
}

#[test]
fn a_pool_whose_thread_panics_still_answers_its_tickets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(2)
        .intensity(Intensity {
            deaths: 100,
            ..Intensity::default()
        })
        .on_worker_exit(|loss| panic!("{loss:?}"));
    let pool = pool.start().unwrap();
    let staying: Ticket<()> = pool.submit("stay", &file).unwrap();
    said_in(Path::new(&file));
    let crash: Ticket<()> = pool.submit("die", &Vec::<u8>::new()).unwrap();
    for ticket in [staying, crash] {
        let answer = wait(ticket);
        assert!(
            matches!(answer, Err(JobError::PoolEnded { .. })),
            "{answer:?}"
        );
    }
    assert!(matches!(
        pool.shutdown(),
        Err(PoolError::Control(_) | PoolError::Ended { .. })
    ));
}

//! A queue of jobs that is full, and dead letters, which do not fill it.

use std::time::Duration;

use ipc_node::pool::{DeadLetterLimit, JobError, Pool, PoolError, SubmitError, Ticket};
use ipc_queue::DeadReason;

use crate::support::{PATIENCE, pool, say_in, until, wait};

fn crash(pool: &Pool, input: &[u8]) {
    let ticket: Ticket<()> = pool.submit_timeout("die", input, PATIENCE).unwrap();
    let answer = wait(ticket);
    assert!(
        matches!(answer, Err(JobError::Crashed { .. })),
        "{answer:?}"
    );
}

#[test]
fn crashed_jobs_take_no_places_of_the_queue() {
    let pool = pool(1).capacity(4).attempt_limit(1).start().unwrap();
    for _ in 0..10 {
        crash(&pool, b"");
    }
    let ticket: Ticket<u64> = pool.submit_timeout("square", 3_u64, PATIENCE).unwrap();
    assert_eq!(wait(ticket), Ok(9));
    assert_eq!(
        (pool.dead_letters().len(), pool.stats().unwrap().0.dead),
        (10, 0)
    );
    assert!(
        pool.dead_letters()
            .iter()
            .all(|letter| letter.signal == Some(9))
    );
    pool.shutdown().unwrap();
}

#[test]
fn large_crashed_jobs_take_no_memory_of_the_queue() {
    const MB: usize = 1_000_000;
    let pool = pool(1).attempt_limit(1).start().unwrap();
    // With default settings the queue has memory for fewer of them.
    for _ in 0..6 {
        crash(&pool, &vec![1; MB]);
    }
    let ticket = pool.submit_timeout("length", vec![1_u8; MB], PATIENCE);
    assert_eq!(wait::<(usize, u8)>(ticket.unwrap()), Ok((MB, 1)));
}

#[test]
fn a_blocked_submit_continues_when_crashed_jobs_leave_the_queue() {
    let pool = pool(1).capacity(2).attempt_limit(1).start().unwrap();
    let tickets: Vec<Ticket<()>> = (0..8)
        .map(|_| pool.submit_timeout("die", &b""[..], PATIENCE).unwrap())
        .collect();
    for ticket in tickets {
        let answer = wait(ticket);
        assert!(
            matches!(answer, Err(JobError::Crashed { .. })),
            "{answer:?}"
        );
    }
}

#[test]
fn a_full_queue_returns_the_job_at_once_or_after_the_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(1).capacity(1).start().unwrap();
    let staying = pool.submit::<_, ()>("stay", &file).unwrap();
    let refused = pool.try_submit::<_, u64>("square", 3_u64);
    let Err(SubmitError {
        input: 3, failure, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    let is_full = matches!(failure, PoolError::NoRoom { .. });
    assert!(is_full, "{failure:?}");
    let refused = pool.submit_timeout::<_, u64>("square", 3_u64, Duration::from_millis(10));
    let Err(SubmitError {
        input: 3, failure, ..
    }) = refused
    else {
        panic!("{refused:?}");
    };
    let is_late = matches!(failure, PoolError::NoRoom { .. });
    assert!(is_late, "{failure:?}");
    until("it stays", || std::fs::remove_file(&file).is_ok());
    let ticket = pool.submit_timeout::<_, u64>("square", 3_u64, PATIENCE);
    assert_eq!(wait(ticket.unwrap()), Ok(9));
    assert_eq!(wait(staying), Ok(()));
}

#[test]
fn dead_letters_are_listed_requeued_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go").display().to_string();
    let pool = pool(1).capacity(2).attempt_limit(1).start().unwrap();
    for _ in 0..3 {
        let answer = wait(pool.submit::<_, ()>("die unless", &file).unwrap());
        assert!(
            matches!(answer, Err(JobError::Crashed { .. })),
            "{answer:?}"
        );
    }
    let letters = pool.dead_letters();
    assert!(
        letters
            .iter()
            .all(|letter| letter.reason == DeadReason::Crashed)
    );
    say_in(file.as_ref(), 1);
    let again = pool.requeue_dead_letter::<()>(letters[0].id).unwrap();
    assert_eq!(wait(again.unwrap()), Ok(()));
    assert!(pool.discard_dead_letter(letters[1].id));
    assert!(!pool.discard_dead_letter(letters[1].id));
    assert!(
        pool.requeue_dead_letter::<()>(letters[0].id)
            .unwrap()
            .is_none()
    );
    assert_eq!(pool.dead_letters(), &letters[2..]);
}

#[test]
fn a_dead_letter_stays_if_the_queue_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(1).capacity(1).attempt_limit(1).start().unwrap();
    crash(&pool, b"");
    let _staying = pool.submit::<_, ()>("stay", &file).unwrap();
    let letters = pool.dead_letters();
    let refused = pool.requeue_dead_letter::<()>(letters[0].id);
    let is_full = matches!(refused, Err(PoolError::NoRoom { .. }));
    assert!(is_full, "{refused:?}");
    assert_eq!(pool.dead_letters(), letters);
}

#[test]
fn the_oldest_dead_letters_are_dropped_and_counted_when_there_are_too_many() {
    let limit = DeadLetterLimit {
        letters: 2,
        ..DeadLetterLimit::default()
    };
    let pool = pool(1).attempt_limit(1).dead_letter_limit(limit);
    let pool = pool.start().unwrap();
    for size in 0..5 {
        crash(&pool, &vec![1; size]);
    }
    let status = pool.status().unwrap();
    assert_eq!((status.dead_letters, status.dropped_dead_letters), (2, 3));
    let sizes: Vec<_> = pool
        .dead_letters()
        .iter()
        .map(|letter| letter.payload.len())
        .collect();
    assert_eq!(sizes[1], sizes[0] + 1);
}

#[test]
fn letters_that_are_not_jobs_take_no_places_either() {
    let pool = pool(1).capacity(2).start().unwrap();
    let jobs = ipc_queue::ByteQueue::open(format!("{}.jobs", pool.address())).unwrap();
    for _ in 0..2 {
        jobs.sender().send(b"\xff").unwrap();
    }
    until("a worker buries them", || {
        pool.stats().unwrap().0.buried == 2
    });
    let ticket = pool.submit_timeout("square", 3_u64, PATIENCE);
    assert_eq!(wait::<u64>(ticket.unwrap()), Ok(9));
    until("they are the pool's", || pool.dead_letters().len() == 2);
}

#[test]
fn a_job_buried_by_another_process_is_answered_even_by_an_idle_pool() {
    // A worker that takes no jobs and never ends, so only the job itself can make the pool look.
    let mut command = std::process::Command::new("sleep");
    command.arg("3600");
    let builder = Pool::builder().workers(1).command(command);
    let pool = builder.startup_timeout(PATIENCE * 10).start().unwrap();
    let jobs = ipc_queue::ByteQueue::open(format!("{}.jobs", pool.address())).unwrap();
    for pause_ms in [0, 1_500] {
        // The result does not depend on this pause. After it the pool has most probably stopped
        // looking.
        std::thread::sleep(Duration::from_millis(pause_ms));
        let ticket: Ticket<u64> = pool.submit("square", &3_u64).unwrap();
        jobs.receiver().recv().unwrap().bury().unwrap();
        let answer = wait(ticket);
        assert!(
            matches!(answer, Err(JobError::GivenUp { .. })),
            "{answer:?}"
        );
    }
}

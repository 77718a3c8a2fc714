//! How jobs end when workers, remote workers or the pool end.

use std::fs;
use std::path::Path;

use ipc_node::pool::{
    JobError, Pool, PoolBuilder, PoolError, RemoteWorkers, RestartPolicy, Ticket,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{pool, program, said_in, until, wait};

#[test]
fn shutdown_replaces_workers_that_reach_their_number_of_jobs_while_jobs_are_left() {
    let pool = pool(3).max_jobs(1).start().unwrap();
    let tickets: Vec<Ticket<u64>> = (0..6_u64)
        .map(|n| pool.submit("square", &n).unwrap())
        .collect();
    pool.shutdown().unwrap();
    let answers: Vec<_> = tickets.into_iter().map(wait).collect();
    assert!(answers.into_iter().eq((0..6).map(|n| Ok(n * n))));
}

#[test]
fn shutdown_by_message_also_finishes_all_jobs() {
    let pool = pool(3).max_jobs(1).start().unwrap();
    let tickets: Vec<Ticket<u64>> = (0..9_u64)
        .map(|n| pool.submit("square", &n).unwrap())
        .collect();
    pool.close_by_message().unwrap();
    pool.wait().unwrap();
    let answers: Vec<_> = tickets.into_iter().map(wait).collect();
    assert!(answers.into_iter().eq((0..9).map(|n| Ok(n * n))));
}

#[test]
fn shutdown_is_an_error_when_a_ticket_ended_unanswered() {
    let pool = pool(1).max_jobs(1).restart(RestartPolicy::Never);
    let pool = pool.start().unwrap();
    let tickets: Vec<Ticket<u64>> = (0..3_u64)
        .map(|n| pool.submit("square", &n).unwrap())
        .collect();
    let ended = pool.shutdown();
    let Err(PoolError::Ended { reason }) = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("2 jobs"), "{reason}");
    let unanswered = tickets.into_iter().map(wait);
    let unanswered = unanswered.filter(|answer| matches!(answer, Err(JobError::PoolEnded { .. })));
    assert_eq!(unanswered.count(), 2);
}

#[test]
fn shutdown_is_an_error_when_a_job_was_purged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("stays").display().to_string();
    let pool = pool(1).start().unwrap();
    let staying: Ticket<()> = pool.submit("stay", &file).unwrap();
    said_in(Path::new(&file));
    let purged: Ticket<u64> = pool.submit("square", &3_u64).unwrap();
    let jobs = ipc_queue::ByteQueue::open(format!("{}.jobs", pool.address())).unwrap();
    assert_eq!(jobs.transport().purge().unwrap(), 1);
    fs::remove_file(&file).unwrap();
    let ended = pool.shutdown();
    let Err(PoolError::Ended { reason }) = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("1 jobs"), "{reason}");
    assert_eq!(wait(staying), Ok(()));
    assert!(matches!(wait(purged), Err(JobError::PoolEnded { .. })));
}

#[test]
fn an_ended_pool_still_reports_its_work_and_its_reason() {
    let pool = pool(1).start().unwrap();
    let ticket: Ticket<u64> = pool.submit("square", &3_u64).unwrap();
    assert_eq!(wait(ticket), Ok(9));
    pool.handle().shutdown().unwrap();
    let status = pool.status().unwrap();
    assert_eq!((status.waiting, status.ended.is_some()), (0, true));
    assert_eq!(pool.stats().unwrap().0.acked, 1);
    // It counts as closed, although its queue is gone.
    pool.close().unwrap();
    pool.shutdown().unwrap();
}

/// A pool whose own worker is busy, so that the next job goes to a remote worker.
struct BusyPool {
    folder: tempfile::TempDir,
    pool: Pool,
    remote: RemoteWorkers,
    busy: Ticket<()>,
}

impl BusyPool {
    fn start(builder: PoolBuilder, jobs_of_remote: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = builder.start().unwrap();
        let file = folder.path().join("own").display().to_string();
        let busy = pool.submit("stay", &file).unwrap();
        said_in(Path::new(&file));
        let remote = Pool::builder()
            .workers(1)
            .max_jobs(jobs_of_remote)
            .worker_name("remote")
            .command(program("support::worker"))
            .at(pool.address())
            .join()
            .unwrap();
        Self {
            folder,
            pool,
            remote,
            busy,
        }
    }

    fn end(self) {
        fs::remove_file(self.folder.path().join("own")).unwrap();
        assert_eq!(wait(self.busy), Ok(()));
        self.pool.shutdown().unwrap();
        self.remote.wait().unwrap();
    }
}

#[test]
fn a_job_whose_remote_worker_died_is_crashed_over_shared_memory_and_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/pool", folder.path().display());
    for builder in [pool(1), pool(1).at(&socket)] {
        let busy = BusyPool::start(builder.attempt_limit(1), 0);
        let file = busy.folder.path().join("remote").display().to_string();
        let doomed: Ticket<()> = busy.pool.submit("stay", &file).unwrap();
        let remote = said_in(Path::new(&file));
        until("the pool knows who has it", || {
            let workers = busy.pool.workers();
            workers
                .iter()
                .any(|worker| worker.is_remote && worker.job.is_some())
        });
        kill(Pid::from_raw(remote), Signal::SIGKILL).unwrap();
        let answer = wait(doomed);
        let Err(JobError::Crashed { attempts, note, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(attempts, 1);
        assert!(
            note.contains("remote-1") && note.contains(&remote.to_string()),
            "{note}"
        );
        busy.end();
    }
}

#[test]
fn remote_workers_are_replaced_after_their_number_of_jobs() {
    let busy = BusyPool::start(pool(1), 1);
    for n in 0..3_u64 {
        let ticket: Ticket<u64> = busy.pool.submit("square", &n).unwrap();
        assert_eq!(wait(ticket), Ok(n * n));
    }
    busy.end();
}

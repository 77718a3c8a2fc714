//! The number of attempts at a job, by the way in which they fail.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ipc_node::pool::{JobError, Pool, PoolBuilder, RetryPolicy, Ticket};
use ipc_queue::Backoff;
use tempfile::TempDir;

use crate::support::{handlers, pool, runs_in, until, wait};

/// Returns a policy with many attempts after errors, without pauses.
fn patient() -> RetryPolicy {
    RetryPolicy::new().errors(12).backoff(Backoff::None)
}

/// A job whose attempts end as planned, and the file that counts them.
struct Planned {
    folder: TempDir,
    ticket: Ticket<u8>,
}

impl Planned {
    fn submit(pool: &Pool, plan: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs").display().to_string();
        let plan: Vec<_> = plan.iter().map(ToString::to_string).collect();
        let ticket = pool.submit("as planned", &(file, plan)).unwrap();
        Self { folder, ticket }
    }

    /// Returns its answer, and how often the handler ran.
    fn end(self) -> (Result<u8, JobError>, u64) {
        let answer = wait(self.ticket);
        (answer, runs_in(&self.folder.path().join("runs")))
    }
}

fn failed<T>(message: &str, attempts: u8) -> Result<T, JobError> {
    let message = message.to_owned();
    Err(JobError::Failed { message, attempts })
}

fn tried(policy: RetryPolicy, plan: &[&str]) -> (Result<u8, JobError>, u64) {
    let pool = pool(1).retry(policy).start().unwrap();
    let end = Planned::submit(&pool, plan).end();
    pool.shutdown().unwrap();
    end
}

#[test]
fn a_failing_function_does_not_run_twice_by_default() {
    let pool = pool(1).start().unwrap();
    let error = Planned::submit(&pool, &["error", "ok"]).end();
    assert_eq!(error, (failed("the database is away", 1), 1));
    let (panic, runs) = Planned::submit(&pool, &["panic", "ok"]).end();
    assert!(matches!(panic, Err(JobError::Failed { attempts: 1, .. })));
    assert_eq!(runs, 1);
}

#[test]
fn errors_are_retried_until_an_attempt_succeeds() {
    let plan = ["error", "error", "error", "ok"];
    assert_eq!(tried(patient(), &plan), (Ok(4), 4));
}

#[test]
fn the_last_error_is_the_answer_with_the_number_of_attempts() {
    let (answer, runs) = tried(patient().errors(3), &["error"; 9]);
    assert_eq!((&answer, runs), (&failed("the database is away", 3), 3));
    let text = answer.unwrap_err().to_string();
    assert!(text.contains("at attempt 3"), "{text}");
}

#[test]
fn panics_have_a_limit_of_their_own() {
    let (answer, runs) = tried(patient().panics(2), &["error", "panic", "ok"]);
    assert!(matches!(answer, Err(JobError::Failed { attempts: 2, .. })));
    assert_eq!(runs, 2);
    let plan = ["panic", "error", "error", "ok"];
    assert_eq!(tried(patient().panics(2), &plan), (Ok(4), 4));
}

#[test]
fn a_handler_can_forbid_retries() {
    let plan = ["error", "final", "ok"];
    assert_eq!(tried(patient(), &plan), (failed("no such image", 2), 2));
}

#[test]
fn deaths_of_workers_have_a_separate_limit() {
    let twice = patient().crashes(2);
    let plan = ["error", "die", "error", "error", "ok"];
    assert_eq!(tried(twice.clone(), &plan), (Ok(5), 5));
    let (answer, runs) = tried(twice, &["error", "die", "error", "die", "ok"]);
    let Err(JobError::Crashed { attempts, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((attempts, runs), (4, 4));
    let (answer, runs) = tried(RetryPolicy::new().crashes(1), &["die", "ok"]);
    assert!(matches!(answer, Err(JobError::Crashed { attempts: 1, .. })));
    assert_eq!(runs, 1);
}

fn runs_of_all_jobs(folder: &TempDir) -> u64 {
    runs_in(&folder.path().join("runs"))
}

fn outlasts_an_outage(pool: PoolBuilder) {
    // The outage ends after far fewer attempts than the policy allows.
    let policy = RetryPolicy::new().errors(200);
    let policy = policy.backoff(Backoff::Fixed(Duration::from_millis(100)));
    let pool = pool.retry(policy).start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let text = |name: &str| path(name).display().to_string();
    let submit = |_| pool.submit("need", &(text("database"), text("runs")));
    let tickets: Vec<Ticket<()>> = (0..10).map(submit).collect::<Result<_, _>>().unwrap();
    until("each job failed twice", || runs_of_all_jobs(&folder) >= 20);
    fs::write(path("database"), "").unwrap();
    assert!(tickets.into_iter().map(wait).all(|answer| answer == Ok(())));
    assert!(pool.dead_letters().is_empty());
    pool.shutdown().unwrap();
}

#[test]
fn every_job_outlasts_an_outage() {
    outlasts_an_outage(pool(2));
}

#[test]
fn every_job_outlasts_an_outage_in_threads() {
    outlasts_an_outage(Pool::builder().workers(2).threads(handlers()));
}

#[test]
fn every_job_outlasts_an_outage_behind_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/pool", folder.path().display());
    outlasts_an_outage(pool(2).at(&address));
}

#[test]
fn a_draining_pool_waits_for_retried_jobs() {
    let policy = patient().backoff(Backoff::Fixed(Duration::from_millis(50)));
    let pool = pool(1).retry(policy).start().unwrap();
    let jobs: Vec<_> = (0..3)
        .map(|_| Planned::submit(&pool, &["error", "error", "ok"]))
        .collect();
    pool.shutdown().unwrap();
    assert!(jobs.into_iter().all(|job| job.end() == (Ok(3), 3)));
}

#[test]
fn a_cancelled_job_is_not_retried() {
    let policy = patient().backoff(Backoff::Fixed(Duration::from_millis(50)));
    let pool = pool(1).retry(policy).start().unwrap();
    let job = Planned::submit(&pool, &["error"; 12]);
    let runs = job.folder.path().join("runs");
    until("it ran", || runs_in(&runs) >= 1);
    job.ticket.cancel();
    // A later job has ended, so this one was taken and not run.
    pool.shutdown().unwrap();
    assert!(runs_in(&runs) < 12, "{}", runs_in(&runs));
    assert_eq!(job.end().0, Err(JobError::Cancelled));
}

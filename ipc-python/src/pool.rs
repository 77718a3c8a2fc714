//! The supervised pool of worker processes, for the executor.
//!
//! There are no callbacks: a callback that takes the interpreter's lock under the pool's lock would
//! deadlock with a thread that submits. The executor's own thread polls for events instead. So a
//! job can be submitted without releasing the interpreter's lock if the queue has room: no thread
//! that waits for the interpreter's lock holds any of the locks on the way.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_node::pool::{
    Handlers, JobError, JobEvent, Pool, PoolBuilder, PoolError, RestartPolicy, decode_answer,
};
use ipc_queue::transport::Wait;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_bytes::{ByteBuf, Bytes};

use crate::arguments::{Seconds, named};
use crate::errors;
use crate::payload::{DETACH_FROM, Payload};
use crate::waiting::{self, Limit, resume_watcher, seconds};

/// The name of the only handler: it runs a pickled call.
const HANDLER: &str = "call";

/// Worker processes that run pickled calls.
#[pyclass(frozen, module = "ipc_queue._ipc", weakref)]
pub struct RawPool {
    /// `None` only while it is being dropped.
    pool: Option<Arc<Pool>>,
    /// The number of forks before the process that started it.
    forks: u64,
    /// The Python future of each open job. Nothing is dropped while this is locked, because
    /// dropping may run any code.
    open: Mutex<HashMap<u64, Py<PyAny>>>,
}

/// The outcome of a job, for Python: `(future, what, detail, signal, attempts)`. The detail is the
/// answer if the job is done, and otherwise says why not.
type Event = (Py<PyAny>, &'static str, Py<PyAny>, Option<i32>, u8);

impl RawPool {
    fn pool(&self, py: Python<'_>) -> PyResult<&Arc<Pool>> {
        resume_watcher();
        if self.forks != waiting::forks() {
            let text = "this process was forked from the one that has the pool: make another one";
            return Err(errors::new(py, "Forked", &text, &[]));
        }
        let pool = self.pool.as_ref();
        pool.ok_or_else(|| errors::new(py, "PoolEnded", &"the pool ended", &[]))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Py<PyAny>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries once to submit. A job that was not submitted is not in the table.
    fn try_submit(
        &self,
        pool: &Pool,
        input: &Bytes,
        future: &mut Option<Py<PyAny>>,
        wait: Wait,
    ) -> Result<u64, PoolError> {
        let mut number = None;
        let submitted = pool.submit_streamed_with(HANDLER, &input, wait, |job| {
            number = Some(job);
            if let Some(future) = future.take() {
                self.open().insert(job, future);
            }
        });
        if let (Err(_), Some(job)) = (&submitted, number) {
            *future = self.open().remove(&job);
        }
        submitted
    }

    /// Converts an event of an open job for Python.
    fn to_python(&self, py: Python<'_>, event: JobEvent) -> PyResult<Option<Event>> {
        let (job, answer) = match event {
            JobEvent::Begun { job } => {
                let future = self.open().get(&job).map(|future| future.clone_ref(py));
                return Ok(future.map(|future| (future, "begun", py.None(), None, 0)));
            }
            JobEvent::Answered { job, answer } => (job, answer),
            _ => return Ok(None),
        };
        let Some(future) = self.open().remove(&job) else {
            return Ok(None);
        };
        let error = match decode_answer::<ByteBuf>(answer) {
            Ok(answer) => {
                let bytes = PyBytes::new(py, &answer).into_any().unbind();
                return Ok(Some((future, "done", bytes, None, 0)));
            }
            Err(error) => error,
        };
        let (what, signal, attempts) = match &error {
            JobError::Failed { .. } | JobError::Decode { .. } => ("failed", None, 0),
            JobError::Crashed {
                signal, attempts, ..
            } => ("died", *signal, *attempts),
            JobError::GivenUp { attempts, .. } => ("died", None, *attempts),
            JobError::TimedOut { .. } => ("timed out", None, 0),
            JobError::Cancelled | JobError::Expired { .. } => ("cancelled", None, 0),
            _ => ("ended", None, 0),
        };
        let text = error.to_string().into_pyobject(py)?.into_any().unbind();
        Ok(Some((future, what, text, signal, attempts)))
    }
}

#[pymethods]
impl RawPool {
    /// Starts workers with a command.
    #[new]
    fn new(
        py: Python<'_>,
        workers: usize,
        command: Vec<String>,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        resume_watcher();
        let mut program = Command::new(&command[0]);
        program.args(&command[1..]);
        let mut builder = Pool::builder().workers(workers);
        for (name, value) in settings {
            let name = name.extract::<String>()?;
            builder = with_setting(builder, &mut program, &name, &value)
                .map_err(|error| named(&name, &value, error))?;
        }
        let builder = builder.command(program);
        let started = py.detach(|| builder.start());
        let pool = started.map_err(|error| errors::of_pool(py, &error))?;
        Ok(Self {
            pool: Some(Arc::new(pool)),
            forks: waiting::forks(),
            open: Mutex::default(),
        })
    }

    /// Submits a call and returns its number. Its events carry `future`.
    #[pyo3(signature = (call, future, timeout = None))]
    fn submit(
        &self,
        py: Python<'_>,
        call: &Bound<'_, PyAny>,
        future: Py<PyAny>,
        timeout: Option<Seconds>,
    ) -> PyResult<u64> {
        let pool = self.pool(py)?;
        let payload = Payload::of(call)?;
        let input = Bytes::new(payload.bytes());
        let mut future = Some(future);
        if input.len() <= DETACH_FROM {
            match self.try_submit(pool, input, &mut future, Wait::No) {
                Err(error) if is_full(&error) => {}
                submitted => return submitted.map_err(|error| errors::of_pool(py, &error)),
            }
        }
        let limit = Limit::new(timeout)?;
        let future = Mutex::new(future);
        let attempt = |wait| {
            let mut future = future.lock().unwrap_or_else(PoisonError::into_inner);
            self.try_submit(pool, input, &mut future, wait)
        };
        let submitted = waiting::until(py, limit, attempt, is_full)?;
        submitted.map_err(|error| errors::of_pool(py, &error))
    }

    /// Returns the outcomes of jobs since the last call. Waits for at most `timeout` seconds.
    fn events(&self, py: Python<'_>, timeout: Seconds) -> PyResult<Vec<Event>> {
        let pool = self.pool(py)?;
        let time = seconds("timeout", timeout)?;
        let events = py.detach(|| pool.job_events(time));
        let answered = |event: &JobEvent| match event {
            JobEvent::Answered { job, .. } => Some(*job),
            _ => None,
        };
        let answered: HashSet<u64> = events.iter().filter_map(answered).collect();
        // The start of a job does not matter once the job is answered.
        let is_news = |event: &JobEvent| match event {
            JobEvent::Begun { job } => !answered.contains(job),
            _ => true,
        };
        events
            .into_iter()
            .filter(is_news)
            .filter_map(|event| self.to_python(py, event).transpose())
            .collect()
    }

    /// Returns the futures of the open jobs.
    fn open_futures(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let open = self.open();
        open.values().map(|future| future.clone_ref(py)).collect()
    }

    /// Returns the futures of the open jobs, and forgets them.
    fn forget_open(&self) -> Vec<Py<PyAny>> {
        let open = std::mem::take(&mut *self.open());
        open.into_values().collect()
    }

    /// Cancels a job. A worker that runs it is killed after the pool's grace period.
    fn cancel(&self, py: Python<'_>, job: u64) -> PyResult<()> {
        let pool = self.pool(py)?;
        py.detach(|| pool.cancel(job));
        Ok(())
    }

    /// Returns the workers: `(number, name, pid, ready, job, jobs done)`.
    #[expect(clippy::type_complexity, reason = "a row for Python")]
    fn workers(&self, py: Python<'_>) -> PyResult<Vec<(u64, String, u32, bool, Option<u64>, u64)>> {
        let workers = self.pool(py)?.workers().into_iter();
        let rows = workers.map(|worker| {
            let job = worker.job.map(|(job, _)| job);
            let name = worker.name;
            (
                worker.number,
                name,
                worker.pid,
                worker.ready,
                job,
                worker.jobs_done,
            )
        });
        Ok(rows.collect())
    }

    fn kill_worker(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.pool(py)?.kill_worker(number);
        Ok(())
    }

    /// Accepts no more jobs, and ends when the existing ones are done.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let pool = self.pool(py)?;
        let closed = py.detach(|| pool.close());
        closed.map_err(|error| errors::of_control(py, &error))
    }

    /// Kills the workers. Open jobs are answered.
    fn kill(&self, py: Python<'_>) -> PyResult<()> {
        self.pool(py)?.handle().kill();
        Ok(())
    }

    #[getter]
    fn has_ended(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.pool(py)?.has_ended())
    }

    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.pool(py)?.address().to_owned())
    }

    /// Waits until the pool has ended. Returns the reason if it ended abnormally.
    fn wait(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let pool = self.pool(py)?;
        let handle = pool.handle();
        let ended = py.detach(|| handle.wait());
        Ok(ended.err().map(|error| error.to_string()))
    }
}

impl Drop for RawPool {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else {
            return;
        };
        if self.forks != waiting::forks() {
            // In a forked copy its threads do not exist, and its workers are the parent's.
            std::mem::forget(pool);
            return;
        }
        Python::attach(|py| py.detach(|| drop(pool)));
    }
}

fn with_setting(
    builder: PoolBuilder,
    program: &mut Command,
    name: &str,
    value: &Bound<'_, PyAny>,
) -> PyResult<PoolBuilder> {
    let time = || -> PyResult<Duration> { seconds(name, value.extract()?) };
    Ok(match name {
        "max_jobs" => builder.max_jobs(value.extract()?),
        "job_timeout" => builder.job_timeout(time()?),
        "attempts" => builder.attempt_limit(value.extract()?),
        "capacity" => builder.capacity(value.extract()?),
        "message_bytes" => {
            let (largest, all) = value.extract()?;
            builder.message_bytes(largest, all)
        }
        "startup_timeout" => builder.startup_timeout(time()?),
        "grace" => builder.grace(time()?),
        "drain_timeout" => builder.drain_timeout(time()?),
        "max_memory" => builder.max_memory_bytes(value.extract()?),
        "at" => builder.at(&value.extract::<String>()?),
        "namespace" => builder.namespace(&value.extract::<String>()?),
        "restart" if value.extract::<bool>()? => builder,
        "restart" => builder.restart(RestartPolicy::Never),
        "on_demand" if value.extract::<bool>()? => builder.start_on_demand(),
        "on_demand" => builder,
        "environment" => {
            program.envs(value.extract::<Vec<(String, String)>>()?);
            builder
        }
        other => {
            return Err(PyTypeError::new_err(format!(
                "no setting {other:?} of a pool"
            )));
        }
    })
}

fn is_full(error: &PoolError) -> bool {
    matches!(error, PoolError::NoRoom { .. })
}

/// In a process that a pool started, runs calls until the pool ends, and returns the exit code for
/// the process. Returns `None` if this is not a worker.
#[pyfunction]
pub fn work(py: Python<'_>, call: Py<PyAny>) -> Option<i32> {
    let mut handlers = Handlers::new();
    handlers.add(HANDLER, move |input: ByteBuf, context| {
        Python::attach(|py| -> Result<ByteBuf, String> {
            let input = PyBytes::new(py, &input);
            let answered = call.call1(py, (input, context.attempt()));
            let answer = answered.map_err(|error| error.to_string())?;
            let answer = answer.bind(py);
            let payload = Payload::of(answer).map_err(|error| error.to_string())?;
            Ok(ByteBuf::from(payload.bytes()))
        })
    });
    py.detach(|| handlers.work_to_end())
}

//! The jobs of a run, and the effect of answers on them.
//!
//! A job is a file or a simulated task. A file larger than the largest message is sent part by
//! part. Each part carries the fingerprint so far. So any worker can do it, and do it again if
//! another died over it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::fingerprint::{Fingerprint, Progress};
use crate::input::Input;
use crate::task::{Answer, Work};

/// One job.
#[derive(Debug)]
pub struct Job {
    source: Source,
    state: State,
}

#[derive(Debug)]
enum Source {
    File { path: PathBuf, bytes_hint: u64 },
    Simulated { text: String, takes: Duration },
}

#[derive(Debug)]
enum State {
    /// Some parts remain.
    Open(Progress),
    Done(Result<Done, String>),
}

/// The result of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A file's fingerprint.
    Fingerprint(Fingerprint),
    /// A simulated task's result.
    Text(String),
}

/// The effect of an answer on its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The job is done.
    Done,
    /// Its next part can be sent.
    NextPart,
}

impl Job {
    /// A job that fingerprints a file.
    #[must_use]
    pub fn file(input: Input) -> Self {
        let (bytes_hint, state) = match input.bytes_hint {
            Ok(bytes) => (bytes, State::Open(Progress::default())),
            Err(problem) => (0, State::Done(Err(problem))),
        };
        Self {
            source: Source::File {
                path: input.path,
                bytes_hint,
            },
            state,
        }
    }

    /// A job that takes some time and answers with a text.
    #[must_use]
    pub fn simulated(text: String, takes: Duration) -> Self {
        Self {
            source: Source::Simulated { text, takes },
            state: State::Open(Progress::default()),
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.source {
            Source::File { path, .. } => path.display().to_string(),
            Source::Simulated { text, .. } => text.clone(),
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.source {
            Source::File { path, .. } => Some(path),
            Source::Simulated { .. } => None,
        }
    }

    /// Its result, once there is one.
    #[must_use]
    pub fn result(&self) -> Option<&Result<Done, String>> {
        match &self.state {
            State::Open(_) => None,
            State::Done(result) => Some(result),
        }
    }

    /// Gives the job up.
    pub fn fail(&mut self, reason: String) {
        self.state = State::Done(Err(reason));
    }

    /// The work for the next part.
    #[must_use]
    pub fn work(&self) -> Work {
        match (&self.source, &self.state) {
            (Source::File { .. }, State::Open(progress)) => Work::Fingerprint(progress.clone()),
            _ => Work::Echo,
        }
    }

    /// The shortest time that this takes.
    #[must_use]
    pub fn at_least(&self) -> Duration {
        match &self.source {
            Source::File { .. } => Duration::ZERO,
            Source::Simulated { takes, .. } => *takes,
        }
    }

    /// The content of the next part, and its maximum length, as far as that is known.
    ///
    /// # Errors
    /// The system's error about the file.
    pub fn content(&self) -> io::Result<(Box<dyn Read + '_>, u64)> {
        match (&self.source, &self.state) {
            (Source::Simulated { text, .. }, _) => {
                Ok((Box::new(text.as_bytes()), text.len() as u64))
            }
            (Source::File { path, bytes_hint }, State::Open(progress)) => {
                let mut file = open(path)?;
                let done = progress.bytes();
                if done > 0 {
                    file.seek(SeekFrom::Start(done))?;
                }
                Ok((Box::new(file), bytes_hint.saturating_sub(done)))
            }
            (Source::File { .. }, State::Done(_)) => Ok((Box::new(io::empty()), 0)),
        }
    }

    /// Applies the answer to its present part; `is_last` means that no other part follows.
    pub fn answered(&mut self, answer: Answer, is_last: bool) -> Step {
        let done = match answer {
            Answer::Text(text) => Done::Text(text),
            Answer::Fingerprint(progress) if is_last => Done::Fingerprint(progress.finish()),
            Answer::Fingerprint(progress) => {
                self.state = State::Open(progress);
                return Step::NextPart;
            }
        };
        self.state = State::Done(Ok(done));
        Step::Done
    }
}

/// Reads until `room` is full, or the content ends. Returns the number of bytes.
///
/// # Errors
/// An error of `from`.
pub fn read_fully(from: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < room.len() {
        match from.read(&mut room[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A file that was found may be something else by now, such as a fifo, on which opening and reading
/// could hang.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlag::O_NONBLOCK.bits();
    let file = File::options()
        .read(true)
        .custom_flags(at_once)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no longer a file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes_hint: Result<u64, String>) -> Input {
        Input {
            path: "some file".into(),
            bytes_hint,
        }
    }

    #[test]
    fn each_part_continues_where_the_previous_one_ended() {
        let mut job = Job::file(input(Ok(10)));
        let mut progress = Progress::default();
        progress.update(b"hello ");
        let first = Answer::Fingerprint(progress.clone());
        assert_eq!(job.answered(first, false), Step::NextPart);
        assert_eq!(job.work(), Work::Fingerprint(progress.clone()));
        progress.update(b"you\n");
        let last = Answer::Fingerprint(progress);
        assert_eq!(job.answered(last, true), Step::Done);
        match job.result() {
            Some(Ok(Done::Fingerprint(print))) => assert_eq!((print.words, print.bytes), (2, 10)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn content_is_read_to_its_end_or_as_far_as_there_is_room() {
        let mut room = [0; 4];
        assert_eq!(read_fully(&mut &b"abc"[..], &mut room).unwrap(), 3);
        let mut halves = (&b"ab"[..]).chain(&b"cdef"[..]);
        assert_eq!(read_fully(&mut halves, &mut room).unwrap(), 4);
        assert_eq!(&room, b"abcd");
    }

    #[test]
    fn an_unreadable_file_is_done_with_a_reason() {
        let job = Job::file(input(Err("no permission".to_owned())));
        assert_eq!(job.result(), Some(&Err("no permission".to_owned())));
    }
}

//! A number is not an identity: a process that loses its descriptor, a file that is deleted by
//! other code, clocks that differ. Also, tools always find a slot.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipc_queue::conformance::number_in;
use ipc_queue::shm::Inspector;
use ipc_queue::transport::{AttachAs, OpenMode, OpenRequest, Wait};
use ipc_queue::{
    ByteQueue, ControlFailure, DrainError, Name, NoRoom, QueueError, QueueSettings, RecvFailure,
    SendFailure, SendOptions, SendTimeoutError, ShmQueue, TryRecvError, TrySendError, Unavailable,
};
use ipc_shm::{JoinError, Namespace};

use crate::stage::{
    HOUR, LARGEST, PATIENCE, SMALL, Stage, expect_message, listen, say, settings, stats,
};

/// Plays the role of a test's other process.
pub fn play(open: impl Fn() -> ByteQueue, role: &str) {
    let queue = open();
    match role {
        "lose" => lose_descriptor(queue, open),
        "lose-blocked" => lose_descriptor_while_blocked(&queue),
        "wait" => wait_while_it_is_deleted(&queue),
        "try" => try_while_it_is_deleted(&queue),
        "clock" => use_in_time_namespace(&queue),
        other => panic!("there is no role {other:?}"),
    }
}

// --- Descriptors ---------------------------------------------------------------------------------

/// Closes the queue's descriptor by mistake. The next file that is opened gets its number.
fn lose() -> RawFd {
    let open = fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap);
    let is_queue = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().ends_with("/jobs.queue"))
    };
    let mut found = open.filter(is_queue);
    let number = found.next().unwrap().file_name().to_str().unwrap().parse();
    let number = number.unwrap();
    let mut log = tempfile::tempfile_in("/dev/shm").unwrap();
    log.write_all(b"short").unwrap();
    // SAFETY: takes only numbers. The test checks what happens to the code that relies on one of
    // them.
    assert_eq!(unsafe { libc::dup2(log.as_raw_fd(), number) }, number);
    number
}

fn lose_descriptor(queue: ByteQueue, open: impl Fn() -> ByteQueue) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let held = receiver.recv().unwrap();
    let loan = sender.loan(SMALL).unwrap();
    let descriptor = lose();
    let control = |error: ipc_queue::ControlError| match error.failure {
        ControlFailure::Unavailable(cause) => cause,
        other => panic!("{other}"),
    };
    let wanted = Unavailable::DescriptorLost { descriptor };
    // This process's watcher notices it within one slice.
    let error = loop {
        match queue.transport().stats() {
            Ok(_) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    let text = error.to_string();
    assert!(
        text.contains(&format!("descriptor {descriptor}")) && text.contains("open the queue again")
    );
    assert_eq!(control(error), wanted);
    let send = SendFailure::from(wanted.clone());
    let receive = RecvFailure::from(wanted.clone());
    let refused = sender.try_send(b"x").unwrap_err();
    assert_eq!(refused.failure(), Some(&send));
    let refused = sender.send(b"x").unwrap_err();
    assert!(refused.queue.ends_with("/jobs"), "{refused}");
    assert_eq!(refused.failure, send);
    assert_eq!(sender.send(&[1; LARGEST]).unwrap_err().failure, send);
    assert_eq!(loan.publish().unwrap_err().failure, send);
    assert_eq!(receiver.try_recv().unwrap_err().failure(), Some(&receive));
    assert_eq!(receiver.recv().unwrap_err().failure, receive);
    assert_eq!(held.ack().unwrap_err().failure, wanted.clone().into());
    match queue.transport().drain(Wait::No) {
        Err(DrainError::Control(error)) => assert_eq!(control(error), wanted),
        other => panic!("{other:?}"),
    }
    drop((sender, receiver, queue));
    say("let go");
    listen();
    // Follows the error's advice.
    let again = open();
    again.sender().try_send(b"x").unwrap();
    again.receiver().try_recv().unwrap().ack().unwrap();
}

#[test]
fn only_the_process_that_closed_its_descriptor_gets_an_error_and_no_message_is_lost() {
    let stage = Stage::new(&settings(200));
    let queue = stage.open();
    let (sender, receiver) = (queue.sender(), queue.receiver());
    for number in 0..100_u64 {
        sender
            .send(&ipc_queue::conformance::content(number, SMALL))
            .unwrap();
    }
    let mut clumsy = stage.start("identity lose");
    clumsy.expect("let go");
    assert!(!queue.transport().is_closed().unwrap());
    // The process's messages were returned when it gave up the queue, although it lives.
    let counts = stats(&queue);
    assert_eq!((counts.ready, counts.leased, counts.writing), (100, 0, 0));
    let newcomer = stage.open();
    let mut numbers: Vec<_> = (0..100)
        .map(|_| {
            let delivery = receiver.recv_timeout(PATIENCE).unwrap();
            let number = number_in(delivery.payload());
            delivery.ack().unwrap();
            number
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    stage.assert_all_free(&newcomer);
    let end = clumsy.end();
    assert!(end.success(), "{end}");
}

fn lose_descriptor_while_blocked(queue: &ByteQueue) {
    let thread = nix::unistd::gettid();
    let receiver = queue.receiver();
    thread::scope(|scope| {
        let descriptor = scope.spawn(move || {
            let call = format!("/proc/self/task/{thread}/syscall");
            let asleep = format!("{} ", libc::SYS_futex);
            while !fs::read_to_string(&call).unwrap().starts_with(&asleep) {
                thread::yield_now();
            }
            lose()
        });
        let error = receiver.recv().unwrap_err();
        let descriptor = descriptor.join().unwrap();
        assert_eq!(
            error.failure,
            Unavailable::DescriptorLost { descriptor }.into()
        );
    });
    say("told");
}

#[test]
fn a_blocked_receiver_gets_an_error_when_its_process_loses_the_descriptor() {
    let stage = Stage::new(&settings(8));
    let mut clumsy = stage.start("identity lose-blocked");
    clumsy.expect("told");
    let end = clumsy.end();
    assert!(end.success(), "{end}");
    stage.assert_all_free(&stage.open());
}

// --- PIDs ----------------------------------------------------------------------------------------

#[test]
fn a_queue_used_in_another_pid_namespace_counts_as_in_use() {
    let test = "a_queue_used_in_another_pid_namespace_counts_as_in_use";
    let flags = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let possible = Command::new("unshare").args(flags).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: {test}: no PID namespaces here");
        return;
    }
    let stage = Stage::new(&settings(8));
    let folder = stage.file().parent().unwrap().parent().unwrap().to_owned();
    let namespace = Namespace::in_folder(folder, "test").unwrap();
    let inspector = Inspector::open(&namespace, &Name::new("jobs").unwrap()).unwrap();
    assert!(!inspector.is_in_use());
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap());
    let mut there = stage.start_by(command, "puppet");
    there.expect("ready");
    assert!(inspector.is_in_use());
    there.kill();
    // The processes started there end with it, a moment later. No process frees their slots.
    while inspector.is_in_use() {
        thread::yield_now();
    }
    assert_eq!(inspector.participants().len(), 1);
}

// --- Names ---------------------------------------------------------------------------------------

fn wait_while_it_is_deleted(queue: &ByteQueue) {
    let receiver = queue.receiver();
    say(&format!("blocking {}", nix::unistd::gettid()));
    let error = receiver.recv().unwrap_err();
    assert_eq!(error.failure, Unavailable::Deleted.into());
    assert!(error.to_string().contains("RemoveIPC"), "{error}");
    say("deleted");
}

fn try_while_it_is_deleted(queue: &ByteQueue) {
    let sender = queue.sender();
    say("ready");
    let error = loop {
        match sender.try_send(b"x") {
            Ok(_) | Err(TrySendError::Full { .. }) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.failure(), Some(&Unavailable::Deleted.into()));
    let error = queue.transport().stats().unwrap_err();
    let deleted = ControlFailure::Unavailable(Unavailable::Deleted);
    assert_eq!(error.failure.to_string(), deleted.to_string());
    say("deleted");
}

#[test]
fn a_queue_deleted_by_a_cleaner_is_an_error_for_waiting_and_other_calls() {
    let stage = Stage::new(&settings(8));
    let mut waits = stage.start("identity wait");
    waits.asleep();
    fs::remove_file(stage.file()).unwrap();
    waits.expect("deleted");
    // Follows the error's advice.
    let request = OpenRequest {
        settings: settings(8),
        mode: OpenMode::Create,
        ..OpenRequest::default()
    };
    let folder = stage.file().parent().unwrap().parent().unwrap().to_owned();
    let namespace = Namespace::in_folder(&folder, "test").unwrap();
    let create = || ShmQueue::open(&namespace, &Name::new("jobs").unwrap(), &request).unwrap();
    drop(create());
    let mut tries = stage.start("identity try");
    tries.expect("ready");
    fs::remove_dir_all(&folder).unwrap();
    tries.expect("deleted");
    drop(create());
    for process in [waits, tries] {
        let end = process.end();
        assert!(end.success(), "{end}");
    }
}

// --- Clocks --------------------------------------------------------------------------------------

/// Runs with its clock a million seconds ahead.
fn use_in_time_namespace(queue: &ByteQueue) {
    let (sender, receiver) = (queue.sender(), queue.receiver());
    // The first expires after an hour, which is not over. The other is still delayed.
    expect_message(&receiver, 1, 1).ack().unwrap();
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    let soon = SendOptions::new().delay(Duration::from_millis(1));
    let content = ipc_queue::conformance::content(3, SMALL);
    sender
        .send_with(&content, &soon.clone().wait(Wait::No))
        .unwrap();
    say("sent");
    listen();
}

#[test]
fn delays_and_expiries_last_as_long_in_every_time_namespace() {
    let flags = ["--time", "--monotonic", "1000000", "--fork", "--kill-child"];
    let possible = Command::new("unshare").args(flags).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: delays_and_expiries_last_as_long_in_every_time_namespace: not permitted here"
        );
        return;
    }
    let stage = Stage::new(&settings(8));
    let queue = stage.open();
    let (sender, receiver) = (queue.sender(), queue.receiver());
    let content = |number| ipc_queue::conformance::content(number, SMALL);
    let expiring = SendOptions::new().expires_in(HOUR);
    let delayed = SendOptions::new().delay(HOUR);
    sender
        .send_with(&content(1), &expiring.clone().wait(Wait::No))
        .unwrap();
    sender
        .send_with(&content(2), &delayed.clone().wait(Wait::No))
        .unwrap();
    let mut command = Command::new("unshare");
    command.args(flags).arg(std::env::current_exe().unwrap());
    let mut there = stage.start_by(command, "identity clock");
    there.expect("sent");
    // It must not expire within eleven days.
    expect_message(&receiver, 3, 1).ack().unwrap();
    assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Empty));
    assert_eq!(stats(&queue).delayed, 1);
    let end = there.end();
    assert!(end.success(), "{end}");
}

// --- Slots ---------------------------------------------------------------------------------------

#[test]
fn a_tool_can_attach_when_the_maximum_number_of_processes_is_attached() {
    let few = QueueSettings {
        max_participants: 2,
        ..settings(4)
    };
    let stage = Stage::new(&few);
    let folder = stage.file().parent().unwrap().parent().unwrap().to_owned();
    let namespace = Namespace::in_folder(folder, "test").unwrap();
    let open = |attach_as| {
        let request = OpenRequest {
            mode: OpenMode::Open,
            settings: few.clone(),
            attach_as,
            ..OpenRequest::default()
        };
        ShmQueue::open(&namespace, &Name::new("jobs").unwrap(), &request)
    };
    let _all = [stage.open(), stage.open()];
    let error = open(AttachAs::Participant).unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Join(JoinError::Full {
                slots: 2,
                attached: 2,
                ..
            })
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("max_participants") && text.contains("2 processes"),
        "{text}"
    );
    let tools = [(); 8].map(|()| open(AttachAs::Tool).unwrap());
    assert!(open(AttachAs::Tool).is_err());
    let tool = ByteQueue::over(std::sync::Arc::new(tools[7].clone()));
    tool.sender().send(b"by a tool").unwrap();
    tool.receiver().recv().unwrap().bury().unwrap();
    let letter = tool.transport().dead_letters().unwrap().pop().unwrap();
    assert!(tool.transport().requeue(letter.id).unwrap());
    tool.transport().pause().unwrap();
    tool.transport().resume().unwrap();
    assert_eq!(tool.transport().purge().unwrap(), 1);
}

#[test]
fn a_send_timeout_says_whether_places_or_payload_memory_were_missing() {
    let small_pool = QueueSettings {
        pool_bytes: 5056,
        ..settings(4)
    };
    let stage = Stage::new(&small_pool);
    let queue = stage.open();
    let sender = queue.sender();
    let soon = Duration::from_millis(1);
    let full = loop {
        match sender.send_timeout(&[1; LARGEST], soon) {
            Ok(_) => {}
            Err(full) => break full,
        }
    };
    let bytes = LARGEST as u64;
    assert!(
        matches!(full, SendTimeoutError::TimedOut { missing: NoRoom::Memory { bytes: b }, .. } if b == bytes),
        "{full}"
    );
    assert!(full.to_string().contains("pool_bytes"), "{full}");
    while sender.try_send(b"small").is_ok() {}
    let full = sender.send_timeout(b"small", soon).unwrap_err();
    assert!(
        matches!(
            full,
            SendTimeoutError::TimedOut {
                missing: NoRoom::Places { .. },
                ..
            }
        ),
        "{full}"
    );
    assert!(full.to_string().contains("capacity"), "{full}");
    assert!(queue.transport().purge().unwrap() > 0);
}

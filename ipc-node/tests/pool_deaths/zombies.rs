//! A pool that is PID 1 reaps the processes that its workers leave behind, and no other children.

use std::process::{Command, Stdio};

use ipc_node::pool::Ticket;

use crate::support::{in_pid_namespace, pool, program, until, wait};
use crate::unreaped::zombies;

/// Does nothing unless it is PID 1.
#[test]
fn pool_as_pid_1() {
    if std::process::id() != 1 {
        return;
    }
    let mut ours = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    until("our own child ends", || zombies() == 1);
    let pool = pool(2).attempt_limit(1).start().unwrap();
    for _ in 0..3 {
        let orphans: Ticket<bool> = pool.submit("leave orphans", &()).unwrap();
        assert_eq!(wait(orphans), Ok(true));
    }
    // First those that have ended while their workers continue.
    until("adopted zombies are waited for", || zombies() == 1);
    // Then those that end with their workers.
    let crash: Ticket<()> = pool.submit("die", &b"".to_vec()).unwrap();
    assert!(wait(crash).is_err());
    pool.shutdown().unwrap();
    until("all are waited for", || zombies() == 1);
    assert_eq!(ours.wait().unwrap().code(), Some(7));
}

#[test]
fn a_pool_as_pid_1_leaves_no_zombies_and_takes_no_foreign_exit_status() {
    let Some(mut command) = in_pid_namespace(&program("zombies::pool_as_pid_1")) else {
        return;
    };
    let ended = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

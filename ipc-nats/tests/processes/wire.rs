//! A wire to a server. It forwards bytes until a message goes to the work queue, or a record is
//! written, and none after that.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipc_nats::testing::TestServer;

/// The last message that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Work,
    Places,
    /// The deletion of a record: an ack.
    Ack,
    /// The message that creates the first stream of a queue.
    NewStream,
}

/// Tells whether the server still gets that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Before,
    After,
}

pub struct Wire {
    port: u16,
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    pub fn to(server: &TestServer, to: To, cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let is_cut = Arc::new(AtomicBool::new(false));
        let (host, known) = (server.host(), Arc::clone(&is_cut));
        // The thread ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&host) else {
                    continue;
                };
                let ends = (client.try_clone(), server.try_clone());
                let (Ok(to_client), Ok(from_server)) = ends else {
                    continue;
                };
                let (one, other) = (Arc::clone(&known), Arc::clone(&known));
                thread::spawn(move || carry(client, server, &one, Some((to, cut))));
                thread::spawn(move || carry(from_server, to_client, &other, None));
            }
        });
        Self { port, is_cut }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }
}

/// Forwards until either end is gone, then closes the other.
fn carry(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool, cut: Option<(To, Cut)>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..len];
        let was_cut = is_cut.load(Ordering::SeqCst);
        let cuts = cut.is_some_and(|(to, _)| !was_cut && goes(to, bytes));
        let cut = cut.map(|(_, cut)| cut);
        if cuts && cut == Some(Cut::After) {
            // Set before the server can see the message, or it would be confirmed.
            is_cut.store(true, Ordering::SeqCst);
        }
        let is_lost = was_cut || (cuts && cut == Some(Cut::Before));
        if !is_lost && to.write_all(bytes).is_err() {
            break;
        }
        if cuts {
            is_cut.store(true, Ordering::SeqCst);
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn goes(to: To, bytes: &[u8]) -> bool {
    let (subject, stream) = match to {
        To::Work => ("HPUB ipc-", "-work-"),
        To::Places => ("HPUB ipc-", "-places-"),
        To::Ack => ("PUB $JS.API.STREAM.MSG.DELETE.ipc-", "-places-"),
        To::NewStream => ("PUB $JS.API.STREAM.CREATE.ipc-", ""),
    };
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    lines.any(|line| line.starts_with(subject) && line.contains(stream))
}

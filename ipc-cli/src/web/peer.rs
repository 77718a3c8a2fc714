//! The user at the other end of a connection on this machine.
//!
//! A port at a loopback address is open to every user of the machine, but a queue belongs to its
//! owner only. The kernel's table of connections contains the user of each connection.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Returns the number of the user whose socket is at `peer` and connected to `served`; `None` if
/// the table does not contain it.
pub fn user(peer: SocketAddr, served: SocketAddr) -> Option<u32> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        user_in(&table, peer, served)
    })
}

/// Fields of a row: number, local address, remote address, state, three more, and the user.
fn user_in(table: &str, peer: SocketAddr, served: SocketAddr) -> Option<u32> {
    let (peer, served) = (plain(peer), plain(served));
    table.lines().skip(1).find_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let is_it = address(fields.get(1)?)? == peer && address(fields.get(2)?)? == served;
        is_it.then(|| fields.get(7)?.parse().ok())?
    })
}

/// Parses an address such as `0100007F:1F90`: words of four bytes, each in native byte order, then
/// the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(plain(SocketAddr::new(ip, port)))
}

/// Returns an IPv4 address that was mapped to IPv6 as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_connection_is_found_at_addresses_of_both_kinds() {
        let ours = nix::unistd::getuid().as_raw();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else {
                continue; // This machine has no addresses of this kind.
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_served, peer) = listener.accept().unwrap();
            let served = client.peer_addr().unwrap();
            assert_eq!(user(peer, served), Some(ours), "{at}");
            let other = SocketAddr::new(served.ip(), 1);
            assert_eq!(user(peer, other), None, "{at}");
        }
    }
}

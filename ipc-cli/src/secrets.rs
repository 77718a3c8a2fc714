//! Logins in addresses, such as `nats://USER:PASSWORD@HOST/QUEUE`. They are used, but never
//! printed.

use std::sync::LazyLock;

/// The logins on this command line, each with its `@`.
static LOGINS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let args = std::env::args_os();
    args.flat_map(|arg| logins_in(&arg.to_string_lossy()))
        .collect()
});

/// Returns `text` without any login from the command line.
pub fn without_logins(text: &str) -> String {
    let mut text = text.to_owned();
    for login in LOGINS.iter() {
        text = text.replace(login, "");
    }
    text
}

/// Returns the text before the last `@` of each host in an address.
fn logins_in(arg: &str) -> Vec<String> {
    let hosts = arg.split_once("://").map_or("", |(_, rest)| rest);
    let hosts = hosts.split(['/', '?']).next().unwrap_or_default();
    let logins = hosts.split(',').filter_map(|host| host.rsplit_once('@'));
    let logins = logins.filter(|(login, _)| !login.is_empty());
    logins.map(|(login, _)| format!("{login}@")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_in_addresses_only() {
        assert_eq!(logins_in("nats://me:secret@host:4222/jobs"), ["me:secret@"]);
        let two = logins_in("nats://token@one,me:p@ss@two/jobs?replicas=3");
        assert_eq!(two, ["token@", "me:p@ss@"]);
        for plain in [
            "nats://host/jobs@home",
            "jobs",
            "unix:/home/me@host/x",
            "mail me@host",
        ] {
            assert!(logins_in(plain).is_empty(), "{plain}");
        }
    }
}

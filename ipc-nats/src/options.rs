//! How a server is reached: login, TLS and time-out.
//!
//! The address has precedence, then the program's options, then the environment. A login is taken
//! as a whole from one of them. Secrets are never printed: `Debug` and errors name only the kind of
//! login.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ConnectOptions;

/// Login, TLS and time-out of a connection.
///
/// ```no_run
/// use ipc_nats::NatsOptions;
///
/// let options = NatsOptions::new()
///     .credentials_file("/run/secrets/jobs.creds")
///     .ca_file("/etc/ssl/our-ca.pem");
/// ipc_nats::register_with(options);
/// let jobs = ipc_queue::Queue::<String>::open("nats://nats.example.com/jobs")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct NatsOptions {
    login: Option<Login>,
    tls: Option<Tls>,
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    timeout: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Login {
    User { user: String, password: String },
    Token(String),
    NkeySeed(String),
    NkeyFile(PathBuf),
    Credentials(String),
    CredentialsFile(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tls {
    Required,
    /// TLS begins at once, before any message of the server.
    First,
}

/// The default time limit of an operation that does not wait for others.
const TIMEOUT: Duration = Duration::from_secs(5);

impl NatsOptions {
    /// No login, TLS if the server asks for it, and a time-out of 5 s.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Options from the environment: `NATS_CREDS` and `NATS_NKEY` (files), `NATS_USER` with
    /// `NATS_PASSWORD`, `NATS_TOKEN`; `NATS_CA`, `NATS_CERT` with `NATS_KEY` (files), `NATS_TLS`
    /// (`required` or `first`); `NATS_TIMEOUT`.
    ///
    /// # Errors
    /// The name of the invalid variable, and the reason.
    pub fn from_env() -> Result<Self, String> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let read = |name| read(name).filter(|value| !value.is_empty());
        let mut options = Self::new();
        if let Some(file) = read("NATS_CREDS") {
            options = options.credentials_file(file);
        } else if let Some(file) = read("NATS_NKEY") {
            options = options.nkey_file(file);
        } else if let Some(user) = read("NATS_USER") {
            options = options.user(user, read("NATS_PASSWORD").unwrap_or_default());
        } else if let Some(token) = read("NATS_TOKEN") {
            options = options.token(token);
        }
        if let Some(file) = read("NATS_CA") {
            options = options.ca_file(file);
        }
        match (read("NATS_CERT"), read("NATS_KEY")) {
            (Some(certificate), Some(key)) => {
                options = options.client_certificate(certificate, key);
            }
            (None, None) => {}
            _ => return Err("NATS_CERT and NATS_KEY belong together: set both".to_owned()),
        }
        for (name, option) in [("NATS_TLS", "tls"), ("NATS_TIMEOUT", "timeout")] {
            if let Some(value) = read(name) {
                options
                    .set(option, &value)
                    .map_err(|reason| format!("{name}: {reason}"))?;
            }
        }
        Ok(options)
    }

    /// Logs in with a user name and a password.
    #[must_use]
    pub fn user(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        self.login(Login::User { user, password })
    }

    /// Logs in with a token.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.login(Login::Token(token.into()))
    }

    /// Logs in with an nkey, given by its seed (`SU…`).
    #[must_use]
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        self.login(Login::NkeySeed(seed.into()))
    }

    /// Logs in with an nkey whose seed is in this file.
    #[must_use]
    pub fn nkey_file(self, path: impl Into<PathBuf>) -> Self {
        self.login(Login::NkeyFile(path.into()))
    }

    /// Logs in with a JWT and its nkey, given as the text of a credentials file.
    #[must_use]
    pub fn credentials(self, text: impl Into<String>) -> Self {
        self.login(Login::Credentials(text.into()))
    }

    /// Logs in with a JWT and its nkey, from a credentials file.
    #[must_use]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> Self {
        self.login(Login::CredentialsFile(path.into()))
    }

    fn login(self, login: Login) -> Self {
        Self {
            login: Some(login),
            ..self
        }
    }

    /// Uses TLS even if the server does not ask for it, and fails if the server has none.
    #[must_use]
    pub fn require_tls(self) -> Self {
        Self {
            tls: Some(Tls::Required),
            ..self
        }
    }

    /// Begins with TLS at once, for servers with `handshake_first`.
    #[must_use]
    pub fn tls_first(self) -> Self {
        Self {
            tls: Some(Tls::First),
            ..self
        }
    }

    /// Trusts the certificate authorities in this PEM file instead of the system's, and requires
    /// TLS.
    #[must_use]
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        Self {
            ca: Some(path.into()),
            ..self
        }
    }

    /// Presents a client certificate, from PEM files, and requires TLS.
    #[must_use]
    pub fn client_certificate(
        self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            certificate: Some((certificate.into(), key.into())),
            ..self
        }
    }

    /// The time limit for connecting, and for each request of an operation that does not wait for
    /// others. A call of several requests may take several times that.
    ///
    /// Must not be zero: zero counts as one millisecond.
    #[must_use]
    pub fn timeout(self, time: Duration) -> Self {
        Self {
            timeout: Some(time.max(Duration::from_millis(1))),
            ..self
        }
    }

    /// Fills in missing options from `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            login: self.login.or(others.login),
            tls: self.tls.or(others.tls),
            ca: self.ca.or(others.ca),
            certificate: self.certificate.or(others.certificate),
            timeout: self.timeout.or(others.timeout),
        }
    }

    /// Sets an option from the part of an address after the question mark. `Err`: the fault,
    /// without the value.
    pub(crate) fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        let path = || PathBuf::from(value);
        match (option, value) {
            ("tls", "required") => self.tls = Some(Tls::Required),
            ("tls", "first") => self.tls = Some(Tls::First),
            ("tls", _) => return Err("tls must be required or first".to_owned()),
            ("creds", _) => self.login = Some(Login::CredentialsFile(path())),
            ("nkey", _) => self.login = Some(Login::NkeyFile(path())),
            ("ca", _) => self.ca = Some(path()),
            ("cert", _) => self.certificate.get_or_insert_default().0 = path(),
            ("key", _) => self.certificate.get_or_insert_default().1 = path(),
            ("timeout", _) => {
                let time = humantime::parse_duration(value).ok();
                let time = time.filter(|time| !time.is_zero());
                self.timeout =
                    Some(time.ok_or("timeout must be a time such as 2s or 500ms".to_owned())?);
            }
            _ => return Err(format!("there is no option {option:?}")),
        }
        Ok(())
    }

    /// Checks that a certificate comes with its key.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_half = |(one, other): &(PathBuf, PathBuf)| {
            one.as_os_str().is_empty() || other.as_os_str().is_empty()
        };
        match &self.certificate {
            Some(pair) if is_half(pair) => {
                Err("cert and key belong together: give both".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    pub(crate) fn time(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// The kind of login, as errors name it.
    pub(crate) fn login_kind(&self) -> &'static str {
        match self.login {
            None => "a connection without login",
            Some(Login::User { .. }) => "the user and password",
            Some(Login::Token(_)) => "the token",
            Some(Login::NkeySeed(_) | Login::NkeyFile(_)) => "the nkey",
            Some(Login::Credentials(_) | Login::CredentialsFile(_)) => "the credentials",
        }
    }

    /// Converts these options for the client.
    pub(crate) fn apply(&self, options: ConnectOptions) -> Result<ConnectOptions, String> {
        let mut options = match &self.login {
            None => options,
            Some(Login::User { user, password }) => {
                options.user_and_password(user.clone(), password.clone())
            }
            Some(Login::Token(token)) => options.token(token.clone()),
            Some(Login::NkeySeed(seed)) => options.nkey(seed.trim().to_owned()),
            Some(Login::NkeyFile(path)) => options.nkey(seed_in(&read("nkey seed", path)?)),
            Some(Login::Credentials(text)) => options
                .credentials(text)
                .map_err(|error| format!("the credentials make no sense: {error}"))?,
            Some(Login::CredentialsFile(path)) => options
                .credentials(&read("credentials", path)?)
                .map_err(|error| format!("{path:?} is not a credentials file: {error}"))?,
        };
        match self.tls {
            Some(Tls::First) => options = options.tls_first(),
            Some(Tls::Required) => options = options.require_tls(true),
            None if self.ca.is_some() || self.certificate.is_some() => {
                options = options.require_tls(true);
            }
            None => {}
        }
        if let Some(path) = &self.ca {
            read("CA", path)?;
            options = options.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            read("certificate", certificate)?;
            read("key", key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

fn read(what: &str, path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|error| format!("can't read the {what} file {path:?}: {error}"))
}

/// The seed in a file, which may have the frame of a credentials file.
fn seed_in(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let seed = lines.clone().find(|line| line.starts_with("SU"));
    seed.unwrap_or(text.trim()).to_owned()
}

/// Prints no secret.
impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsOptions")
            .field("login", &self.login_kind())
            .field("tls", &self.tls)
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<NatsOptions, String> {
        NatsOptions::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_first_source_of_an_option_wins_and_a_login_is_taken_as_a_whole() {
        let here = NatsOptions::new().user("ann", "secret");
        let there = NatsOptions::new().token("other").require_tls();
        let both = here.clone().or(there);
        assert_eq!(both, here.require_tls());
    }

    #[test]
    fn the_environment_is_read_and_errors_name_the_variable() {
        let read = from(&[
            ("NATS_USER", "ann"),
            ("NATS_PASSWORD", "x"),
            ("NATS_TIMEOUT", "2s"),
        ]);
        let expected = NatsOptions::new()
            .user("ann", "x")
            .timeout(Duration::from_secs(2));
        assert_eq!(read, Ok(expected));
        assert_eq!(from(&[("NATS_CREDS", "")]), Ok(NatsOptions::new()));
        let half = from(&[("NATS_CERT", "a.pem")]);
        assert!(half.is_err_and(|error| error.contains("NATS_KEY belong together: set both")));
        let both = from(&[("NATS_CERT", "a.pem"), ("NATS_KEY", "a.key")]);
        assert_eq!(
            both,
            Ok(NatsOptions::new().client_certificate("a.pem", "a.key"))
        );
        let wrong = from(&[("NATS_TIMEOUT", "soon")]);
        assert!(wrong.is_err_and(|error| error.contains("NATS_TIMEOUT")));
    }

    #[test]
    fn no_secret_is_printed() {
        for options in [
            NatsOptions::new().user("ann", "hush"),
            NatsOptions::new().token("hush"),
            NatsOptions::new().nkey("hush"),
            NatsOptions::new().credentials("hush"),
        ] {
            assert!(!format!("{options:?}").contains("hush"), "{options:?}");
            if let Err(error) = options.apply(ConnectOptions::new()) {
                assert!(!error.contains("hush"), "{error}");
            }
        }
    }

    #[test]
    fn a_seed_is_found_in_a_plain_and_in_a_decorated_file() {
        assert_eq!(seed_in("SUAB\n"), "SUAB");
        let decorated = "-----BEGIN USER NKEY SEED-----\nSUAB\n------END USER NKEY SEED------\n";
        assert_eq!(seed_in(decorated), "SUAB");
    }
}

//! Logins and TLS, with servers that require them. Secrets are never shown.

use std::fmt::{Debug, Display};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use ipc_nats::testing::{Program, TestServer};
use ipc_nats::{NatsAddress, NatsOptions, NatsQueue};
use ipc_queue::transport::{OpenRequest, Transport};
use ipc_queue::{ByteQueue, QueueError};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use serde_json::{Value, json};
use tempfile::TempDir;

ipc_nats::on_each_server! {
    a_user_and_a_password_are_accepted_and_wrong_ones_refused_without_showing_them
    a_token_is_accepted
    an_nkey_is_accepted_from_a_file_and_from_code
    a_jwt_is_accepted_from_a_credentials_file_and_from_code
    the_environment_provides_a_login_missing_in_the_address
    a_server_with_a_certificate_of_a_given_authority_is_trusted
    a_client_certificate_is_shown
    required_tls_is_never_skipped
    tls_first_begins_with_tls_at_once
    silent_hosts_use_only_their_share_of_the_timeout
}

const PASSWORD: &str = "hu@sh/hush";
const ENCODED: &str = "hu%40sh%2Fhush";

fn with_config(program: &Program, folder: &TempDir, config: &str) -> TestServer {
    let path = folder.path().join("server.conf");
    fs::write(&path, config).expect("the configuration is written");
    TestServer::start_with(program, &["-c", path.to_str().expect("a path")])
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn parse(server: &TestServer, login: &str, query: &str) -> NatsAddress {
    let rest = format!("//{login}{}/jobs?storage=memory{query}", server.host());
    NatsAddress::parse(&rest).expect("an address")
}

fn open(address: &NatsAddress) -> Result<Arc<dyn Transport>, QueueError> {
    let opened = NatsQueue::open(address, &OpenRequest::default());
    Ok(Arc::new(opened?))
}

/// Checks that the queue carries a message, and shows no secret.
fn works(address: &NatsAddress, secret: &str) {
    let queue = open(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    let sent = queue.sender().send(
        b"let in",
        ipc_queue::Kind::Data,
        ipc_queue::transport::Wait::No,
    );
    sent.expect("a place");
    let receiver = queue.receiver();
    let delivery = receiver.recv(ipc_queue::transport::Wait::No);
    let delivery = delivery.expect("it was sent");
    let acked = delivery.settle(ipc_queue::transport::Settle::Ack);
    acked.expect("we hold it");
    shows_no(secret, address);
    let shown = format!("{queue:?}");
    assert!(secret.is_empty() || !shown.contains(secret), "{shown}");
}

/// Checks that it is refused with these words, and without the secret.
fn is_refused(address: &NatsAddress, words: &str, secret: &str) {
    let error = open(address).expect_err("it is refused");
    assert!(error.to_string().contains(words), "{error}");
    shows_no(secret, &error);
}

fn shows_no(secret: &str, what: &(impl Debug + Display)) {
    let shown = format!("{what} {what:?}");
    assert!(secret.is_empty() || !shown.contains(secret), "{shown}");
}

fn with(address: &NatsAddress, options: NatsOptions) -> NatsAddress {
    let mut address = address.clone();
    address.options = options;
    address
}

fn a_user_and_a_password_are_accepted_and_wrong_ones_refused_without_showing_them(
    program: &Program,
) {
    let folder = folder();
    let config = format!("authorization {{ user: ann, password: \"{PASSWORD}\" }}");
    let server = with_config(program, &folder, &config);
    works(&parse(&server, &format!("ann:{ENCODED}@"), ""), PASSWORD);
    let plain = parse(&server, "", "");
    works(
        &with(&plain, NatsOptions::new().user("ann", PASSWORD)),
        PASSWORD,
    );
    is_refused(
        &parse(&server, "ann:wrong@", ""),
        "refuses the user and password",
        "wrong",
    );
    is_refused(&plain, "refuses a connection without login", PASSWORD);
    let address = format!("nats://ann:{ENCODED}@{}/Jobs", server.host());
    ipc_nats::register();
    shows_no("hu", &ByteQueue::open(&address).expect_err("a bad name"));
}

fn a_token_is_accepted(program: &Program) {
    let folder = folder();
    let server = with_config(program, &folder, "authorization { token: hush }");
    works(&parse(&server, "hush@", ""), "hush");
    let plain = parse(&server, "", "");
    works(&with(&plain, NatsOptions::new().token("hush")), "hush");
    is_refused(&parse(&server, "rush@", ""), "refuses the token", "rush");
}

fn an_nkey_is_accepted_from_a_file_and_from_code(program: &Program) {
    let folder = folder();
    let user = KeyPair::new_user();
    let seed = user.seed().expect("a seed");
    let config = format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}",
        user.public_key()
    );
    let server = with_config(program, &folder, &config);
    let file = write(&folder, "user.nk", &seed);
    works(
        &parse(&server, "", &format!("&nkey={}", file.display())),
        &seed,
    );
    let plain = parse(&server, "", "");
    works(&with(&plain, NatsOptions::new().nkey(&*seed)), &seed);
    let other = KeyPair::new_user().seed().expect("a seed");
    let wrong = with(&plain, NatsOptions::new().nkey(&*other));
    is_refused(&wrong, "refuses the nkey", &other);
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("the file is written");
    path
}

/// Returns a JWT in the form that NATS uses.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let claims = json!({
        "jti": name,
        "iat": now.expect("after 1970").as_secs(),
        "iss": issuer.public_key(),
        "name": name,
        "sub": subject,
        "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string();
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = issuer.sign(signed.as_bytes()).expect("it can sign");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn account_jwt(operator: &KeyPair, account: &KeyPair, name: &str, jetstream: i64) -> String {
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream,
        "streams": -1, "consumer": -1,
    });
    let nats = json!({ "type": "account", "version": 2, "limits": limits });
    jwt(operator, &account.public_key(), name, &nats)
}

fn credentials(account: &KeyPair, user: &KeyPair) -> String {
    let nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let jwt = jwt(account, &user.public_key(), "worker", &nats);
    let seed = user.seed().expect("a seed");
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn a_jwt_is_accepted_from_a_credentials_file_and_from_code(program: &Program) {
    let folder = folder();
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let nats = json!({ "type": "operator", "version": 2 });
    let config = format!(
        "operator: {}\nsystem_account: {sys}\nresolver: MEMORY\n\
         resolver_preload: {{ {sys}: {}, {}: {} }}\n",
        jwt(&operator, &operator.public_key(), "operator", &nats),
        account_jwt(&operator, &system, "system", 0),
        account.public_key(),
        account_jwt(&operator, &account, "work", -1),
        sys = system.public_key(),
    );
    let server = with_config(program, &folder, &config);
    let text = credentials(&account, &user);
    let seed = user.seed().expect("a seed");
    let file = write(&folder, "user.creds", &text);
    works(
        &parse(&server, "", &format!("&creds={}", file.display())),
        &seed,
    );
    let plain = parse(&server, "", "");
    works(&with(&plain, NatsOptions::new().credentials(&*text)), &seed);
    let other = credentials(&KeyPair::new_account(), &user);
    let wrong = with(&plain, NatsOptions::new().credentials(other));
    is_refused(&wrong, "refuses the credentials", &seed);
    let missing = with(
        &plain,
        NatsOptions::new().credentials_file("/nowhere.creds"),
    );
    is_refused(&missing, "\"/nowhere.creds\"", &seed);
}

const OPENS: &str = "IPC_NATS_OPENS";

#[test]
fn open_if_requested() {
    if let Ok(address) = std::env::var(OPENS) {
        let address = NatsAddress::parse(&address).expect("an address");
        works(&address, PASSWORD);
    }
}

fn the_environment_provides_a_login_missing_in_the_address(program: &Program) {
    let folder = folder();
    let config = format!("authorization {{ user: ann, password: \"{PASSWORD}\" }}");
    let server = with_config(program, &folder, &config);
    for (login, password, works) in [
        ("", PASSWORD, true),
        ("", "wrong", false),
        ("ann:wrong@", PASSWORD, false),
    ] {
        let opened = Command::new(std::env::current_exe().expect("this program"))
            .args(["open_if_requested", "--exact"])
            .env(OPENS, format!("//{login}{}/jobs", server.host()))
            .env("NATS_USER", "ann")
            .env("NATS_PASSWORD", password)
            .output()
            .expect("this program starts");
        assert_eq!(opened.status.success(), works, "{login:?} {password:?}");
        assert!(!String::from_utf8_lossy(&opened.stdout).contains("wrong"));
    }
}

/// A certificate authority with signed certificates for a local server and for a client, as PEM
/// files in a folder.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = folder();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).expect("a certificate");
        write(&folder, "ca.pem", &certificate.pem());
        let issuer = Issuer::new(ca, key);
        for name in ["server", "client"] {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let params = CertificateParams::new(names).expect("names");
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            write(&folder, &format!("{name}.pem"), &certificate.pem());
            write(&folder, &format!("{name}.key"), &key.serialize_pem());
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> String {
        let path: &Path = self.folder.path();
        path.join(name).to_str().expect("a path").to_owned()
    }

    /// Starts a server that accepts only TLS connections.
    fn server(&self, program: &Program, more: &str) -> TestServer {
        let config = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", {more} }}",
            self.file("server.pem"),
            self.file("server.key"),
        );
        with_config(program, &self.folder, &config)
    }
}

fn a_server_with_a_certificate_of_a_given_authority_is_trusted(program: &Program) {
    let authority = Authority::new();
    let server = authority.server(program, "");
    let ca = format!("&ca={}", authority.file("ca.pem"));
    works(&parse(&server, "", &ca), "");
    is_refused(&parse(&server, "", ""), "?ca=FILE", "");
    let other = Authority::new();
    let other = format!("&ca={}", other.file("ca.pem"));
    is_refused(&parse(&server, "", &other), "is not trusted", "");
    is_refused(
        &parse(&server, "", "&ca=/nowhere.pem"),
        "\"/nowhere.pem\"",
        "",
    );
}

fn a_client_certificate_is_shown(program: &Program) {
    let authority = Authority::new();
    let verify = format!("ca_file: \"{}\", verify: true", authority.file("ca.pem"));
    let server = authority.server(program, &verify);
    let ca = NatsOptions::new().ca_file(authority.file("ca.pem"));
    let plain = parse(&server, "", "");
    let (certificate, key) = (authority.file("client.pem"), authority.file("client.key"));
    let shown = ca.clone().client_certificate(certificate, key);
    works(&with(&plain, shown), "");
    is_refused(&with(&plain, ca), "client certificate", "");
}

fn required_tls_is_never_skipped(program: &Program) {
    let server = TestServer::of(program);
    works(&parse(&server, "", ""), "");
    let error = open(&parse(&server, "", "&tls=required"));
    assert!(matches!(error, Err(QueueError::Transport(_))), "{error:?}");
}

fn tls_first_begins_with_tls_at_once(program: &Program) {
    // Earlier servers do not have this setting.
    if program.version() < vec![2, 10] {
        return;
    }
    let authority = Authority::new();
    let server = authority.server(program, "handshake_first: true");
    let ca = format!("&ca={}", authority.file("ca.pem"));
    works(&parse(&server, "", &format!("{ca}&tls=first")), "");
    let error = open(&parse(&server, "", &format!("{ca}&timeout=500ms")));
    assert!(matches!(error, Err(QueueError::Transport(_))), "{error:?}");
}

fn silent_hosts_use_only_their_share_of_the_timeout(program: &Program) {
    let server = TestServer::of(program);
    let silent: Vec<TcpListener> = (0..7)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    let silent = silent.iter().map(|host| host.local_addr().expect("bound"));
    let silent: Vec<String> = silent.map(|host| host.to_string()).collect();
    let all = format!("//{},{}/jobs?timeout=4s", silent.join(","), server.host());
    works(&NatsAddress::parse(&all).expect("an address"), "");
    let none = format!("//{}/jobs?timeout=500ms", silent.join(","));
    let none = NatsAddress::parse(&none).expect("an address");
    is_refused(&none, &silent[0], "");
    assert_eq!(
        none.options,
        NatsOptions::new().timeout(Duration::from_millis(500))
    );
}

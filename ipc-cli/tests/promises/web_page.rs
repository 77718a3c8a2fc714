//! The page itself, in a headless browser: what it shows, and that texts stay texts.

use std::env;
use std::path::PathBuf;
use std::process::Stdio;

use ipc_queue::QueueOptions;

use crate::place::{Ended, Place, program, say_skipped};
use crate::web::Web;

/// The names under which distributions install the browser.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

struct Browser(PathBuf);

impl Browser {
    /// `None` where there is none that runs, which is printed and counted.
    fn find() -> Option<Self> {
        let folders = env::var_os("PATH").unwrap_or_default();
        let mut folders = env::split_paths(&folders);
        let found = folders.find_map(|folder| {
            let paths = NAMES.iter().map(|name| folder.join(name));
            paths.into_iter().find(|path| path.is_file())
        });
        let Some(found) = found else {
            let why = "no chromium is on the path; install it (apt-get install chromium)";
            say_skipped("the page in a browser", why);
            return None;
        };
        let browser = Self(found);
        let tried = browser.run("data:text/html,<p>it runs</p>");
        if tried.code != 0 || !tried.out.contains("it runs") {
            say_skipped("the page in a browser", "chromium does not run here");
            return None;
        }
        Some(browser)
    }

    /// The document once the page has drawn itself and asked for figures a few times.
    fn dump(&self, url: &str) -> String {
        let ended = self.run(url);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }

    fn run(&self, url: &str) -> Ended {
        let profile = tempfile::tempdir().unwrap();
        let mut browser = program(self.0.to_str().unwrap());
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
        browser.args(["--virtual-time-budget=5000", "--window-size=1200,900"]);
        // Containers have little shared memory.
        browser.arg("--disable-dev-shm-usage");
        browser.arg(format!("--user-data-dir={}", profile.path().display()));
        // Its messages say nothing about the page.
        Ended::of(browser.arg(url).stderr(Stdio::null()))
    }
}

/// The text of the element with this figure, in the row of this queue if one is given.
fn figure(document: &str, queue: Option<&str>, name: &str) -> String {
    let part = match queue {
        Some(queue) => {
            let start = document.find(&format!("data-queue=\"{queue}\""));
            let rest = &document[start.unwrap_or_else(|| panic!("no {queue} in\n{document}"))..];
            rest.split("</tr>").next().unwrap()
        }
        None => document,
    };
    let attribute = format!("data-figure=\"{name}\"");
    let start = part.find(&attribute);
    let rest = &part[start.unwrap_or_else(|| panic!("no {name} in\n{document}"))..];
    let content = rest.split_once('>').unwrap().1;
    let ends = ["</td>", "</dd>"]
        .iter()
        .filter_map(|end| content.find(end));
    let end = ends.min().unwrap();
    let (mut text, mut is_tag) = (String::new(), false);
    for letter in content[..end].chars() {
        match letter {
            '<' => is_tag = true,
            '>' => is_tag = false,
            letter if !is_tag => text.push(letter),
            _ => {}
        }
    }
    text
}

/// What would run if it were inserted as HTML.
const HOSTILE: &str = "<script>document.title='owned'</script>\
                       <img src=x onerror=\"document.title='owned'\">";

#[test]
fn the_list_shows_each_queue_with_its_figures_and_each_that_can_not_be_read() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let place = Place::new("page-list");
    let queue = place.make("jobs", &QueueOptions::new().capacity(8));
    for _ in 0..5 {
        queue.sender().send(b"one").unwrap();
    }
    let receiver = queue.receiver();
    receiver.recv().unwrap().bury().unwrap();
    let held = receiver.recv().unwrap();
    queue.transport().pause().unwrap();
    let name = format!("shm:{}", place.name("jobs"));
    // The name of a queue that is not there is anything that was typed.
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("unix:{}/{HOSTILE}", folder.path().display());
    let web = Web::start(&[&name, &missing]);
    web.line(&name);
    let document = browser.dump(&format!("http://{}/", web.at));
    for (figure_name, value) in [
        ("in_use", "5/8"),
        ("ready", "3"),
        ("held", "1"),
        ("dead", "1"),
        ("sent", "0/s"),
        ("state", "paused"),
    ] {
        let shown = figure(&document, Some(&name), figure_name);
        assert_eq!(shown, value, "{figure_name} in\n{document}");
    }
    assert_eq!(figure(&document, None, "queues"), "2");
    assert!(document.contains(">Live<"), "{document}");
    // Shown, as text.
    assert!(
        document.contains("&lt;script&gt;document.title='owned'"),
        "{document}"
    );
    assert!(document.contains("<title>Queues</title>"), "{document}");
    assert!(!document.contains("<img src=\"x\""), "{document}");
    held.ack().unwrap();
}

#[track_caller]
fn contains_all(document: &str, words: &[&str]) {
    for words in words {
        assert!(document.contains(words), "no {words} in\n{document}");
    }
}

#[test]
fn a_queue_alone_shows_holders_dead_letters_and_the_last_hour() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let place = Place::new("page-one");
    let queue = place.make("jobs", &QueueOptions::new().capacity(8).attempt_limit(1));
    for payload in [HOSTILE.as_bytes(), b"bad", b"held", b"waits"] {
        queue.sender().send(payload).unwrap();
    }
    let receiver = queue.receiver();
    receiver.recv().unwrap().bury_with(HOSTILE).unwrap();
    receiver.recv().unwrap().nack().unwrap();
    let held = receiver.recv().unwrap();
    let web = Web::start(&[&place.0, "--allow-actions"]);
    let name = place.name("jobs");
    web.line(&name);
    let page = format!("http://{}/queue/{}", web.at, name.replace('/', "%2F"));
    let document = browser.dump(&page);
    let figures = ["ready", "held", "dead", "delayed"].map(|name| figure(&document, None, name));
    assert_eq!(figures, ["1", "1", "2", "0"], "{document}");
    contains_all(&document, &[&format!("<title>{name} – queue</title>")]);
    let pid = std::process::id().to_string();
    let id = held.id().to_string();
    contains_all(
        &document,
        &[&id, &pid, "alive", "buried", "nacked too often"],
    );
    contains_all(&document, &["exponential: 100 ms to 1 min", "Payload pool"]);
    // The reason and the payload: shown, as text.
    assert!(
        document.matches("&lt;script&gt;").count() >= 2,
        "{document}"
    );
    assert!(!document.contains("<img src=\"x\"") && !document.contains("<script>"));
    // Plots with a title, a unit, axes and a curve.
    let titles = [">Depth</h2>", ">Rates</h2>", ">Dead letters</h2>"];
    contains_all(&document, &titles);
    let axes = [">messages per second</text>", "time of day, last"];
    contains_all(&document, &axes);
    let curve = "class=\"curve ink-blue\" d=\"M";
    let label = "aria-label=\"Dead letters, dead letters: dead 2\"";
    contains_all(&document, &[curve, label]);
    // Without the token nothing can be pressed.
    let pause = |document: &str| {
        let before = document.split(">Pause</button>").next().unwrap();
        let button = before.rsplit("<button").next().unwrap().to_owned();
        button.contains("disabled")
    };
    assert!(pause(&document), "{document}");
    let token = web.said["url"].as_str().unwrap().split_once('#').unwrap().1;
    let document = browser.dump(&format!("{page}#{token}"));
    assert!(!pause(&document), "{document}");
    held.ack().unwrap();
}

#[test]
fn a_queue_that_is_not_watched_is_said_to_be_missing() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let place = Place::new("page-none");
    place.make("jobs", &QueueOptions::new());
    let web = Web::start(&[&place.0]);
    web.line(&place.name("jobs"));
    let document = browser.dump(&format!("http://{}/queue/nosuch", web.at));
    assert!(
        document.contains("no queue of this name is watched here"),
        "{document}"
    );
}

//! No file has over 600 lines and no function over 60, except those listed here with a reason.

use std::fmt::Debug;
use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ImplItemFn, ItemFn, Signature, TraitItemFn};

use xtask::cargo::root;

use crate::{parsed, rust_files};

const MOST_LINES_OF_A_FILE: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

/// Files that may be longer: a file, or a folder for all that are in it, and the reason.
const LONG_FILES: &[(&str, &str)] = &[
    ("ipc-cli/tests/promises/web.rs", NOT_YET),
    ("ipc-queue/src/shm/model/actor.rs", NOT_YET),
    ("ipc-queue/src/shm/model/ledger.rs", NOT_YET),
    (
        "ipc-queue/src/shm/model/scenarios.rs",
        "One scenario after the other.",
    ),
    (
        "ipc-queue/src/shm/model/weak.rs",
        "One test after the other.",
    ),
];

/// Functions that may be longer: the file or folder, the function, and the reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    (
        "ipc-cli/tests/promises/top.rs",
        "keys_sort_filter_show_one_queue_and_act_once_confirmed",
        "One session of a user.",
    ),
    (
        "ipc-nats/tests/processes/other.rs",
        "obey_if_requested",
        "One arm for each order.",
    ),
    ("ipc-queue/src/shm/frozen.rs", "message", NOT_YET),
    ("ipc-queue/src/shm/model/actor.rs", "publish", NOT_YET),
    ("ipc-queue/src/shm/model/ledger.rs", "book", NOT_YET),
    (
        "ipc-queue/src/shm/sender/publishing.rs",
        "publish_at_end",
        NOT_YET,
    ),
    ("ipc-queue/src/shm/sender/restoring.rs", "put", NOT_YET),
    (
        "ipc-queue/tests/bad_memory/image.rs",
        "use_it",
        "Every operation, with damage between any two.",
    ),
];

const NOT_YET: &str = "Not split yet.";

#[test]
fn no_file_is_too_long() {
    let mut found = Vec::new();
    for file in rust_files(root()) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        if lines > MOST_LINES_OF_A_FILE {
            found.push((short(&file), lines));
        }
    }
    let is_listed = |listed: &(&str, &str), (file, _): &(String, usize)| file.starts_with(listed.0);
    let faults = compared(&found, LONG_FILES, is_listed);
    assert!(
        faults.is_empty(),
        "a file has at most {MOST_LINES_OF_A_FILE} lines; split it along a seam:\n{faults}"
    );
}

#[test]
fn no_function_is_too_long() {
    let mut found = Vec::new();
    for file in rust_files(root()) {
        let mut long = LongFunctions(Vec::new());
        long.visit_file(&parsed(&file));
        let functions = long.0.into_iter();
        found.extend(functions.map(|(name, lines)| (short(&file), name, lines)));
    }
    let is_listed = |listed: &(&str, &str, &str), (file, name, _): &(String, String, usize)| {
        file.starts_with(listed.0) && name == listed.1
    };
    let faults = compared(&found, LONG_FUNCTIONS, is_listed);
    assert!(
        faults.is_empty(),
        "a function has at most {MOST_LINES_OF_A_FUNCTION} lines; name its parts:\n{faults}"
    );
}

/// What is too long and not listed, and what is listed in vain, one on each line.
fn compared<F: Debug, L: Debug>(
    found: &[F],
    listed: &[L],
    is_listed: impl Fn(&L, &F) -> bool,
) -> String {
    let unlisted = found
        .iter()
        .filter(|found| !listed.iter().any(|one| is_listed(one, found)));
    let unlisted = unlisted.map(|found| format!("{found:?}"));
    let in_vain = listed
        .iter()
        .filter(|one| !found.iter().any(|found| is_listed(one, found)));
    let in_vain = in_vain.map(|one| format!("{one:?} is not needed any more"));
    unlisted.chain(in_vain).collect::<Vec<_>>().join("\n")
}

/// The functions that are too long, with their numbers of lines, from `fn` to the last brace.
struct LongFunctions(Vec<(String, usize)>);

impl LongFunctions {
    fn note(&mut self, signature: &Signature, end: &impl Spanned) {
        let first = signature.span().start().line;
        let lines = end.span().end().line - first + 1;
        if lines > MOST_LINES_OF_A_FUNCTION {
            self.0.push((signature.ident.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.note(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.note(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        self.note(&function.sig, function);
        visit::visit_trait_item_fn(self, function);
    }
}

/// A file's path in the workspace.
fn short(file: &Path) -> String {
    let path = file.strip_prefix(root()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn a_function_is_as_long_as_its_lines() {
    let body = "    work();\n".repeat(MOST_LINES_OF_A_FUNCTION - 1);
    let text = format!("#[inline]\nfn just_too_long() {{\n{body}}}\nfn short() {{}}\n");
    let mut long = LongFunctions(Vec::new());
    long.visit_file(&syn::parse_file(&text).unwrap());
    assert_eq!(
        long.0,
        [("just_too_long".to_owned(), MOST_LINES_OF_A_FUNCTION + 1)]
    );
}

#[test]
fn what_is_listed_in_vain_is_a_fault() {
    let is_same = |one: &&str, other: &&str| one == other;
    assert_eq!(compared(&["a"], &["a"], is_same), "");
    assert_eq!(
        compared(&["a"], &["b"], is_same),
        "\"a\"\n\"b\" is not needed any more"
    );
}

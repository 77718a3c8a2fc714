//! No file has over 600 lines and no function over 60, except those listed here with a reason.

use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{ImplItemFn, ItemFn, Signature, TraitItemFn};

use crate::{parsed, root, rust_files};

const MOST_LINES_OF_A_FILE: usize = 600;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

/// Longer files: the file, and the reason.
const LONG_FILES: &[(&str, &str)] = &[
    ("ipc-cli/tests/promises/web.rs", NOT_YET),
    ("ipc-queue/src/shm/cell.rs", NOT_YET),
    ("ipc-queue/src/shm/keys.rs", NOT_YET),
    ("ipc-queue/src/shm/model/actor.rs", NOT_YET),
    ("ipc-queue/src/shm/model/scenarios.rs", NOT_YET),
    ("ipc-queue/src/shm/model/weak.rs", NOT_YET),
    ("ipc-queue/src/shm/receiver.rs", NOT_YET),
    ("ipc-queue/src/shm/sender.rs", NOT_YET),
    ("ipc-queue/src/shm.rs", NOT_YET),
];

/// Longer functions: the file, the function, and the reason.
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
        "ipc-queue/src/shm/ring/sending.rs",
        "claim_in_turn",
        NOT_YET,
    ),
    ("ipc-queue/src/shm/sender/restoring.rs", "put", NOT_YET),
    ("ipc-queue/src/shm/sender.rs", "publish_at_end", NOT_YET),
    (
        "ipc-queue/tests/bad_memory/image.rs",
        "use_it",
        "Every operation, with damage between any two.",
    ),
];

const NOT_YET: &str = "Not split yet.";

#[test]
fn no_file_is_too_long() {
    let mut listed = LONG_FILES.to_vec();
    let mut faults = Vec::new();
    for file in rust_files(root()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let (name, lines) = (short(&file), text.lines().count());
        let is_listed = remove(&mut listed, |(listed, _)| *listed == name);
        if lines > MOST_LINES_OF_A_FILE && !is_listed {
            faults.push(format!("{name}: {lines} lines"));
        } else if lines <= MOST_LINES_OF_A_FILE && is_listed {
            faults.push(format!(
                "{name}: {lines} lines, so its exception is not needed"
            ));
        }
    }
    faults.extend(
        listed
            .iter()
            .map(|(name, _)| format!("{name}: does not exist")),
    );
    assert!(
        faults.is_empty(),
        "a file has at most {MOST_LINES_OF_A_FILE} lines; split it along a seam:\n{}",
        faults.join("\n")
    );
}

#[test]
fn no_function_is_too_long() {
    let mut listed = LONG_FUNCTIONS.to_vec();
    let mut faults = Vec::new();
    for file in rust_files(root()) {
        let mut long = LongFunctions(Vec::new());
        long.visit_file(&parsed(&file));
        for (function, lines) in long.0 {
            let name = short(&file);
            if !remove(&mut listed, |(file, listed, _)| {
                *file == name && *listed == function
            }) {
                faults.push(format!("{name}: {function}: {lines} lines"));
            }
        }
    }
    let unused = listed.iter().map(|(file, function, _)| {
        format!("{file}: {function}: is shorter or gone, so its exception is not needed")
    });
    faults.extend(unused);
    assert!(
        faults.is_empty(),
        "a function has at most {MOST_LINES_OF_A_FUNCTION} lines; give its parts names:\n{}",
        faults.join("\n")
    );
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

/// Removes what fits, and returns whether anything did.
fn remove<T>(list: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> bool {
    let before = list.len();
    list.retain(|one| !fits(one));
    list.len() < before
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

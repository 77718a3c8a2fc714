//! A public structure whose fields are all public can be made by a literal, and then it can't get
//! another field. So it is `#[non_exhaustive]`, or listed here with the reason.

use std::collections::BTreeSet;
use std::path::Path;

use syn::{Fields, Item, ItemMod, ItemStruct, UseTree, Visibility};

use crate::parsed;
use crate::root;

const LIBRARIES: [&str; 5] = ["ipc-proto", "ipc-shm", "ipc-queue", "ipc-nats", "ipc-node"];

const IDENTITY: &str = "An identity: whatever is equal in all fields is the same thing.";
const LITERALS: &str = "Has a default; literals end in `..`, which a new field does not break.";
const FOR_TESTS: &str = "Only for tests.";

/// Structures that may be made by literals, and the reason.
const EXHAUSTIVE: &[(&str, &str, &str)] = &[
    ("ipc-nats", "TestCluster", FOR_TESTS),
    ("ipc-node", "Backoff", LITERALS),
    ("ipc-node", "DeadLetterLimit", LITERALS),
    ("ipc-node", "Intensity", LITERALS),
    (
        "ipc-proto",
        "Message",
        "What travels: a new field is a new version of the encoding.",
    ),
    ("ipc-proto", "MessageId", IDENTITY),
    ("ipc-proto", "QueueSettings", LITERALS),
    ("ipc-queue", "FencingToken", IDENTITY),
    ("ipc-queue", "OpenRequest", LITERALS),
    ("ipc-queue", "Proxied", FOR_TESTS),
    ("ipc-shm", "Expected", LITERALS),
    ("ipc-shm", "Member", IDENTITY),
    ("ipc-shm", "ProcessIdentity", IDENTITY),
];

#[test]
fn a_public_structure_can_get_another_field_or_is_listed_here() {
    let mut found = Vec::new();
    for package in LIBRARIES {
        let mut public = Public::default();
        public.read(&root().join(package).join("src/lib.rs"), true);
        found.extend(public.literals().map(|name| (package, name)));
    }
    found.sort_unstable();
    let listed: Vec<_> = EXHAUSTIVE
        .iter()
        .map(|(package, name, _)| (*package, (*name).to_owned()))
        .collect();
    assert_eq!(found, listed, "found, and listed");
}

/// What is public in a crate.
#[derive(Default)]
struct Public {
    /// All-public structures, and whether all modules around them are public.
    structures: BTreeSet<(String, bool)>,
    /// Names that modules export again, if they are public or not.
    exported: BTreeSet<String>,
}

impl Public {
    /// Returns the names of the public ones.
    fn literals(&self) -> impl Iterator<Item = String> {
        let is_public = |(name, public): &&(String, bool)| *public || self.exported.contains(name);
        let names = self.structures.iter().filter(is_public);
        let names: BTreeSet<String> = names.map(|(name, _)| name.clone()).collect();
        names.into_iter()
    }

    /// Reads a file and the modules below.
    fn read(&mut self, file: &Path, is_public: bool) {
        let folder = match file.file_name().unwrap().to_str() {
            Some("lib.rs") => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        for item in parsed(file).items {
            match item {
                Item::Struct(item) if is_literal(&item) => {
                    self.structures.insert((item.ident.to_string(), is_public));
                }
                Item::Use(item) if is_pub(&item.vis) && is_own(&item.tree) => {
                    self.export(&item.tree);
                }
                Item::Mod(ItemMod {
                    content: None,
                    vis,
                    ident,
                    ..
                }) => {
                    let file = folder.join(format!("{ident}.rs"));
                    if file.exists() {
                        self.read(&file, is_public && is_pub(&vis));
                    }
                }
                _ => {}
            }
        }
    }

    fn export(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.export(&path.tree),
            UseTree::Name(name) => {
                self.exported.insert(name.ident.to_string());
            }
            UseTree::Rename(rename) => {
                self.exported.insert(rename.ident.to_string());
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.export(tree)),
            UseTree::Glob(_) => {}
        }
    }
}

fn is_pub(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Returns whether it exports something of this crate.
fn is_own(tree: &UseTree) -> bool {
    let UseTree::Path(path) = tree else {
        return true;
    };
    !path.ident.to_string().starts_with("ipc_")
}

/// Returns whether other crates could make it by a literal.
fn is_literal(item: &ItemStruct) -> bool {
    let Fields::Named(fields) = &item.fields else {
        return false;
    };
    let mut fields = fields.named.iter();
    let is_open = |path: &syn::Path| path.is_ident("non_exhaustive");
    is_pub(&item.vis)
        && fields.len() > 0
        && fields.all(|field| is_pub(&field.vis))
        && !item.attrs.iter().any(|attribute| is_open(attribute.path()))
}

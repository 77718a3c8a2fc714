//! The modules of a crate, and which uses which.
//!
//! A module uses another if a path in its code leads there: in an import, an expression, a type or
//! the arguments of a macro. A module may use its own submodules, so that does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree};

use crate::{is_for_tests, parsed};

/// A module's path in its crate; the crate itself has the empty path.
pub type ModulePath = Vec<String>;

/// For each module the other modules that it uses.
pub type Uses = BTreeMap<ModulePath, BTreeSet<ModulePath>>;

/// Reads a crate from its first file: `lib.rs` or `main.rs`.
pub fn uses_in(first: &Path) -> Uses {
    let mut sources = BTreeMap::new();
    read(first, first.parent().unwrap(), vec![], &mut sources);
    let modules: BTreeSet<ModulePath> = sources.keys().cloned().collect();
    let uses = sources.iter().map(|(module, file)| {
        let mut finder = Finder {
            modules: &modules,
            module,
            here: module.clone(),
            found: BTreeSet::new(),
        };
        finder.visit_file(file);
        (module.clone(), finder.found)
    });
    uses.collect()
}

/// Reads a file and those of its submodules, except tests.
fn read(
    file: &Path,
    folder: &Path,
    module: ModulePath,
    sources: &mut BTreeMap<ModulePath, syn::File>,
) {
    let source = parsed(file);
    if is_for_tests(&source.attrs) {
        return;
    }
    for item in &source.items {
        if let Item::Mod(ItemMod {
            attrs,
            ident,
            content: None,
            ..
        }) = item
            && !is_for_tests(attrs)
        {
            let name = ident.to_string();
            let below = folder.join(&name);
            let candidates = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
            let found: Option<&PathBuf> = candidates.iter().find(|path| path.exists());
            let path = found.unwrap_or_else(|| panic!("{}: no file for {name}", file.display()));
            let inner = [&module[..], &[name]].concat();
            read(path, &below, inner, sources);
        }
    }
    sources.insert(module, source);
}

/// Collects the modules that one module uses.
struct Finder<'m> {
    modules: &'m BTreeSet<ModulePath>,
    module: &'m ModulePath,
    /// The module's path, or that of an inline module in it.
    here: ModulePath,
    found: BTreeSet<ModulePath>,
}

impl Finder<'_> {
    /// Notes the module to which a path leads.
    fn follow(&mut self, path: &[String]) {
        let up = path.iter().take_while(|word| *word == "super").count();
        let whole: ModulePath = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [&self.here[..], &path[1..]].concat(),
            Some("super") if up <= self.here.len() => {
                [&self.here[..self.here.len() - up], &path[up..]].concat()
            }
            _ => return,
        };
        let longest = (0..=whole.len())
            .rev()
            .map(|length| &whole[..length])
            .find(|part| self.modules.contains(*part));
        if let Some(target) = longest
            && !target.starts_with(self.module)
        {
            self.found.insert(target.to_vec());
        }
    }

    fn follow_tree(&mut self, before: &[String], tree: &UseTree) {
        let and = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.follow_tree(&and(&path.ident), &path.tree),
            UseTree::Name(name) => self.follow(&and(&name.ident)),
            UseTree::Rename(rename) => self.follow(&and(&rename.ident)),
            UseTree::Glob(_) => self.follow(before),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.follow_tree(before, tree);
                }
            }
        }
    }

    /// Follows the paths in a macro's arguments, which are only tokens.
    fn follow_tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        for token in tokens {
            match token {
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => {}
                other => {
                    self.follow(&std::mem::take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.follow_tokens(group.stream());
                    }
                }
            }
        }
        self.follow(&path);
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &vec![],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.here.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.here.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.follow_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path.segments.iter().map(|part| part.ident.to_string());
        self.follow(&words.collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.follow_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

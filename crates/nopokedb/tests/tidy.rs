//! The rules of the house as a test: layers, sizes, rooms for `unsafe`, and documents that name what exists.
//!
//! Every rule is a function from text to complaints, so that each has a self-test on a bad snippet below. A complaint
//! says where and what to do. The exception lists may only shrink: an exception that is no longer needed, or that is
//! larger than it need be, is a complaint too.
#![allow(clippy::disallowed_methods, reason = "reads the workspace's own source files, not a database")]

#[path = "tidy/source.rs"]
mod source;

use source::{Source, line_of, words};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Layers of crates/nopokedb/src from the bottom up. A module imports only from lower layers, and from its own where
/// `true` says that the layer's members know each other.
const LAYERS: &[(bool, &[&str])] = &[
    (true, &["types", "error", "options", "metadata", "sync", "clock"]),
    (false, &["io"]),
    (false, &["log", "meta", "vectors"]),
    (false, &["index", "filter", "text"]),
    (false, &["query"]),
    (
        true,
        &[
            "commit",
            "snapshot",
            "checkpoint",
            "recover",
            "verify",
            "backup",
            "background",
            "engine",
            "follower",
            "generation",
            "compaction",
            "rebuild",
            "reaper",
            "stats",
            "catalog",
            "import",
            "purge",
        ],
    ),
    (true, &["collection", "database", "repair", "probe", "schedules"]),
];

/// Neighbours in one layer that may be imported all the same: rows and segments are the log's to define.
const SIBLINGS: &[(&str, &str)] = &[("vectors", "log"), ("meta", "log")];

/// Rooms where `unsafe` may live.
const UNSAFE_ROOMS: &[&str] = &["crates/nopokedb-kernels/", "crates/nopokedb/src/io/mmap.rs"];

const FILE_LINES_SOFT: usize = 300;
const FILE_LINES_HARD: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Files over the hard limit, with their length. This list may only shrink.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit, as `file::name` with their length. This list may only shrink.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// Sleeps in tests, per file: polls with a deadline, and children that wait to be killed. This list may only shrink.
const SLEEPS: &[(&str, usize)] = &[
    ("crates/nopokedb/src/io/lock.rs", 1),
    ("crates/nopokedb/src/meta/tests/applier.rs", 3),
    ("crates/nopokedb/src/meta/tests/store.rs", 2),
];

/// What docs/FORMAT.md must name: every kind of file in a database directory.
const FILE_KINDS: &[&str] = &["LOCK", "LOCK.info", "ACKED", "MANIFEST-", ".seg", "meta.sqlite", ".idx"];

// ---------------------------------------------------------------------------------------------------- the rules

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, names)| names.contains(&module))
}

/// A module imports only what stands below it.
fn layering(file: &Source) -> Vec<String> {
    let module = file.module();
    let Some(from) = module.first() else { return Vec::new() };
    let Some(rank) = layer_of(from) else {
        return vec![format!("{}: module `{from}` has no layer; give it one in LAYERS (tests/tidy.rs)", file.path)];
    };
    let allowed = |to: &str| {
        let lower = layer_of(to).is_some_and(|r| r < rank || (r == rank && LAYERS[rank].0));
        to == from || lower || SIBLINGS.contains(&(from, to))
    };
    let names = file.names_modules();
    let wrong = names.iter().filter(|to| layer_of(to).is_some() || *to == "testing").filter(|to| !allowed(to));
    wrong.map(|to| format!("{}: `{from}` must not import `{to}`, which stands above or beside it", file.path)).collect()
}

/// Compares what is over a limit with the list of exceptions, both ways.
fn ratchet(what: &str, limit: usize, sizes: &BTreeMap<String, usize>, exceptions: &[(&str, usize)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, size) in sizes.iter().filter(|(_, size)| **size > limit) {
        match exceptions.iter().find(|(known, _)| known == name) {
            None => complaints.push(format!("{name}: {size} {what}, the limit is {limit}; split it")),
            Some((_, known)) if size > known => {
                complaints.push(format!("{name}: grew from {known} to {size} {what}; it may only shrink"));
            }
            Some(_) => {}
        }
    }
    for (name, known) in exceptions {
        let size = sizes.get(*name).copied().unwrap_or(0);
        if size < *known {
            complaints.push(format!("{name}: the exception says {known} {what}, it has {size}; lower or remove it"));
        }
    }
    complaints
}

fn file_sizes(files: &[Source]) -> BTreeMap<String, usize> {
    files.iter().map(|f| (f.path.clone(), f.non_test_lines())).collect()
}

fn function_sizes(files: &[Source]) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    for file in files {
        for function in file.functions() {
            let size = sizes.entry(format!("{}::{}", file.path, function.name)).or_insert(0);
            *size = function.lines.max(*size);
        }
    }
    sizes
}

/// A module opens with what it is for.
fn header(file: &Source) -> Option<String> {
    let headed = file.text.trim_start().starts_with("//!");
    (!headed).then(|| format!("{}: opens without a `//!` header (purpose, invariants, threading)", file.path))
}

/// `unsafe` stays in its rooms.
fn unsafe_rooms(file: &Source) -> Vec<String> {
    if UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
        return Vec::new();
    }
    let found = words(&file.code).filter(|(_, word)| *word == "unsafe");
    let place = |at| format!("{}:{}: `unsafe` outside {UNSAFE_ROOMS:?}", file.path, line_of(&file.code, at));
    found.map(|(at, _)| place(at)).collect()
}

/// No test is switched off.
fn switched_off(path: &str, code: &str) -> Vec<String> {
    let off = ["#[ignore", "pytest.mark.skip", "pytest.mark.xfail", "unittest.skip"];
    let found = off.into_iter().filter(|bad| code.contains(bad));
    found.map(|bad| format!("{path}: `{bad}` switches a test off; mend it or delete it")).collect()
}

/// How often a test waits for time to pass instead of for the thing itself.
fn sleeps(test_code: &str) -> usize {
    test_code.matches("thread::sleep(").count() + test_code.matches("time.sleep(").count()
}

/// Paths in backticks: what has a slash or a known file ending, and no placeholder.
fn named_paths(markdown: &str) -> BTreeSet<String> {
    let is_path = |s: &&str| {
        let ends = [".rs", ".md", ".py", ".toml", ".sql", ".pyi", ".sh"].iter().any(|e| s.ends_with(e));
        let plain = s.chars().all(|c| c.is_alphanumeric() || "._-/".contains(c));
        plain && (ends || (s.ends_with('/') && s.len() > 1))
    };
    markdown.split('`').skip(1).step_by(2).filter(is_path).map(str::to_owned).collect()
}

/// Paths are named from the workspace's root.
fn missing_paths(document: &str, markdown: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let missing = named_paths(markdown).into_iter().filter(|path| !exists(path));
    missing.map(|path| format!("{document}: names `{path}`, which does not exist")).collect()
}

/// Every one of `names` appears in `text`.
fn unnamed(document: &str, text: &str, names: &[String]) -> Vec<String> {
    let missing = names.iter().filter(|name| !text.contains(name.as_str()));
    missing.map(|name| format!("{document}: does not mention `{name}`")).collect()
}

// ------------------------------------------------------------------------------------------- the workspace's files

/// Dependencies of `copy` that `original` does not have in the same words.
fn unlike(original: &str, copy: &str) -> Vec<String> {
    let sections = copy.split("\n[").filter(|s| s.starts_with("dependencies]") || s.starts_with("dev-dependencies]"));
    let lines = sections.flat_map(str::lines).filter(|line| line.contains(" = ") && !line.contains("path = "));
    lines
        .filter(|line| !line.starts_with("shuttle ") && !original.lines().any(|l| l == *line))
        .map(|line| format!("schedules/Cargo.toml: `{line}` is not in Cargo.toml; put what is there in its place"))
        .collect()
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace's root is two levels above this crate")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path} cannot be read: {e}"))
}

/// Paths from the workspace's root of all files below `dir` that end in `.ext`, sorted.
fn files_below(dir: &str, ext: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root().join(dir)) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.map(|e| e.expect("a directory of the workspace can be listed")) {
        let name = entry.file_name().into_string().expect("names in the workspace are UTF-8");
        let path = format!("{dir}/{name}");
        if entry.path().is_dir() {
            found.extend(files_below(&path, ext));
        } else if name.rsplit_once('.').is_some_and(|(_, e)| e == ext) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Files that hold tests and nothing else, by their name.
fn is_test_path(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

/// All Rust sources under crates/*/src that are not test-only modules, and those that are.
fn sources() -> (Vec<Source>, Vec<Source>) {
    let paths = files_below("crates", "rs").into_iter().filter(|p| p.contains("/src/"));
    let all: Vec<Source> = paths.map(|p| Source::new(&p, &read(&p))).collect();
    let mut test_only = BTreeSet::new();
    for file in &all {
        let dir = match file.path.strip_suffix("/mod.rs").or_else(|| file.path.strip_suffix("/lib.rs")) {
            Some(dir) => dir.to_owned(),
            None => file.path.trim_end_matches(".rs").to_owned(),
        };
        test_only.extend(file.test_modules().iter().map(|name| format!("{dir}/{name}")));
    }
    let declared =
        |path: &str| test_only.iter().any(|t| path == format!("{t}.rs") || path.starts_with(&format!("{t}/")));
    let is_test = |f: &Source| is_test_path(&f.path) || declared(&f.path);
    all.into_iter().partition(|f| !is_test(f))
}

fn engine_sources() -> Vec<Source> {
    let (production, _) = sources();
    production.into_iter().filter(|f| f.path.starts_with("crates/nopokedb/src/")).collect()
}

#[allow(clippy::needless_pass_by_value)] // callers have nothing else to do with them
fn no_complaints(complaints: Vec<String>) {
    let text = complaints.join("\n  ");
    assert!(text.is_empty(), "\n  {text}\n");
}

#[test]
fn each_layer_imports_only_what_stands_below_it() {
    no_complaints(engine_sources().iter().flat_map(layering).collect());
}

#[test]
fn files_stay_below_six_hundred_lines() {
    let (production, _) = sources();
    let sizes = file_sizes(&production);
    for (path, size) in sizes.iter().filter(|(_, size)| **size > FILE_LINES_SOFT) {
        println!("note: {path} has {size} lines; {FILE_LINES_SOFT} is the aim");
    }
    no_complaints(ratchet("lines", FILE_LINES_HARD, &sizes, LONG_FILES));
}

#[test]
fn functions_stay_below_seventy_lines() {
    let (production, _) = sources();
    no_complaints(ratchet("lines", FUNCTION_LINES, &function_sizes(&production), LONG_FUNCTIONS));
}

#[test]
fn every_module_says_what_it_is_for() {
    let (production, _) = sources();
    let other = files_below("crates", "rs").into_iter().filter(|p| !p.contains("/src/"));
    let other: Vec<Source> = other.map(|p| Source::new(&p, &read(&p))).collect();
    no_complaints(production.iter().chain(&other).filter_map(header).collect());
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let files = files_below("crates", "rs");
    no_complaints(files.iter().flat_map(|p| unsafe_rooms(&Source::new(p, &read(p)))).collect());
}

#[test]
fn no_test_is_switched_off_or_sleeps() {
    let mut complaints = Vec::new();
    let mut waits = BTreeMap::new();
    for path in files_below("crates", "rs") {
        let file = Source::new(&path, &read(&path));
        let test_lines = file.code.lines().zip(&file.is_test_line).filter(|(_, test)| **test || is_test_path(&path));
        complaints.extend(switched_off(&path, &file.code));
        let test_code: Vec<&str> = test_lines.map(|(line, _)| line).collect();
        waits.insert(path.clone(), sleeps(&test_code.join("\n")));
    }
    for path in files_below("crates/nopokedb-python/tests", "py") {
        let text = read(&path);
        complaints.extend(switched_off(&path, &text));
        waits.insert(path, sleeps(&text));
    }
    complaints.extend(ratchet("sleeps in tests (wait for the condition instead)", 0, &waits, SLEEPS));
    no_complaints(complaints);
}

#[test]
fn documents_name_only_files_that_exist() {
    let exists = |path: &str| root().join(path).exists();
    let documents = ["ARCHITECTURE.md", "README.md"];
    no_complaints(documents.iter().flat_map(|d| missing_paths(d, &read(d), &exists)).collect());
}

#[test]
fn the_map_shows_every_module_and_fits_on_its_page() {
    let map = read("ARCHITECTURE.md");
    let modules: BTreeSet<String> = engine_sources().iter().filter_map(|f| f.module().into_iter().next()).collect();
    let mut complaints = unnamed("ARCHITECTURE.md", &map, &Vec::from_iter(modules));
    let lines = map.lines().count();
    if lines > 200 {
        complaints.push(format!("ARCHITECTURE.md: {lines} lines; a map of more than 200 is a book"));
    }
    no_complaints(complaints);
}

#[test]
fn every_decision_is_in_the_index() {
    let names = files_below("docs/decisions", "md").into_iter().filter_map(|p| Some(p.rsplit_once('/')?.1.to_owned()));
    let names: Vec<String> = names.filter(|name| name != "README.md").collect();
    no_complaints(unnamed("docs/decisions/README.md", &read("docs/decisions/README.md"), &names));
}

#[test]
fn schedules_are_run_with_the_products_dependencies() {
    no_complaints(unlike(&read("Cargo.toml"), &read("schedules/Cargo.toml")));
}

#[test]
fn the_format_names_every_kind_of_file() {
    let kinds: Vec<String> = FILE_KINDS.iter().map(|k| (*k).to_owned()).collect();
    no_complaints(unnamed("docs/FORMAT.md", &read("docs/FORMAT.md"), &kinds));
}

// ------------------------------------------------------------------------------- each rule can fail: bad snippets

#[test]
fn an_import_from_above_is_found_in_every_form() {
    let bad = |text: &str| layering(&Source::new("crates/nopokedb/src/log/writer.rs", text));
    assert_eq!(bad("use crate::io::vfs::Vfs;\nuse crate::error::Result;\n"), Vec::<String>::new());
    assert_eq!(bad("use crate::index::Index;\n").len(), 1);
    assert_eq!(bad("use crate::{error::Result, query::{plan, Plan}};\n").len(), 1);
    assert_eq!(bad("fn f() { crate::database::open() }\n").len(), 1);
    assert_eq!(bad("use super::super::commit;\n").len(), 1);
    assert_eq!(bad("use crate::vectors::Loc;\n").len(), 1, "a sibling");
    assert!(bad("// crate::index in a comment\nconst S: &str = \"crate::index\";\n").is_empty());
    assert!(bad("#[cfg(test)]\nmod tests {\n    use crate::index::Index;\n}\n").is_empty(), "tests may look anywhere");
    assert!(layering(&Source::new("crates/nopokedb/src/meta/apply.rs", "use crate::log::Row;\n")).is_empty());
    assert_eq!(layering(&Source::new("crates/nopokedb/src/gadget.rs", "\n")).len(), 1, "a module without a layer");
}

#[test]
fn a_long_file_and_a_long_function_are_found_and_exceptions_only_shrink() {
    let sizes = |name: &str, size| BTreeMap::from([(name.to_owned(), size)]);
    assert_eq!(ratchet("lines", 600, &sizes("a.rs", 601), &[]).len(), 1);
    assert!(ratchet("lines", 600, &sizes("a.rs", 600), &[]).is_empty());
    assert!(ratchet("lines", 600, &sizes("a.rs", 650), &[("a.rs", 650)]).is_empty());
    assert_eq!(ratchet("lines", 600, &sizes("a.rs", 651), &[("a.rs", 650)]).len(), 1, "it grew");
    assert_eq!(ratchet("lines", 600, &sizes("a.rs", 640), &[("a.rs", 650)]).len(), 1, "it shrank: lower the bar");
    assert_eq!(ratchet("lines", 600, &sizes("b.rs", 10), &[("a.rs", 650)]).len(), 1, "the exception is unused");

    let body = "    let x = [0u8; 4];\n".repeat(80);
    let text = format!(
        "fn short(a: [u8; 2]) {{}}\nfn long(a: [u8; 2]) {{\n{body}}}\n#[cfg(test)]\nmod tests {{\n    fn t() {{\n{body}}}\n}}\n"
    );
    let file = Source::new("crates/x/src/a.rs", &text);
    let sizes = function_sizes(std::slice::from_ref(&file));
    assert_eq!(sizes.get("crates/x/src/a.rs::long"), Some(&82));
    assert_eq!(sizes.get("crates/x/src/a.rs::short"), Some(&1));
    assert_eq!(sizes.get("crates/x/src/a.rs::t"), None, "tests are not counted");
    assert_eq!(file.non_test_lines(), 83);
}

#[test]
fn braces_in_strings_chars_and_comments_do_not_confuse_the_reader() {
    let text = "fn a() {\n    let s = \"}\\\"{\";\n    let c = '{';\n    let r = r#\"}\"#; // }\n    /* } */\n}\nfn b<'a>(x: &'a str) {}\n";
    let found = Source::new("crates/x/src/a.rs", text).functions();
    let sizes: Vec<(&str, usize, usize)> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(sizes, [("a", 1, 6), ("b", 7, 1)]);
}

#[test]
fn a_headless_module_and_a_stray_unsafe_are_found() {
    assert!(header(&Source::new("crates/x/src/a.rs", "use std::fmt;\n")).is_some());
    assert!(header(&Source::new("crates/x/src/a.rs", "//! Reads.\n")).is_none());
    let stray = "// unsafe in a comment\nfn f() { unsafe { g() } }\n";
    assert_eq!(unsafe_rooms(&Source::new("crates/nopokedb/src/log/writer.rs", stray)).len(), 1);
    assert!(unsafe_rooms(&Source::new("crates/nopokedb/src/io/mmap.rs", stray)).is_empty());
    assert!(unsafe_rooms(&Source::new("crates/nopokedb/src/lib.rs", "#![deny(unsafe_code)]\n")).is_empty());
}

#[test]
fn a_test_that_is_off_or_sleeps_is_found() {
    assert_eq!(switched_off("t.rs", "#[ignore = \"slow\"]").len(), 1);
    assert_eq!(switched_off("t.py", "@pytest.mark.skip").len(), 1);
    assert!(switched_off("t.rs", "#[test]").is_empty());
    assert_eq!(sleeps("std::thread::sleep(d); time.sleep(1)"), 2);
    let waits = BTreeMap::from([("t.rs".to_owned(), 1)]);
    assert_eq!(ratchet("sleeps", 0, &waits, &[]).len(), 1);
}

#[test]
fn a_path_that_does_not_exist_is_found() {
    let exists = |path: &str| matches!(path, "Makefile" | "docs/FORMAT.md");
    let text = "See `docs/FORMAT.md`, `log/gone.rs`, `cargo test`, `bench/gone/`, `a / b`.";
    let complaints = missing_paths("X.md", text, &exists);
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert_eq!(unnamed("X.md", "only LOCK", &["LOCK".into(), ".seg".into()]).len(), 1);
}

#[test]
fn another_dependency_in_a_copy_of_the_workspace_is_found() {
    let original = "[workspace.dependencies]\n# Why.\na = \"1\"\nb = { version = \"2\", features = [\"x\", \"y\"] }\n";
    let copy =
        |b: &str| format!("[package]\nname = \"c\"\n\n[dependencies]\na = \"1\"\n{b}\nshuttle = \"0\"\n[workspace]\n");
    assert!(unlike(original, &copy("b = { version = \"2\", features = [\"x\", \"y\"] }")).is_empty());
    assert_eq!(unlike(original, &copy("b = { version = \"2\", features = [\"x\"] }")).len(), 1);
}

#[test]
fn test_only_modules_are_recognised_where_they_are_declared() {
    let file = Source::new(
        "crates/x/src/io/mod.rs",
        "mod disk;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod toys;\n",
    );
    assert_eq!(file.test_modules(), ["tests", "toys"]);
    assert_eq!(file.module(), ["io"]);
    assert_eq!(Source::new("crates/x/src/index/hnsw/graph.rs", "").module(), ["index", "hnsw", "graph"]);
}

//! The pages say what the code has: each setting, metric, header, table and file that one names or leaves out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::source::{Kind, code, collect_sources, end_of_item, scan, texts_of};

/// A metric that is counted and not described can't be looked up; one that is described and not counted is never there.
#[test]
fn every_metric_is_described_and_counted() {
    let kinds = ["counter", "gauge", "histogram"];
    let (mut described, mut counted) = (BTreeSet::new(), BTreeSet::new());
    for tokens in code().windows(4) {
        let [first, second, third, name] = tokens else { continue };
        if name.kind != Kind::Text || !name.text.starts_with("tollgate_") {
            continue;
        }
        if kinds.contains(&first.text.as_str()) && second.is("!") && third.is("(") {
            counted.insert((first.text.clone(), name.text.clone()));
        } else if first.is("(") && third.is(",") {
            // A row of METRICS.
            described.insert((second.text.to_lowercase(), name.text.clone()));
        }
    }

    assert!(counted.len() > 20, "{counted:?}");
    assert_eq!(
        counted, described,
        "METRICS of src/telemetry.rs says what each metric counts, and of no other"
    );
}

#[test]
fn every_setting_has_its_row() {
    let page = page("docs/CONFIGURATION.md");
    for (path, name) in [("src/config/mod.rs", "Config"), ("src/config/provider.rs", "ProviderConfig")] {
        let missing: Vec<String> =
            fields(path, name).into_iter().filter(|field| !has_row(&page, field)).collect();
        assert!(missing.is_empty(), "give {missing:?} of {name} a row in docs/CONFIGURATION.md");
    }

    let of_settings = fields("src/config/mod.rs", "Config").into_iter();
    let of_settings = of_settings.map(|field| format!("TOLLGATE_{}", field.to_uppercase()));
    let named_in_code = texts_of(&code()).into_iter().filter(|text| is_variable(text));
    let variables = of_settings.chain(named_in_code);
    let missing: Vec<String> = variables.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "name {missing:?} in docs/CONFIGURATION.md");
}

#[test]
fn every_field_of_a_route_is_explained() {
    let page = page("docs/ROUTES.md");
    let route = "src/domain/routing/route.rs";
    for name in ["Policy", "CachePolicy"] {
        let missing: Vec<String> =
            fields(route, name).into_iter().filter(|field| !has_row(&page, field)).collect();
        assert!(missing.is_empty(), "give {missing:?} of {name} a row in docs/ROUTES.md");
    }
    let missing: Vec<String> =
        fields(route, "When").into_iter().filter(|field| !page.contains(&format!("`{field}"))).collect();
    assert!(missing.is_empty(), "explain {missing:?} of When in docs/ROUTES.md");
}

#[test]
fn every_metric_and_every_header_has_its_row() {
    let page = page("docs/OPERATING.md");
    let texts = texts_of(&code());
    let is_word = |text: &str| text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    let metrics: Vec<&String> =
        texts.iter().filter(|text| text.starts_with("tollgate_") && is_word(text)).collect();
    let is_header = |text: &str| text.starts_with("x-tollgate-") || text == "x-should-retry";
    let headers = texts.iter().filter(|text| is_header(text) && !text.contains([' ', ':', '{']));

    let no_row: Vec<&&String> = metrics.iter().filter(|name| !has_row(&page, name)).collect();
    let unnamed: Vec<&String> = headers.filter(|name| !page.contains(&format!("`{name}`"))).collect();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let gone: Vec<&str> =
        rows.filter(|row| row.starts_with("tollgate_") && !texts.iter().any(|text| text == row)).collect();

    assert!(metrics.len() > 20, "the metrics are not found any more: {metrics:?}");
    assert!(no_row.is_empty(), "give {no_row:?} a row in docs/OPERATING.md");
    assert!(unnamed.is_empty(), "name {unnamed:?} in docs/OPERATING.md");
    assert!(gone.is_empty(), "docs/OPERATING.md has rows of metrics that are no more: {gone:?}");
}

/// What a path in a page begins with: the layers that have modules are named without `src/`.
const FOLDERS: [&str; 12] = [
    "src/",
    "tests/",
    "docs/",
    "schemas/",
    ".ci/",
    "domain/",
    "store/",
    "ledger/",
    "operations/",
    "http/",
    "gateway/",
    "workers/",
];

#[test]
fn every_file_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    let docs =
        ["docs", "docs/decisions"].into_iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let docs = docs.map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut missing = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        // What is between two backticks of a line, where it is a path.
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let is_path = |text: &str| FOLDERS.iter().any(|folder| text.starts_with(folder));
        let is_page = |text: &str| text.ends_with(".md") && !text.contains('/');
        let named =
            quoted.filter(|text| is_path(text) || is_page(text)).filter(|text| !text.contains(['…', '<']));
        missing
            .extend(named.filter(|name| is_missing(root, name)).map(|name| (page.clone(), name.to_owned())));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_promise_is_held_by_files_that_have_tests() {
    let page = page("docs/RELIABILITY.md");
    let (_, promises) = page.split_once("\n## Promises\n").unwrap();
    let (promises, _) = promises.split_once("\n## ").unwrap();
    let held_by = promises.lines().filter_map(|line| line.strip_suffix('|')?.rsplit_once('|'));
    let held_by = held_by.flat_map(|(_, files)| files.split('`').skip(1).step_by(2));
    let files: BTreeSet<&str> = held_by.filter(|name| name.ends_with(".rs")).collect();
    let has_test = |file: &&&str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(path).unwrap_or_default();
        ["#[test]", "#[tokio::test"].iter().any(|mark| text.contains(mark))
    };

    let without: Vec<&&str> = files.iter().filter(|file| !has_test(file)).collect();

    assert!(files.len() > 20, "the last column is not found any more: {files:?}");
    assert!(without.is_empty(), "docs/RELIABILITY.md says that {without:?} hold promises: there is no test");
}

/// Two versions of one bullet, as a merge leaves them, begin alike.
#[test]
fn no_two_bullets_of_a_section_of_the_changelog_begin_alike() {
    let changelog = page("CHANGELOG.md");
    let mut bullets = 0;
    for section in changelog.split("\n### ") {
        let mut begins = BTreeSet::new();
        for bullet in section.lines().filter_map(|line| line.strip_prefix("- ")) {
            let begin: String = bullet.chars().take(40).collect();
            assert!(begins.insert(begin.clone()), "CHANGELOG.md has two bullets that begin \"{begin}\"");
            bullets += 1;
        }
    }
    assert!(bullets > 50, "the bullets are not found any more: {bullets}");
}

/// A module is named without its ending, a decision by its number.
fn is_missing(root: &Path, name: &str) -> bool {
    let folders = [root.to_owned(), root.join("docs"), root.join("src")];
    let is_there = folders.iter().any(|folder| {
        let path = folder.join(name);
        path.exists() || path.with_extension("rs").exists()
    });
    let is_decision = name.strip_prefix("docs/decisions/").is_some_and(|number| {
        let decisions = fs::read_dir(root.join("docs/decisions")).unwrap();
        decisions.into_iter().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(number))
    });
    !is_there && !is_decision
}

#[test]
fn every_variable_that_makes_a_test_or_bench_long_is_told() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect_sources(&root.join("tests/it"), &mut files);
    collect_sources(&root.join("benches"), &mut files);
    let pages = ["docs/RELIABILITY.md", "docs/BENCHMARKS.md", "docs/CONFIGURATION.md"].map(page).concat();
    let texts = files.iter().flat_map(|file| texts_of(&scan(&fs::read_to_string(file).unwrap())));
    let missing: Vec<String> =
        texts.filter(|text| is_variable(text) && !pages.contains(text.as_str())).collect();
    assert!(missing.is_empty(), "name {missing:?} in docs/RELIABILITY.md or docs/BENCHMARKS.md");
}

/// A table that the instructions leave out would stay on the coordinator, and every statement on it with it.
#[test]
fn the_instructions_for_citus_name_every_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scaling = fs::read_to_string(root.join("docs/SCALING.md")).unwrap();
    let (_, citus) = scaling.split_once("## Many databases: Citus").unwrap();
    let (citus, _) = citus.split_once("\n## ").unwrap();
    let mut migrations = String::new();
    for entry in fs::read_dir(root.join("migrations/postgres")).unwrap() {
        migrations.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }

    let named =
        |table: &str| ["'", "`"].iter().any(|quote| citus.contains(&format!("{quote}{table}{quote}")));
    let tables = tables_of(&migrations);
    let left_out: Vec<&str> = tables.iter().copied().filter(|table| !named(table)).collect();

    assert!(tables.contains(&"events") && tables.contains(&"shared_rates"), "{tables:?}");
    assert!(left_out.is_empty(), "say in docs/SCALING.md how Citus is to keep {left_out:?}");
}

/// What the statements make: `create [unlogged] table NAME (`.
fn tables_of(sql: &str) -> Vec<&str> {
    let made = sql.lines().filter_map(|line| {
        let line = line.strip_prefix("create ")?;
        line.strip_prefix("unlogged ").unwrap_or(line).strip_prefix("table ")?.split([' ', '(']).next()
    });
    made.collect()
}

fn page(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Whether a table has a line that begins with the name.
fn has_row(page: &str, name: &str) -> bool {
    page.lines().any(|line| line.starts_with(&format!("| `{name}`")))
}

/// Whether it is the name of an environment variable of ours.
fn is_variable(text: &str) -> bool {
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    text.strip_prefix("TOLLGATE_").is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_name))
}

/// The public fields of a struct.
fn fields(path: &str, name: &str) -> Vec<String> {
    let tokens = scan(&page(path));
    let begins = tokens.windows(3).position(|at| at[0].is("struct") && at[1].is(name) && at[2].is("{"));
    assert!(begins.is_some(), "there is no struct {name} in {path}");
    let begins = begins.unwrap();
    let body = &tokens[begins..end_of_item(&tokens, begins)];
    let fields = body.windows(3).filter(|at| at[0].is("pub") && at[2].is(":"));
    fields.map(|at| at[1].text.clone()).collect()
}

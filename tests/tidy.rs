//! The repository's own rules.

#![allow(missing_docs, reason = "tests")]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn every_module_says_what_it_owns() {
    for (path, text) in sources("src") {
        assert!(text.starts_with("//! "), "{} opens without a module header", path.display());
    }
}

#[test]
fn one_file_names_rsip() {
    let named: Vec<PathBuf> = sources("src")
        .into_iter()
        .filter(|(_, text)| text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("rsip::")))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(named, [root().join("src/sip/typed.rs")]);
}

#[test]
fn the_core_names_no_shell() {
    let shell = ["admin", "cli", "server", "sinks", "transport", "vault"];
    for (path, text) in sources("src") {
        let first = path.strip_prefix(root().join("src")).expect("below src").components().next().expect("a name");
        let first = first.as_os_str().to_string_lossy().into_owned();
        if shell.contains(&first.as_str()) || ["lib.rs", "main.rs", "exit.rs"].contains(&first.as_str()) {
            continue;
        }
        for word in
            ["tokio", "crate::server", "crate::admin", "crate::transport", "crate::cli", "SystemTime", "UdpSocket"]
        {
            let code = |line: &&str| !line.trim_start().starts_with("//") && line.contains(word);
            assert!(!text.lines().any(|line| code(&line)), "{} names {word}", path.display());
        }
    }
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["todo", "!("].concat(),
        ["unimplemented", "!("].concat(),
        ["#[ign", "ore"].concat(),
    ];
    for folder in ["src", "tests", "benches"] {
        for (path, text) in sources(folder) {
            for mark in &marks {
                assert!(!text.contains(mark.as_str()), "{} has {mark}", path.display());
            }
        }
    }
}

#[test]
fn files_stay_one_concept_long() {
    for (path, text) in sources("src") {
        let lines = text.lines().count();
        assert!(lines <= 700, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_cited_rfc_section_has_a_number_that_can_exist() {
    for (path, text) in sources("src") {
        for (at, _) in text.match_indices('§') {
            let rest = &text[at + '§'.len_utf8()..];
            assert!(
                rest.starts_with(|c: char| c.is_ascii_digit() || c == ' '),
                "{}: § without a section",
                path.display()
            );
        }
    }
}

#[test]
fn the_top_level_is_as_agreed() {
    for entry in std::fs::read_dir(root()).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let known = ["Cargo.toml", "Cargo.lock", "README.md", "LICENSE", "src", "benches", "tests", "deploy", "target"];
        assert!(name.starts_with('.') || known.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn every_metric_is_in_the_readme_and_every_one_there_exists() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let exposition = std::fs::read_to_string(root().join("src/admin/exposition.rs")).expect("the exposition");
    let names = |text: &str, opens: &str| -> Vec<String> {
        let mut names: Vec<String> = text
            .match_indices(opens)
            .map(|(at, _)| {
                text[at + opens.len() - "sipweir_".len()..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect()
            })
            .collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names(&readme, "| `sipweir_"), names(&exposition, "\"sipweir_"));
}

#[test]
fn rules_and_dashboard_name_no_metric_that_does_not_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    for file in ["deploy/prometheus/alerts.yml", "deploy/grafana/sipweir.json"] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        let names = text.match_indices("sipweir_").map(|(at, _)| {
            text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
        });
        for name in names {
            let family = ["_bucket", "_count", "_sum"].into_iter().find_map(|end| name.strip_suffix(end));
            let is_known = |name: &str| readme.contains(&format!("| `{name}` |"));
            assert!(is_known(&name) || family.is_some_and(is_known), "{file} names {name}");
        }
    }
}

#[test]
fn the_catalogue_of_events_in_the_readme_is_the_one_of_the_code() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let catalogue = sipweir::alert::EventKind::catalogue();
    assert!(readme.contains(&catalogue), "put this into README.md:\n{catalogue}");
}

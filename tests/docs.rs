//! Links between the documents of the repository lead somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A document: its links, and the anchors of its headings.
#[derive(Default)]
struct Document {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

#[test]
fn relative_links_lead_to_files_and_headings_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents: BTreeMap<PathBuf, Document> = markdown_files(root)
        .unwrap()
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path, document(&text))
        })
        .collect();
    assert!(documents.len() > 20, "only {} documents were found", documents.len());
    let mut broken = Vec::new();
    for (path, document) in &documents {
        for link in document.links.iter().filter(|link| is_relative(link)) {
            if let Some(why) = problem(path, link, &documents) {
                broken.push(format!("{}: {link}: {why}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn headings_have_the_anchors_that_github_gives_them() {
    let text = "# What it is: `a_b`, and *more*\n## Twice\n## Twice\n\n```\n# no heading\n```\n[x](y.md#z)\n";
    let document = document(text);
    assert_eq!(document.anchors, ["what-it-is-a_b-and-more", "twice", "twice-1"].map(str::to_owned).into());
    assert_eq!(document.links, ["y.md#z"]);
}

/// Why a link leads nowhere.
fn problem(from: &Path, link: &str, documents: &BTreeMap<PathBuf, Document>) -> Option<&'static str> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = match path {
        "" => from.to_owned(),
        path => normalized(&from.parent()?.join(path)),
    };
    if !target.exists() {
        return Some("there is no such file");
    }
    let anchor = anchor.filter(|_| target.extension().is_some_and(|extension| extension == "md"))?;
    let has_anchor = documents.get(&target).is_some_and(|document| document.anchors.contains(anchor));
    (!has_anchor).then_some("there is no such heading")
}

fn is_relative(link: &str) -> bool {
    !link.contains("://") && !link.starts_with("mailto:")
}

/// The path without `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = normalized.pop(),
            Component::CurDir => {}
            other => normalized.push(other),
        }
    }
    normalized
}

/// All Markdown files of the repository.
fn markdown_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files.extend(markdown_files(&path)?);
            }
        } else if name.ends_with(".md") {
            files.push(path);
        }
    }
    Ok(files)
}

fn document(text: &str) -> Document {
    let mut document = Document::default();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => document.links.push(dest_url.into_string()),
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(words) | Event::Code(words) => heading.iter_mut().for_each(|heading| heading.push_str(&words)),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let numbered = (1..).map(|n| format!("{anchor}-{n}"));
                let free =
                    std::iter::once(anchor.clone()).chain(numbered).find(|name| !document.anchors.contains(name));
                document.anchors.extend(free);
            }
            _ => {}
        }
    }
    document
}

/// The anchor of a heading: letters in lower case, digits, `-` and `_`, with `-` for spaces.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c if c.is_alphanumeric() => Some(c),
        _ => None,
    };
    heading.to_lowercase().chars().filter_map(kept).collect()
}

//! What a command answers, and how it is printed: as tables, JSON or YAML.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use sharedlb_kubernetes::text;
use tabwriter::TabWriter;

use crate::snapshot::Unseen;

/// The format of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables
    #[default]
    Table,
    /// Tables with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// What a command found: plain data, which JSON and YAML show, and its rendering.
pub(crate) trait Report: Serialize {
    /// The report for a person. Pure.
    fn render(&self) -> Document;

    /// What the exit status says.
    fn outcome(&self) -> Outcome;
}

/// What a command found, as far as scripts need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What was asked for is there, and nothing is wrong.
    Fine,
    /// Something is wrong, or what was asked for is not there.
    Finding,
    /// What could not be seen may change the answer.
    Uncertain,
}

/// A report as JSON or YAML.
#[derive(Serialize)]
struct Answer<'a, R> {
    #[serde(flatten)]
    report: &'a R,
    /// What could not be seen.
    unseen: &'a [Unseen],
}

/// Prints a report on stdout, and what could not be seen on stderr. (JSON and YAML have both.)
///
/// # Errors
/// If stdout cannot be written to. A reader that closes the pipe early, such as `head`, is no
/// error.
pub(crate) fn print(report: &impl Report, unseen: &[Unseen], format: Format) -> anyhow::Result<()> {
    let answer = Answer { report, unseen };
    let printed = match format {
        Format::Table => report.render().to_text(Columns::Usual),
        Format::Wide => report.render().to_text(Columns::All),
        Format::Json => serde_json::to_string_pretty(&answer)? + "\n",
        Format::Yaml => serde_saphyr::to_string(&answer)?,
    };
    write_stdout(&printed)?;
    if matches!(format, Format::Table | Format::Wide) {
        for unseen in unseen {
            anstream::eprintln!("{}", Cell::new(unseen.to_string(), Tone::Faint).painted());
        }
    }
    Ok(())
}

/// Writes text on stdout; colours only to a terminal, as `NO_COLOR` and `CLICOLOR_FORCE` say.
///
/// # Errors
/// If stdout cannot be written to, unless its reader has closed it.
pub(crate) fn write_stdout(text: &str) -> io::Result<()> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Tables and lines, one after another.
#[derive(Debug, Default)]
pub(crate) struct Document(Vec<Block>);

#[derive(Debug)]
enum Block {
    Line(Cell),
    Table(Table),
}

/// Which columns are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Those that fit on a terminal
    Usual,
    /// All
    All,
}

impl Document {
    /// Adds a line.
    pub(crate) fn line(&mut self, line: impl Into<Cell>) {
        self.0.push(Block::Line(line.into()));
    }

    /// Adds a table, unless it has no rows. An empty line separates it from what is beside it.
    pub(crate) fn table(&mut self, table: Table) {
        if !table.rows.is_empty() {
            self.0.push(Block::Table(table));
        }
    }

    /// The text with ANSI escapes.
    pub(crate) fn to_text(&self, columns: Columns) -> String {
        let mut text = String::new();
        let mut before: Option<&Block> = None;
        for block in &self.0 {
            let follows_line = matches!(before, Some(Block::Line(_)));
            if before.is_some() && !(follows_line && matches!(block, Block::Line(_))) {
                text.push('\n');
            }
            match block {
                Block::Line(line) => _ = writeln!(text, "{}", line.painted()),
                Block::Table(table) => text.push_str(&table.to_text(columns)),
            }
            before = Some(block);
        }
        text
    }
}

/// A table as `kubectl get` prints them.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    /// One that is always shown
    Usual(&'static str),
    /// One for the format `wide`
    Wide(&'static str),
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn to_text(&self, columns: Columns) -> String {
        let is_shown = |column: &Column| columns == Columns::All || matches!(column, Column::Usual(_));
        let title = |column: &Column| match column {
            Column::Usual(title) | Column::Wide(title) => (*title).to_owned(),
        };
        let shown: Vec<bool> = self.columns.iter().map(is_shown).collect();
        let line = |cells: Vec<String>| {
            let cells = cells.into_iter().zip(&shown).filter(|(_, shown)| **shown).map(|(cell, _)| cell);
            cells.collect::<Vec<_>>().join("\t") + "\n"
        };
        let mut lines = line(self.columns.iter().map(title).collect());
        for row in &self.rows {
            lines += &line(row.iter().map(Cell::painted).collect());
        }
        aligned(&lines)
    }
}

/// The lines with their tabs replaced by spaces, so that columns are aligned.
fn aligned(lines: &str) -> String {
    let mut writer = TabWriter::new(Vec::new()).minwidth(1).padding(3).ansi(true);
    _ = writer.write_all(lines.as_bytes());
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One text of a table, or a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// What the colour of a text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing
    Plain,
    /// A heading
    Strong,
    /// All is well.
    Good,
    /// It may become wrong, or is about to pass.
    Warning,
    /// It is wrong.
    Bad,
    /// It matters less.
    Faint,
}

impl Cell {
    /// A text in a tone. What others wrote is made fit for a terminal.
    pub(crate) fn new(text: impl AsRef<str>, tone: Tone) -> Self {
        Self { text: text::message(text.as_ref()), tone }
    }

    /// The text, or `-` if there is none.
    pub(crate) fn or_dash(text: Option<impl AsRef<str>>) -> Self {
        text.map_or_else(|| Self::new("-", Tone::Faint), |text| Self::new(text, Tone::Plain))
    }

    /// With ANSI escapes.
    fn painted(&self) -> String {
        let style = match self.tone {
            Tone::Plain => return self.text.clone(),
            Tone::Strong => Style::new().bold(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Faint => Style::new().dimmed(),
        };
        format!("{style}{}{style:#}", self.text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(document: &Document, columns: Columns) -> String {
        anstream::adapter::strip_str(&document.to_text(columns)).to_string()
    }

    fn document() -> Document {
        let mut table = Table::new([Column::Usual("NAME"), Column::Wide("UID"), Column::Usual("READY")]);
        table.row(["redis→6379".into(), "1".into(), Cell::new("True", Tone::Good)]);
        table.row(["db".into(), "2".into(), Cell::new("False", Tone::Bad)]);
        let mut document = Document::default();
        document.line("class default");
        document.table(table);
        document.line("the end");
        document
    }

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        assert_eq!(
            plain(&document(), Columns::Usual),
            "class default\n\nNAME         READY\nredis→6379   True\ndb           False\n\nthe end\n"
        );
        assert!(document().to_text(Columns::Usual).contains("\x1b[32mTrue\x1b[0m"));
    }

    #[test]
    fn columns_for_wide_are_left_out_elsewhere() {
        assert!(plain(&document(), Columns::All).contains("NAME         UID   READY\n"));
    }

    #[test]
    fn a_table_without_rows_is_left_out() {
        let mut document = Document::default();
        document.table(Table::new([Column::Usual("NAME")]));
        assert_eq!(document.to_text(Columns::All), "");
    }

    #[test]
    fn what_others_wrote_begins_no_line_and_sets_no_colour() {
        let cell = Cell::from("a\n\x1b[31mb\tc");
        assert_eq!(cell.painted(), r"a\n\u{1b}[31mb\tc");
    }
}

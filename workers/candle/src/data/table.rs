//! The rows of a data source, whatever its format and in however many files, one after another. `load` and `infer` read through it and know neither; of the
//! data there is in memory what the format's reader holds of one file.

use std::sync::Arc;

use mlctl_artifacts::Pieces;
use mlctl_protocol::spec::DataSource;

use super::{
    blocks::Version,
    columns::{Columns, Wanted},
    csv,
    files::Files,
    jsonl,
    lines::Lines,
    npy::{Arrays, Headers},
    parquet::{Footer, Parquet},
    randn::{self, Table as Letter},
    row::{Of, Place, Row},
    stream::{Access, Stream},
};
use crate::fault::Fault;

/// A source being read.
#[derive(Debug)]
pub struct Table<'a> {
    access: Access<'a>,
    layout: Arc<Layout>,
    part: Part<'a>,
    /// Where the first row of the file being read lies in it.
    origin: u64,
    /// The first row of each file that was begun.
    starts: Vec<u64>,
    /// Rows read.
    rows: u64,
    /// What each file that was read to its end holds.
    contents: Vec<String>,
    /// BLAKE3 of each such file, and of the one with its targets.
    digests: Vec<(String, Option<String>)>,
    /// Where a table that is one block alone lies.
    block: Option<Place>,
}

/// What all files of a source have in common.
#[derive(Debug, Clone)]
pub struct Layout {
    format: Format,
    files: Files,
    /// The files with what is to be learnt, where that lies in others.
    target_files: Option<Files>,
    /// The names of the columns of the first file, and so of all.
    header: Vec<String>,
    keys: Option<Arc<jsonl::Keys>>,
    columns: Columns,
}

impl Layout {
    /// Files.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.files.len()
    }

    /// Where a file is.
    #[must_use]
    pub fn uri(&self, file: usize) -> &str {
        self.files.get(file).map_or(self.files.uri(), |file| file.uri.as_str())
    }

    fn targets_uri(&self, file: usize) -> Option<&str> {
        self.target_files.as_ref()?.get(file).map(|file| file.uri.as_str())
    }

    /// The files, and those with what is to be learnt where that lies in others.
    pub(super) const fn all_files(&self) -> (&Files, Option<&Files>) {
        (&self.files, self.target_files.as_ref())
    }

    /// Features a row.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.columns.features.len()
    }

    /// Targets a row.
    #[must_use]
    pub const fn targets(&self) -> usize {
        self.columns.targets.len()
    }

    /// The name of a feature.
    #[must_use]
    pub fn feature(&self, at: usize) -> Option<String> {
        self.columns.features.get(at).map(|column| column.name.clone())
    }
}

/// A version of a file, and what must be known of it before any of its blocks is read.
#[derive(Debug)]
pub enum Handle {
    /// A file of lines.
    Lines(Pieces),
    /// Arrays.
    Arrays(Box<Headers>),
    /// A Parquet file.
    Parquet(Footer),
}

impl Handle {
    /// Asks the store for a file.
    ///
    /// # Errors
    /// When it is not there, or its beginning or end cannot be read.
    pub fn open(access: &Access<'_>, layout: &Layout, file: usize) -> Result<Self, Fault> {
        let uri = layout.uri(file);
        Ok(match layout.format {
            Format::Csv | Format::Jsonl => Self::Lines(access.open(uri)?.1),
            Format::Npy => Self::Arrays(Box::new(Headers::read(access, uri, layout.targets_uri(file))?)),
            Format::Parquet => Self::Parquet(Footer::read(access, uri)?),
        })
    }

    /// What tells the version of a file from others that the store has now; nothing is read of it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn version_now(access: &Access<'_>, layout: &Layout, file: usize) -> Result<Version, Fault> {
        let uri = layout.uri(file);
        let all = [Some(uri), layout.targets_uri(file)].into_iter().flatten();
        let all: Vec<_> = all.map(|uri| Ok(access.open(uri)?.1)).collect::<Result<_, Fault>>()?;
        Ok(Version::of(uri, &all.iter().collect::<Vec<_>>()))
    }

    /// What tells this version from others.
    #[must_use]
    pub fn version(&self, uri: &str) -> Version {
        match self {
            Self::Lines(pieces) => Version::of(uri, &[pieces]),
            Self::Arrays(headers) => Version::of(uri, &headers.pieces()),
            Self::Parquet(footer) => Version::of(uri, &[footer.pieces()]),
        }
    }
}

/// A format of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Jsonl,
    Npy,
    Parquet,
}

/// The file being read.
#[derive(Debug)]
enum Part<'a> {
    Lines(Lines<'a>),
    Arrays(Box<Arrays<'a>>),
    Parquet(Box<Parquet<'a>>),
}

impl<'a> Table<'a> {
    /// Opens the first file of a source; `None` for one without files.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(access: &Access<'a>, source: &DataSource) -> Result<Option<Self>, Fault> {
        let (format, uri, targets_uri) = match source {
            DataSource::Csv { uri, .. } => (Format::Csv, uri, None),
            DataSource::Jsonl { uri, .. } => (Format::Jsonl, uri, None),
            DataSource::Npy { uri, targets_uri } => (Format::Npy, uri, targets_uri.as_deref()),
            DataSource::Parquet { uri, .. } => (Format::Parquet, uri, None),
            DataSource::Randn { .. } | DataSource::Text { .. } | DataSource::Dataset { .. } => return Ok(None),
        };
        let files = Files::find(access, uri)?;
        let target_files = targets_uri.map(|uri| Files::find(access, uri)).transpose()?;
        if let Some(targets) = target_files.as_ref().filter(|targets| targets.len() != files.len()) {
            return Err(Fault::spec(
                format!("{uri} are {} files and {} are {}", files.len(), targets.uri(), targets.len()),
                "they belong together in the order of their names: bring a file of targets for each file of features",
            ));
        }
        let part = begin(access, format, (&files, target_files.as_ref()), 0, None)?;
        let (header, keys) = (part.header(), part.keys());
        let layout = Layout { format, files, target_files, header, keys, columns: Columns::default() };
        let (access, layout, origin) = (access.clone(), Arc::new(layout), part.origin());
        let (starts, contents, digests) = (vec![0], Vec::new(), Vec::new());
        Ok(Some(Self { access, layout, part, origin, starts, rows: 0, contents, digests, block: None }))
    }

    /// The rows of a block alone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn block(
        access: &Access<'a>,
        layout: &Arc<Layout>,
        (file, handle): (usize, &Handle),
        (start, end): (u64, u64),
        (first, of_file): (u64, u64),
    ) -> Result<Self, Fault> {
        let (uri, whole) = (layout.uri(file), end == 0);
        let files = (&layout.files, layout.target_files.as_ref());
        let mut part = match (handle, &layout.keys) {
            _ if whole => begin(access, layout.format, files, file, layout.keys.clone())?,
            (Handle::Lines(pieces), keys) => {
                let stream = Stream::of(access, uri, pieces.range(start..end));
                Part::Lines(match keys {
                    Some(keys) => Lines::Jsonl(Box::new(jsonl::Reader::over(stream, Arc::clone(keys)))),
                    None => Lines::Csv(Box::new(csv::Reader::over(stream))),
                })
            }
            (Handle::Arrays(headers), _) => Part::Arrays(Box::new(Arrays::part(access, headers, start..end))),
            (Handle::Parquet(footer), _) => {
                let narrow = |group| usize::try_from(group).unwrap_or(usize::MAX);
                Part::Parquet(Box::new(Parquet::over(access, footer.clone(), Some(narrow(start)..narrow(end)))))
            }
        };
        if let Part::Parquet(file) = &mut part {
            file.select(&layout.columns)?;
        }
        let block = Some(Place { file, before: of_file, skipped: first - of_file });
        let (access, layout) = (access.clone(), Arc::clone(layout));
        let (contents, digests) = (Vec::new(), Vec::new());
        Ok(Self { access, layout, part, origin: 0, starts: vec![0], rows: 0, contents, digests, block })
    }

    /// What all files have in common.
    #[must_use]
    pub fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout)
    }

    /// Where the first row of the file being read lies in it.
    #[must_use]
    pub const fn origin(&self) -> u64 {
        self.origin
    }

    /// Where the next row lies, if it can be read without those before it; and how many bytes of the file come before that, about.
    #[must_use]
    pub fn place_after(&self) -> Option<(u64, u64)> {
        match &self.part {
            Part::Lines(lines) => lines.place().map(|place| (place, place)),
            Part::Arrays(arrays) => arrays.row_bytes().map(|bytes| (arrays.row() + 1, (arrays.row() + 1) * bytes)),
            Part::Parquet(file) => file.group_after().map(|group| (group, group << 40)),
        }
    }

    /// The names of the columns.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.layout.header
    }

    /// What the spec calls the files.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.layout.files.uri()
    }

    /// Says which columns are read; arrays have theirs by their files.
    ///
    /// # Errors
    /// As [`Columns::find`].
    pub fn select(&mut self, wanted: Wanted<'_>) -> Result<&Columns, Fault> {
        let columns = match &self.part {
            Part::Arrays(arrays) => Columns::in_order(self.header(), arrays.widths().0),
            Part::Lines(_) | Part::Parquet(_) => Columns::find(self.uri(), self.header(), wanted)?,
        };
        if let Part::Parquet(file) = &mut self.part {
            file.select(&columns)?;
        }
        let layout = Arc::make_mut(&mut self.layout);
        layout.columns = columns;
        Ok(&layout.columns)
    }

    /// The columns that are read.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.layout.columns
    }

    /// Rows in all, where that is known before the end.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        match &self.part {
            Part::Arrays(arrays) if self.layout.files() == 1 => Some(arrays.rows()),
            Part::Parquet(file) if self.layout.files() == 1 => Some(file.total()),
            _ => None,
        }
    }

    /// The next row; `None` at the end of the last file.
    ///
    /// # Errors
    /// When a file cannot be read on, or has other columns than the first.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, Fault> {
        while !self.part.advance()? {
            self.contents.push(self.part.content_digest());
            self.check_whole()?;
            let at = self.starts.len();
            if at == self.layout.files() || self.block.is_some() {
                return Ok(None);
            }
            let files = (&self.layout.files, self.layout.target_files.as_ref());
            self.part = begin(&self.access, self.layout.format, files, at, self.layout.keys.clone())?;
            self.check_header(at)?;
            self.origin = self.part.origin();
            if let Part::Parquet(file) = &mut self.part {
                file.select(&self.layout.columns)?;
            }
            self.starts.push(self.rows);
        }
        self.rows += 1;
        let at = self.starts.len() - 1;
        let place = self.block.unwrap_or(Place { file: at, before: self.starts[at], skipped: 0 });
        let of = match &self.part {
            Part::Lines(lines) => Of::Record(lines.record()),
            Part::Arrays(arrays) => Of::Arrays(arrays),
            Part::Parquet(file) => Of::Parquet(file),
        };
        Ok(Some(Row::new(of, &self.layout.columns, place, &self.layout.files)))
    }

    /// The file of a row that was read, and the row's number in it.
    #[must_use]
    pub fn place(&self, row: u64) -> (&str, u64) {
        let at = self.starts.partition_point(|start| *start <= row).saturating_sub(1);
        (self.layout.uri(at), row - self.starts.get(at).copied().unwrap_or(0))
    }

    /// What the store calls the version of the file, where it has such a thing and the file is the only one.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        match &self.part {
            _ if self.layout.files() > 1 => None,
            Part::Lines(lines) => lines.version(),
            Part::Arrays(arrays) => arrays.version(),
            Part::Parquet(file) => file.version(),
        }
    }

    /// What all files hold, once they are read to the end: BLAKE3 of the one, or over all with their names and sizes.
    #[must_use]
    pub fn content_digest(&self) -> String {
        self.layout.files.digest(&self.contents)
    }

    /// BLAKE3 of each file that was read to its end, and of the one with its targets.
    pub(super) fn digests(&self) -> &[(String, Option<String>)] {
        &self.digests
    }

    /// The rows of each file, once all are read.
    pub(super) fn counts(&self) -> Vec<u64> {
        let ends = self.starts.iter().skip(1).copied().chain([self.rows]);
        self.starts.iter().zip(ends).map(|(start, end)| end - start).collect()
    }

    /// The file was read to its end: is it what it must be? Of a part of one that is not known.
    fn check_whole(&mut self) -> Result<(), Fault> {
        if self.block.is_some() {
            return Ok(());
        }
        let (at, digests) = (self.digests.len(), self.part.digests());
        self.layout.files.check(at, &digests.0)?;
        if let (Some(files), Some(targets)) = (&self.layout.target_files, &digests.1) {
            files.check(at, targets)?;
        }
        self.digests.push(digests);
        Ok(())
    }

    fn check_header(&self, at: usize) -> Result<(), Fault> {
        let header = self.part.header();
        if header == self.header() {
            return Ok(());
        }
        let uri = |at| self.layout.uri(at);
        let differs = self.header().iter().zip(&header).find(|(ours, theirs)| ours != theirs);
        let how = match differs {
            Some((ours, theirs)) => format!("a column {theirs:?} where that has {ours:?}"),
            None => format!("{} columns, and that has {}", header.len(), self.header().len()),
        };
        Err(Fault::spec(
            format!("{} is not of the same columns as {}: it has {how}", uri(at), uri(0)),
            "files that are read as one have the same columns in the same order",
        ))
    }
}

/// Opens a file of several.
fn begin<'a>(
    access: &Access<'a>,
    format: Format,
    (files, targets): (&Files, Option<&Files>),
    at: usize,
    keys: Option<Arc<jsonl::Keys>>,
) -> Result<Part<'a>, Fault> {
    let uri = files.get(at).map_or(files.uri(), |file| file.uri.as_str());
    Ok(match format {
        Format::Csv => Part::Lines(Lines::Csv(Box::new(csv::Reader::open(access, uri)?))),
        Format::Jsonl => Part::Lines(Lines::Jsonl(Box::new(jsonl::Reader::open(access, uri, keys)?))),
        Format::Parquet => Part::Parquet(Box::new(Parquet::open(access, uri)?)),
        Format::Npy => {
            let targets = targets.and_then(|targets| targets.get(at)).map(|file| file.uri.as_str());
            Part::Arrays(Box::new(Arrays::open(access, uri, targets)?))
        }
    })
}

impl Part<'_> {
    fn header(&self) -> Vec<String> {
        let names = |letter, width| randn::names(letter, u32::try_from(width).unwrap_or(u32::MAX));
        match self {
            Self::Lines(lines) => lines.header().to_vec(),
            Self::Arrays(arrays) => {
                let (features, targets) = arrays.widths();
                [names(Letter::Features, features), names(Letter::Targets, targets)].concat()
            }
            Self::Parquet(file) => file.header(),
        }
    }

    /// Where the first row lies.
    fn origin(&self) -> u64 {
        match self {
            Self::Lines(Lines::Csv(reader)) => reader.place().unwrap_or(0),
            Self::Lines(Lines::Jsonl(_)) | Self::Arrays(_) | Self::Parquet(_) => 0,
        }
    }

    fn keys(&self) -> Option<Arc<jsonl::Keys>> {
        match self {
            Self::Lines(Lines::Jsonl(reader)) => Some(reader.keys()),
            _ => None,
        }
    }

    fn advance(&mut self) -> Result<bool, Fault> {
        match self {
            Self::Lines(lines) => lines.advance(),
            Self::Arrays(arrays) => arrays.advance(),
            Self::Parquet(file) => file.advance(),
        }
    }

    fn digests(&self) -> (String, Option<String>) {
        match self {
            Self::Arrays(arrays) => arrays.digests(),
            Self::Lines(_) | Self::Parquet(_) => (self.content_digest(), None),
        }
    }

    fn content_digest(&self) -> String {
        match self {
            Self::Lines(lines) => lines.content_digest(),
            Self::Arrays(arrays) => arrays.content_digest(),
            Self::Parquet(file) => file.content_digest(),
        }
    }
}

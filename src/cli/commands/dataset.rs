//! `mlctl dataset`: datasets and their versions.

use std::path::{Path, PathBuf};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use mlctl_protocol::spec::{DataFormat, DataSource, TextTokens, dataset_parts, file_set};

use super::survey;
use crate::{
    api::{
        query::segment,
        types::{DatasetDetail, DatasetList, DatasetVersionList, DatasetVersionView},
    },
    cli::{
        Context, Done, Failure,
        client::{Client, LONG_LIMIT},
        commands::storage::Limits,
        exit::Exit,
        output::datasets,
        spec,
    },
    domain::rules,
};

mod push;
mod verify;

const EXAMPLES: &str = "\
A version of a dataset is what files were when it was added: their names, sizes and checksums, their rows and columns. It never changes. A job that names it reads those files and no others, and fails at
once, with the file's name, when one of them is missing, cut off or changed; also when it goes on after a retry:

  [train.data]
  format = \"dataset\"
  dataset = \"digits/3\"                       or \"digits\": the newest at the submit, which the job keeps
  targets = [\"label\"]

Every row is read once, by the worker's own readers, with your rights.

Examples:
  mlctl dataset add digits data/digits.csv
  mlctl dataset add digits 's3://ml/digits/part-*.parquet'
  mlctl dataset add digits data/ --format jsonl
  mlctl dataset add arrays x.npy --targets y.npy
  mlctl dataset push digits day-1.csv day-2.csv   brings them to the daemon's storage first
  mlctl dataset ls
  mlctl dataset show digits                 its versions, newest first
  mlctl dataset show digits/3               its files and columns
  mlctl dataset verify digits/3             reads all again; exit code 1 when something has changed
  mlctl dataset pin digits                  a version of what the same place holds by now
  mlctl dataset rm digits/3                 its files stay; its number is not used again";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look at files and make what they are a version
    #[command(after_help = EXAMPLES)]
    Add {
        /// The dataset; it is made where there is none
        #[arg(value_parser = dataset_name)]
        dataset: String,
        /// A file, a folder with a slash at its end, or a pattern: a path, file:// or s3://
        #[arg(value_name = "URI|PATH")]
        place: String,
        /// What the files are [default: by the ending of their names]
        #[arg(long, value_parser = format_parser())]
        format: Option<DataFormat>,
        /// The .npy file or files with what is to be learnt
        #[arg(long, value_name = "URI|PATH")]
        targets: Option<String>,
        #[command(flatten)]
        by: By,
    },
    /// Bring files to the daemon's object storage and make them a version
    ///
    /// They are looked at first. What was cut off is gone on with by the same command; files that are there are not sent again.
    #[command(after_help = EXAMPLES)]
    Push {
        /// The dataset; it is made where there is none
        #[arg(value_parser = dataset_name)]
        dataset: String,
        /// Files, folders and patterns here, of the same columns
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
        /// What the files are [default: by the ending of their names]
        #[arg(long, value_parser = format_parser())]
        format: Option<DataFormat>,
        #[command(flatten)]
        by: By,
        #[command(flatten)]
        limits: Limits,
    },
    /// List datasets with their newest versions
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Show the versions of a dataset, or the files and columns of one
    #[command(after_help = EXAMPLES)]
    Show {
        /// The dataset and, after a slash, a version
        #[arg(value_name = "DATASET[/VERSION]", value_parser = Which::parse)]
        which: Which,
    },
    /// Read the files of a version again and say what has changed
    #[command(after_help = EXAMPLES)]
    Verify {
        /// The dataset and, after a slash, a version [default: the newest]
        #[arg(value_name = "DATASET[/VERSION]", value_parser = Which::parse)]
        which: Which,
    },
    /// Make a version of what the place of the newest one holds by now
    #[command(after_help = EXAMPLES)]
    Pin {
        /// The dataset
        #[arg(value_parser = dataset_name)]
        dataset: String,
        #[command(flatten)]
        by: By,
    },
    /// Remove versions; their files stay
    #[command(after_help = EXAMPLES)]
    Rm {
        /// Which
        #[arg(value_name = "DATASET/VERSION", value_parser = version_name, required = true)]
        versions: Vec<String>,
    },
}

/// Who looks.
#[derive(Debug, Args)]
struct By {
    /// The worker's program that reads the files [default: the daemon's]
    #[arg(long, value_name = "PROGRAM")]
    worker: Option<PathBuf>,
}

/// A dataset, or one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Which {
    dataset: String,
    version: Option<u32>,
}

impl Which {
    fn parse(text: &str) -> Result<Self, String> {
        let (dataset, version) = dataset_parts(text).ok_or("a version is a number from 1 on, as in digits/3")?;
        Ok(Self { dataset: dataset_name(dataset)?, version })
    }

    /// The number, where one is given, else that of the newest.
    async fn number(&self, client: &Client) -> Result<u32, Failure> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        newest(client, &self.dataset).await.map(|newest| newest.version)
    }
}

fn format_parser() -> impl clap::builder::TypedValueParser<Value = DataFormat> {
    PossibleValuesParser::new(DataFormat::ALL.map(|(name, _)| name)).try_map(|name| {
        let found = DataFormat::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, format)| format).ok_or("it is no format")
    })
}

fn dataset_name(text: &str) -> Result<String, String> {
    match rules::dataset_name(text) {
        Some(problem) => Err(format!("{}; {}", problem.message, problem.hint.unwrap_or_default())),
        None => Ok(text.to_owned()),
    }
}

fn version_name(text: &str) -> Result<String, String> {
    let Which { version, .. } = Which::parse(text)?;
    version.map(|_| text.to_owned()).ok_or_else(|| "name a version, as in digits/3".into())
}

fn path(dataset: &str) -> String {
    format!("/v1/datasets/{}", segment(dataset))
}

fn version_path(dataset: &str, version: &str) -> String {
    format!("{}/versions/{}", path(dataset), segment(version))
}

async fn newest(client: &Client, dataset: &str) -> Result<DatasetVersionView, Failure> {
    let list: DatasetVersionList = client.get(&path(dataset)).await?;
    list.versions.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("all versions of dataset {dataset} were removed"))
            .hint(format!("`mlctl dataset add {dataset}` makes one"))
    })
}

async fn detail(client: &Client, dataset: &str, version: u32) -> Result<DatasetDetail, Failure> {
    client.get_within(&version_path(dataset, &version.to_string()), LONG_LIMIT).await
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Add { dataset, place, .. } => format!("make a version of {dataset} of {place}"),
            Verb::Push { dataset, .. } => format!("push files to {dataset}"),
            Verb::Ls => "list datasets".into(),
            Verb::Show { which } => format!("show dataset {}", which.dataset),
            Verb::Verify { which } => format!("verify dataset {}", which.dataset),
            Verb::Pin { dataset, .. } => format!("make a version of what {dataset} is by now"),
            Verb::Rm { versions } => format!("remove {}", versions.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Add { dataset, place, format, targets, by } => {
                let source = source(&context.environment.working_dir, (&place, targets.as_deref()), format)?;
                return add(context, &dataset, source, by).await;
            }
            Verb::Push { dataset, paths, format, by, limits } => {
                let folder = &context.environment.working_dir;
                let sources =
                    paths.iter().map(|path| source(folder, (path, None), format)).collect::<Result<_, _>>()?;
                let push = push::Push { dataset, sources, by, limits };
                return push.run(context).await;
            }
            Verb::Pin { dataset, by } => {
                let newest = newest(&context.client, &dataset).await?;
                let known = DataFormat::ALL.into_iter().find(|(name, _)| *name == newest.format);
                let format = known.map(|(_, format)| format).ok_or_else(|| unknown_format(&newest.format))?;
                return add(context, &dataset, of_format(format, newest.uri, newest.targets_uri), by).await;
            }
            Verb::Ls => {
                let list: DatasetList = context.client.get("/v1/datasets").await?;
                datasets::list(&mut context.out, &list)?;
            }
            Verb::Show { which: Which { dataset, version: None } } => {
                let list: DatasetVersionList = context.client.get(&path(&dataset)).await?;
                datasets::versions(&mut context.out, &list)?;
            }
            Verb::Show { which: Which { dataset, version: Some(version) } } => {
                datasets::show(&mut context.out, &detail(&context.client, &dataset, version).await?)?;
            }
            Verb::Verify { which } => {
                let number = which.number(&context.client).await?;
                let detail = detail(&context.client, &which.dataset, number).await?;
                return verify::run(context, detail).await;
            }
            Verb::Rm { versions } => {
                let remove = async |client: &Client, named: &str| {
                    let (dataset, version) = named.split_once('/').unwrap_or((named, ""));
                    client.delete::<DatasetVersionView>(&version_path(dataset, version)).await
                };
                return super::each(context, versions, remove, datasets::removed).await;
            }
        }
        Ok(Exit::Ok)
    }
}

fn unknown_format(name: &str) -> Failure {
    Failure::new(Exit::Failed, format!("files of format {name:?} are of a later version"))
        .hint("compare `mlctl version` with `mlctl daemon status`")
}

/// Has the worker look at data, and the daemon keep what it says.
async fn add(context: &mut Context<'_>, dataset: &str, source: DataSource, by: By) -> Done {
    let manifest = survey::of(context, source, by.worker).await?;
    let added: DatasetVersionView = context.client.post_body(&path(dataset), &manifest, LONG_LIMIT).await?;
    datasets::added(&mut context.out, &added)?;
    Ok(Exit::Ok)
}

/// What is to be looked at.
fn source(
    folder: &Path,
    (place, targets): (&str, Option<&str>),
    format: Option<DataFormat>,
) -> Result<DataSource, Failure> {
    let uri = uri(folder, place)?;
    let format = format.or_else(|| by_ending(place)).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("the name {place:?} does not tell what the files are"))
            .hint(format!("say it with --format: {}", DataFormat::ALL.map(|(name, _)| name).join(", ")))
    })?;
    if targets.is_some() && format != DataFormat::Npy {
        return Err(Failure::new(Exit::Usage, "--targets is for arrays, whose columns have no names")
            .hint("of tables, a job's spec names the columns to learn"));
    }
    let targets = targets.map(|place| self::uri(folder, place)).transpose()?;
    Ok(of_format(format, uri, targets))
}

fn of_format(format: DataFormat, uri: String, targets_uri: Option<String>) -> DataSource {
    let (targets, features) = (Vec::new(), Vec::new());
    match format {
        DataFormat::Csv => DataSource::Csv { uri, targets, features },
        DataFormat::Jsonl => DataSource::Jsonl { uri, targets, features },
        DataFormat::Parquet => DataSource::Parquet { uri, targets, features },
        DataFormat::Npy => DataSource::Npy { uri, targets_uri },
        DataFormat::Text => DataSource::Text { uri, tokenizer: TextTokens::Bytes },
    }
}

/// A place as it is kept: a URI, which ends in a slash for all files of a folder.
fn uri(folder: &Path, place: &str) -> Result<String, Failure> {
    let uri = spec::absolute(place, folder).unwrap_or_else(|| place.to_owned());
    let local = uri.strip_prefix("file://").filter(|path| file_set(path).is_none());
    let uri = if local.is_some_and(|path| Path::new(path).is_dir()) { uri + "/" } else { uri };
    match rules::data_place(&uri) {
        None => Ok(uri),
        Some(why) => Err(Failure::new(Exit::Usage, format!("{place:?} names no files: {why}"))
            .hint("write a path, file:///absolute/path or s3://bucket/key")),
    }
}

/// The format that the ending of a name stands for, behind that of a compression.
fn by_ending(place: &str) -> Option<DataFormat> {
    let name = [".gz", ".zst"].iter().find_map(|ending| place.strip_suffix(ending)).unwrap_or(place);
    let endings = [
        (".csv", DataFormat::Csv),
        (".jsonl", DataFormat::Jsonl),
        (".ndjson", DataFormat::Jsonl),
        (".npy", DataFormat::Npy),
        (".parquet", DataFormat::Parquet),
        (".txt", DataFormat::Text),
    ];
    endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats() {
        for (name, format) in [
            ("a.csv", Some(DataFormat::Csv)),
            ("s3://b/part-*.csv.gz", Some(DataFormat::Csv)),
            ("a.jsonl.zst", Some(DataFormat::Jsonl)),
            ("a.npy", Some(DataFormat::Npy)),
            ("d/*.parquet", Some(DataFormat::Parquet)),
            ("book.txt", Some(DataFormat::Text)),
            ("data/", None),
            ("a.gz", None),
        ] {
            assert_eq!(by_ending(name), format, "{name}");
        }
    }

    #[test]
    fn a_place_is_absolute_and_a_folder_is_all_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let here = dir.path().display();
        let uri = |place: &str| uri(dir.path(), place).unwrap();
        assert_eq!(uri("a.csv"), format!("file://{here}/a.csv"));
        assert_eq!(uri("d"), format!("file://{here}/d/"));
        assert_eq!(uri("d/"), format!("file://{here}/d/"));
        assert_eq!(uri("d/*.csv"), format!("file://{here}/d/*.csv"));
        assert_eq!(uri("s3://bucket/d/*.csv"), "s3://bucket/d/*.csv");
        assert!(super::uri(dir.path(), "ftp://x/y").is_err());
    }
}

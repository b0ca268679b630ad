//! The text of a training: read in whole, made into tokens, cut into sequences of the model's context. Each sequence begins with the last token of the one before, so that every
//! token but the first is a target once; what is left at the end and fills no sequence is dropped. The parts to validate and to test on are the text's end.

use std::ops::{ControlFlow, Range};

use candle_core::{Device, Tensor};
use mlctl_protocol::{
    ExitClass,
    progress::Progress,
    spec::{GptSpec, SplitPart, TextTokens, TrainSpec},
};

use super::{
    examples::Batch,
    files::Files,
    load::{Dataset, Identity, Rows, digest},
    memory,
    rows::{Permuted, Source, Take},
    scaling::Scaler,
    split,
    stream::{Access, Stream},
    tokenizer::{Tokenizer, Unknown},
};
use crate::{fault::Fault, job::Job, orders::Orders};

/// Bytes of memory for a byte of text: itself, and a token.
const BYTES_PER_BYTE: u64 = 5;

/// Sequences of tokens.
#[derive(Debug)]
pub struct Sequences {
    tokens: Vec<u32>,
    context: usize,
    /// The sequences of each part, in the order of the text.
    train: Range<u32>,
    validation: Range<u32>,
    test: Range<u32>,
    order: Permuted,
}

/// A text, and where in it each file begins.
struct Text {
    bytes: Vec<u8>,
    files: Vec<(usize, String)>,
    content_digest: String,
    version: Option<String>,
}

/// Reads a job's text. `known` is the tokenizer of the model that the training begins with, where there is one.
///
/// # Errors
/// `spec`, with file and byte, when the text is not what the spec and the model need; `storage` when it cannot be read; the class of an order to end.
pub(super) fn load(
    job: Job<'_>,
    (spec, gpt): (&TrainSpec, &GptSpec),
    (uri, kind): (&str, TextTokens),
    known: Option<Tokenizer>,
) -> Result<Dataset, Fault> {
    let text = read(job, uri)?;
    let (tokenizer, tokens) = tokens(&text, kind, known)?;
    check_vocabulary(&tokenizer, gpt)?;
    let Text { bytes, content_digest, version, .. } = text;
    drop(bytes);
    let context = gpt.context as usize;
    let count = tokens.len().saturating_sub(1) / context;
    if count == 0 {
        return Err(Fault::spec(
            format!(
                "{uri} has {} tokens, and a sequence takes {}: the context and the token behind it",
                tokens.len(),
                context + 1
            ),
            "lower train.model.context, or bring more text",
        ));
    }
    let count = u32::try_from(count)
        .map_err(|_| Fault::spec("the text has more than 4,294,967,295 sequences", "raise train.model.context"))?;
    let parts = split::sizes(&spec.split, count)?;
    let name = serde_json::to_string(&tokenizer)
        .map_err(|error| Fault::new(ExitClass::Crash, format!("the tokenizer cannot be written: {error}")))?;
    let identity = Identity {
        digest: digest(&content_digest, &[name], &[]),
        content_digest,
        rows: count.into(),
        version,
        streamed: false,
    };
    Ok(Dataset {
        rows: Rows::Text(Sequences::new(tokens, context, parts, spec.seed)),
        features: Vec::new(),
        targets: Vec::new(),
        scaler: Scaler::none(),
        identity,
        index: None,
        classes: None,
        tokenizer: Some(tokenizer),
    })
}

/// All files, one behind the other.
fn read(job: Job<'_>, uri: &str) -> Result<Text, Fault> {
    let access = Access::of(job);
    let found = Files::find(&access, uri)?;
    let (budget, mut orders) = (memory::budget(), Orders::default());
    let (mut bytes, mut files, mut contents, mut version) = (Vec::new(), Vec::new(), Vec::new(), None);
    for number in 0..found.len() {
        let file = found.get(number).map_or(uri, |file| file.uri.as_str());
        files.push((bytes.len(), file.to_owned()));
        let mut stream = Stream::open(&access, file)?;
        while let Some(piece) = stream.next()? {
            bytes.extend_from_slice(&piece);
            let needed = (bytes.len() as u64).saturating_mul(BYTES_PER_BYTE);
            if needed > budget {
                return Err(Fault::spec(
                    format!(
                        "the text needs more memory than there is: {} MiB of it take {} MiB, and {} MiB, half of what is available, may be used",
                        bytes.len() >> 20,
                        needed >> 20,
                        budget >> 20
                    ),
                    "take less text, or a machine with more memory",
                ));
            }
            orders.poll(job.host);
            if let Some(ending) = orders.ending() {
                return Err(ending.fault.clone());
            }
            // Not yet steps, but a sign that the job gets on.
            job.host.progress(Progress { records: Some(bytes.len() as u64), ..Progress::default() });
        }
        let content = stream.content_digest();
        found.check(number, &content)?;
        contents.push(content);
        version = stream.version();
    }
    if bytes.is_empty() {
        return Err(Fault::spec(format!("{uri} is empty"), "bring some text"));
    }
    let version = version.filter(|_| found.len() == 1);
    Ok(Text { bytes, files, content_digest: found.digest(&contents), version })
}

impl Text {
    /// The file of a byte, and the byte's number in it.
    fn place(&self, byte: usize) -> (&str, usize) {
        let file = self.files.partition_point(|(start, _)| *start <= byte).saturating_sub(1);
        self.files.get(file).map_or(("", byte), |(start, uri)| (uri.as_str(), byte - start))
    }

    /// Each file as text. A character does not go on in the next one.
    fn check_utf8(&self) -> Result<(), Fault> {
        let ends = self.files.iter().skip(1).map(|(start, _)| *start).chain([self.bytes.len()]);
        for ((start, uri), end) in self.files.iter().zip(ends) {
            if let Err(error) = std::str::from_utf8(&self.bytes[*start..end]) {
                return Err(Fault::spec(
                    format!("{uri} is not UTF-8 text: byte {} is no character", error.valid_up_to()),
                    "convert it, for example by iconv -t UTF-8, or take tokenizer = \"bytes\"",
                ));
            }
        }
        Ok(())
    }
}

fn tokens(text: &Text, kind: TextTokens, known: Option<Tokenizer>) -> Result<(Tokenizer, Vec<u32>), Fault> {
    if let Some(known) = known.as_ref().filter(|known| known.kind() != kind) {
        let name = |kind| if kind == TextTokens::Bytes { "bytes" } else { "characters" };
        return Err(Fault::spec(
            format!("the model that the training begins with was trained on {}", name(known.kind())),
            format!("write tokenizer = {:?} in train.data, or begin with fresh weights", name(known.kind())),
        ));
    }
    if kind == TextTokens::Bytes {
        return Ok((Tokenizer::Bytes, text.bytes.iter().copied().map(u32::from).collect()));
    }
    text.check_utf8()?;
    let characters = std::str::from_utf8(&text.bytes).unwrap_or_default();
    let tokenizer = known.map_or_else(|| Tokenizer::of(kind, characters), Ok).map_err(|count| {
        Fault::spec(
            format!("the text has {count} different characters, more than a vocabulary of 65,536"),
            "take tokenizer = \"bytes\"",
        )
    })?;
    match tokenizer.tokens(characters) {
        Ok(tokens) => Ok((tokenizer, tokens)),
        Err(Unknown { character, at }) => {
            let (uri, byte) = text.place(at);
            Err(Fault::spec(
                format!(
                    "{uri}, byte {byte}: the character {character:?} is none of the vocabulary of the model that the training begins with"
                ),
                "take such characters out, or begin with fresh weights",
            ))
        }
    }
}

fn check_vocabulary(tokenizer: &Tokenizer, gpt: &GptSpec) -> Result<(), Fault> {
    let size = tokenizer.size();
    if size < 2 {
        return Err(Fault::spec(
            "the text is one character, again and again",
            "bring text in which there is something to learn",
        ));
    }
    match gpt.vocab {
        Some(vocab) if (vocab as usize) < size => Err(Fault::spec(
            format!("the text has {size} tokens, and the model tells {vocab} apart"),
            format!("write {size} in train.model.vocab, or leave it out"),
        )),
        _ => Ok(()),
    }
}

impl Sequences {
    /// Sequences of `context` tokens each, so many of them to train, to validate and to test on.
    #[must_use]
    pub const fn new(tokens: Vec<u32>, context: usize, [train, validation, test]: [u32; 3], seed: u64) -> Self {
        let (validated, tested) = (train + validation, train + validation + test);
        Self {
            tokens,
            context,
            train: 0..train,
            validation: train..validated,
            test: validated..tested,
            order: Permuted::new(seed),
        }
    }

    fn part(&self, part: SplitPart) -> Range<u32> {
        match part {
            SplitPart::Train => self.train.clone(),
            SplitPart::Validation => self.validation.clone(),
            SplitPart::Test => self.test.clone(),
        }
    }

    /// Some sequences as tensors: the tokens, and of each the next.
    fn cut(&self, numbers: impl ExactSizeIterator<Item = u32>, device: &Device) -> Result<Batch, Fault> {
        let (count, context) = (numbers.len(), self.context);
        let (mut ids, mut next) = (Vec::with_capacity(count * context), Vec::with_capacity(count * context));
        for number in numbers {
            let sequence = &self.tokens[number as usize * context..][..context + 1];
            ids.extend_from_slice(&sequence[..context]);
            next.extend_from_slice(&sequence[1..]);
        }
        let features = Tensor::from_vec(ids, (count, context), device)?;
        Ok(Batch { features, targets: Tensor::from_slice(&next, count * context, device)?, classes: next })
    }
}

impl Source for Sequences {
    fn has_classes(&self) -> bool {
        true
    }

    fn count(&self, part: SplitPart) -> u64 {
        self.part(part).len() as u64
    }

    fn batch(&self, epoch: u64, places: Range<u64>, device: &Device) -> Result<Batch, Fault> {
        self.cut(self.order.at(epoch, self.train.len(), places)?.into_iter(), device)
    }

    fn walk(&self, part: SplitPart, rows: usize, device: &Device, take: Take<'_>) -> Result<(), Fault> {
        let (all, rows) = (self.part(part), u32::try_from(rows.max(1)).unwrap_or(u32::MAX));
        let mut from = all.start;
        while from < all.end {
            let to = from.saturating_add(rows).min(all.end);
            if take(self.cut(from..to, device)?)? == ControlFlow::Break(()) {
                break;
            }
            from = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences() -> Sequences {
        Sequences::new((0..12).collect(), 3, [2, 1, 0], 1)
    }

    #[test]
    fn sequences_follow_each_other_and_their_targets_are_the_next_tokens() {
        let mut seen = Vec::new();
        let sequences = sequences();
        for part in [SplitPart::Train, SplitPart::Validation, SplitPart::Test] {
            let take: Take<'_> = &mut |batch| {
                assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), batch.classes);
                seen.push((batch.features.to_vec2::<u32>().unwrap(), batch.classes));
                Ok(ControlFlow::Continue(()))
            };
            sequences.walk(part, 2, &Device::Cpu, take).unwrap();
        }
        let train = (vec![vec![0, 1, 2], vec![3, 4, 5]], vec![1, 2, 3, 4, 5, 6]);
        assert_eq!(seen, [train, (vec![vec![6, 7, 8]], vec![7, 8, 9])]);
        let batch = sequences.batch(0, 0..2, &Device::Cpu).unwrap();
        let mut firsts: Vec<u32> = batch.features.to_vec2::<u32>().unwrap().iter().map(|row| row[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [0, 3], "an epoch has the sequences to train on, each once");
    }
}

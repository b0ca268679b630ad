//! One pass over a source that is to be streamed: every row is read and checked, the blocks are found, the scaling is fitted. In memory is one row.

use mlctl_protocol::spec::{SplitPart, TrainSpec};

use super::{
    blocks::{Block, Divider, Fitting, Index, MAX_BLOCKS, MIN_BLOCK_BYTES, Version},
    columns::Column,
    load::{Identity, Look, Shape, digest},
    pool,
    stream::Access,
    table::{Handle, Layout, Table},
};
use crate::{fault::Fault, job::Job};

/// Files of which the store is asked at a time.
const ASKED_AT_ONCE: usize = 16;

/// The form of an index that is written and read.
pub(super) const FORMAT: u32 = 1;

/// What a pass found out.
pub(super) struct Found {
    pub(super) index: Index,
    /// Which classes a row to train on has.
    pub(super) classes: Vec<bool>,
}

/// The versions of the files of a source.
pub(super) fn versions(access: &Access<'_>, layout: &Layout) -> Result<Vec<Version>, Fault> {
    pool::each(layout.files(), ASKED_AT_ONCE, |file| Handle::version_now(access, layout, file))
}

/// Makes the pass.
///
/// # Errors
/// As reading all rows does.
pub(super) fn index(job: Job<'_>, table: &mut Table<'_>, spec: &TrainSpec, shape: Shape) -> Result<Found, Fault> {
    let layout = table.layout();
    let files = versions(&Access::of(job), &layout)?;
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let mut cutter =
        Cutter { blocks: Vec::new(), least: MIN_BLOCK_BYTES.max(bytes.div_ceil(MAX_BLOCKS)), begun: 0, end: 0 };
    let mut divider = Divider::new(&spec.split);
    let mut fitting = Fitting::new(spec.scaling, layout.width());
    let mut look = Look::unbounded(job);
    let (mut features, mut values) = (Vec::new(), Vec::new());
    let mut classes = vec![false; shape.classes()];
    while let Some(row) = table.next_row()? {
        let part = divider.part(row.number());
        features.clear();
        values.clear();
        let read = row.features(&mut features).and_then(|()| {
            if classes.is_empty() {
                return row.targets(&mut values).map(|()| None);
            }
            row.class(shape.outputs).map(Some)
        });
        let class = read.map_err(|bad| bad.into_fault(row.uri()))?;
        if part == SplitPart::Train {
            fitting.take(&features);
            if let Some(seen) = class.and_then(|class| classes.get_mut(class as usize)) {
                *seen = true;
            }
        }
        let file = row.file();
        cutter.take(file, table, part)?;
        look.count()?;
    }
    let columns = table.columns();
    let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    let content_digest = table.content_digest();
    let identity = Identity {
        digest: digest(&content_digest, &names(&columns.features), &names(&columns.targets)),
        content_digest,
        rows: look.rows(),
        version: table.version(),
        streamed: true,
    };
    let index = Index { format: FORMAT, files, blocks: cutter.blocks, scaler: fitting.finish(), identity };
    Ok(Found { index, classes })
}

/// Cuts files into blocks.
struct Cutter {
    blocks: Vec<Block>,
    /// The least bytes of a block.
    least: u64,
    /// How many bytes of the file came before the open block; none is open where `end` is set.
    begun: u64,
    end: u64,
}

impl Cutter {
    /// Takes the row in that was read last.
    fn take(&mut self, file: usize, table: &Table<'_>, part: SplitPart) -> Result<(), Fault> {
        let number = u32::try_from(file).unwrap_or(u32::MAX);
        let open = self.blocks.last().is_some_and(|block| block.file == number && self.end == 0);
        if !open {
            let same = self.blocks.last().filter(|block| block.file == number).map(|block| block.end);
            let start = same.unwrap_or_else(|| table.origin());
            self.begun = if same.is_some() { self.end } else { table.origin() };
            self.end = 0;
            self.blocks.push(Block { file: number, start, ..Block::default() });
        }
        let Some(block) = self.blocks.last_mut() else { return Ok(()) };
        block.count(part);
        if block.rows == u32::MAX {
            return Err(Fault::spec("a block has more than 4,294,967,294 rows", "split the file that it is in"));
        }
        // A compressed file is one block; a row group goes on.
        if let Some((place, bytes)) = table.place_after() {
            block.end = place;
            if bytes.saturating_sub(self.begun) >= self.least {
                self.end = bytes;
            }
        }
        Ok(())
    }
}

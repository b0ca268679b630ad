//! Rows that are read while training goes on: the window that is trained on and the next are in memory, which a thread of its own reads and decodes ahead. What a
//! batch holds depends on seed, epoch and place alone, so that a resumed run reads its window and nothing before it.

use std::{
    cell::RefCell,
    ops::{ControlFlow, Range},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use candle_core::Device;
use mlctl_protocol::{
    ExitClass,
    spec::{Split, SplitPart},
};

use super::{
    blocks::{Divider, Index, Version},
    examples::{Answers, Batch},
    load::Shape,
    order::Order,
    pool,
    rows::{Source, Take},
    stream::Access,
    table::{Handle, Layout, Table},
};
use crate::fault::Fault;

/// Rows of a part of a block, scaled.
#[derive(Debug)]
struct Chunk {
    features: Vec<f32>,
    answers: Answers,
    rows: usize,
}

/// Reads blocks, on whatever thread.
#[derive(Debug)]
pub struct Loader {
    access: Access<'static>,
    layout: Arc<Layout>,
    index: Arc<Index>,
    /// Each block's first row; and its file's.
    firsts: Vec<(u64, u64)>,
    handles: Vec<OnceLock<Handle>>,
    divider: Divider,
    shape: Shape,
    /// Blocks that are read and decoded at a time.
    threads: usize,
    /// Blocks read so far.
    read: AtomicU64,
}

impl Loader {
    /// A loader of the rows that an index knows.
    #[must_use]
    pub fn new(
        access: &Access<'_>,
        layout: Arc<Layout>,
        index: Arc<Index>,
        split: &Split,
        (shape, threads): (Shape, usize),
    ) -> Self {
        let (mut row, mut file, mut begun) = (0, 0, 0);
        let mut firsts = Vec::with_capacity(index.blocks.len());
        for block in &index.blocks {
            if block.file != file {
                (file, begun) = (block.file, row);
            }
            firsts.push((row, begun));
            row += u64::from(block.rows);
        }
        let handles = (0..layout.files()).map(|_| OnceLock::new()).collect();
        let divider = Divider::new(split);
        let access = access.apart();
        Self {
            access,
            layout,
            index,
            firsts,
            handles,
            divider,
            shape,
            threads: threads.max(1),
            read: AtomicU64::new(0),
        }
    }

    /// Reads the rows of a part of a block.
    fn block(&self, number: u32, part: SplitPart) -> Result<Chunk, Fault> {
        let at = number as usize;
        let (Some(block), Some((first, of_file))) = (self.index.blocks.get(at), self.firsts.get(at)) else {
            return Err(Fault::new(ExitClass::Crash, format!("there is no block {number}")));
        };
        self.read.fetch_add(1, Ordering::Relaxed);
        let handle = self.handle(block.file as usize)?;
        let file = (block.file as usize, handle);
        let mut table = Table::block(&self.access, &self.layout, file, (block.start, block.end), (*first, *of_file))?;
        let mut chunk = Chunk { features: Vec::new(), answers: self.shape.empty(self.layout.targets()), rows: 0 };
        let width = self.layout.width();
        chunk.features.reserve(block.of(part) as usize * width);
        let mut divider = self.divider.clone();
        let mut rows = 0;
        while let Some(row) = table.next_row()? {
            rows += 1;
            if divider.part(row.number()) != part {
                continue;
            }
            let start = chunk.features.len();
            let read = row.features(&mut chunk.features).and_then(|()| match &mut chunk.answers {
                Answers::Classes(classes) => row.class(self.shape.outputs).map(|class| classes.push(class)),
                Answers::Values { values, .. } => row.targets(values),
            });
            read.map_err(|bad| bad.into_fault(row.uri()))?;
            if let Some(column) = self.index.scaler.apply(&mut chunk.features[start..]) {
                let what = "the value is too large once it is scaled".into();
                return Err(row.bad(self.layout.feature(column), what).into_fault(row.uri()));
            }
            chunk.rows += 1;
        }
        // A whole file was opened anew, whatever its version.
        let other = block.end == 0 && !self.is_as_indexed(block.file as usize)?;
        if other || rows != block.rows || chunk.rows != block.of(part) as usize {
            return Err(changed(self.layout.uri(block.file as usize)));
        }
        Ok(chunk)
    }

    /// What is known of a file, asked of the store once.
    fn handle(&self, file: usize) -> Result<&Handle, Fault> {
        let missing = || Fault::new(ExitClass::Crash, format!("there is no file {file}"));
        let place = self.handles.get(file).ok_or_else(missing)?;
        if let Some(handle) = place.get() {
            return Ok(handle);
        }
        let handle = Handle::open(&self.access, &self.layout, file)?;
        if !self.is_indexed(file, &handle.version(self.layout.uri(file))) {
            return Err(changed(self.layout.uri(file)));
        }
        Ok(place.get_or_init(|| handle))
    }

    /// Whether the store still has the version of a file that the index is of.
    fn is_as_indexed(&self, file: usize) -> Result<bool, Fault> {
        Ok(self.is_indexed(file, &Handle::version_now(&self.access, &self.layout, file)?))
    }

    fn is_indexed(&self, file: usize, version: &Version) -> bool {
        self.index.files.get(file) == Some(version)
    }

    /// Reads blocks, a few at a time, in the order given.
    fn many(&self, blocks: &[u32], part: SplitPart) -> Result<Vec<Arc<Chunk>>, Fault> {
        pool::each(blocks.len(), self.threads, |at| self.block(blocks[at], part).map(Arc::new))
    }
}

fn changed(uri: &str) -> Fault {
    Fault::spec(
        format!("{uri} is not what it was when the run began"),
        "put the data back as it was, or submit a new job: rows that change under a run would be learnt twice or never",
    )
}

/// A window in memory.
#[derive(Debug)]
struct Window {
    epoch: u64,
    number: usize,
    chunks: Vec<(u32, Arc<Chunk>)>,
    /// Chunk and row of each place.
    rows: Vec<(u32, u32)>,
}

impl Window {
    /// Reads a window; what another has of it is taken from there.
    fn read(loader: &Loader, order: &Order, number: usize, held: &[(u32, Arc<Chunk>)]) -> Result<Self, Fault> {
        let blocks = order.blocks(number);
        let has = |block: &u32| held.iter().find(|(of, _)| of == block).map(|(_, chunk)| Arc::clone(chunk));
        let missing: Vec<u32> = blocks.iter().copied().filter(|block| has(block).is_none()).collect();
        let mut read = loader.many(&missing, SplitPart::Train)?.into_iter();
        let mut chunks = Vec::with_capacity(blocks.len());
        for block in blocks {
            chunks.extend(has(block).or_else(|| read.next()).map(|chunk| (*block, chunk)));
        }
        let mut ends = Vec::with_capacity(chunks.len());
        let mut end = 0;
        for (_, chunk) in &chunks {
            end += chunk.rows;
            ends.push(end);
        }
        let place = |row: u32| {
            let row = row as usize;
            let chunk = ends.partition_point(|end| *end <= row);
            let before = chunk.checked_sub(1).map_or(0, |before| ends[before]);
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            (narrow(chunk), narrow(row - before))
        };
        let rows = order.rows(number).into_iter().map(place).collect();
        Ok(Self { epoch: order.epoch(), number, chunks, rows })
    }
}

/// What is read ahead.
#[derive(Debug)]
struct Ahead {
    epoch: u64,
    number: usize,
    reading: JoinHandle<Result<Window, Fault>>,
}

/// The windows of a run.
#[derive(Debug, Default)]
struct Windows {
    order: Option<Arc<Order>>,
    current: Option<Window>,
    ahead: Option<Ahead>,
}

/// The rows of a run that are read while it goes on.
#[derive(Debug)]
pub struct Streamed {
    loader: Arc<Loader>,
    seed: u64,
    /// Rows of a window.
    rows: u64,
    /// Epochs at most.
    epochs: Option<u64>,
    windows: RefCell<Windows>,
    /// The rows to validate on, where they are no more than a window.
    kept: RefCell<Option<Vec<Arc<Chunk>>>>,
}

impl Streamed {
    /// The rows of a run with a seed, in windows of so many.
    #[must_use]
    pub fn new(loader: Arc<Loader>, seed: u64, rows: u64, epochs: Option<u64>) -> Self {
        Self { loader, seed, rows, epochs, windows: RefCell::default(), kept: RefCell::default() }
    }

    /// Blocks read so far.
    #[must_use]
    pub fn blocks_read(&self) -> u64 {
        self.loader.read.load(Ordering::Relaxed)
    }

    fn order(&self, epoch: u64) -> Order {
        Order::new(self.seed, epoch, &self.loader.index.blocks, self.rows)
    }

    /// Sees to it that a window is the current one, and that the next is being read.
    fn turn_to(&self, windows: &mut Windows, order: &Arc<Order>, number: usize) -> Result<(), Fault> {
        let epoch = order.epoch();
        if windows.current.as_ref().is_some_and(|window| (window.epoch, window.number) == (epoch, number)) {
            return Ok(());
        }
        let window = match windows.ahead.take() {
            Some(ahead) if (ahead.epoch, ahead.number) == (epoch, number) => {
                let crashed = |_| Fault::new(ExitClass::Crash, "the thread that reads ahead has panicked");
                ahead.reading.join().map_err(crashed)??
            }
            _ => {
                let held = windows.current.take().map(|window| window.chunks).unwrap_or_default();
                Window::read(&self.loader, order, number, &held)?
            }
        };
        let held = window.chunks.clone();
        windows.current = Some(window);
        let next = if number + 1 < order.windows() {
            Some((Arc::clone(order), number + 1))
        } else {
            let another = self.epochs.is_none_or(|epochs| epoch + 1 < epochs);
            another.then(|| (Arc::new(self.order(epoch + 1)), 0))
        };
        windows.ahead = next.map(|(order, number)| {
            let (loader, epoch) = (Arc::clone(&self.loader), order.epoch());
            let reading = std::thread::spawn(move || Window::read(&loader, &order, number, &held));
            Ahead { epoch, number, reading }
        });
        Ok(())
    }

    /// The blocks with rows of a part, some at a time.
    fn parts(&self, part: SplitPart) -> Vec<Vec<u32>> {
        let blocks = &self.loader.index.blocks;
        let with: Vec<u32> =
            (0..).zip(blocks).filter(|(_, block)| block.of(part) > 0).map(|(number, _)| number).collect();
        with.chunks(self.loader.threads).map(<[u32]>::to_vec).collect()
    }
}

/// Rows on their way into a batch.
struct Gather {
    features: Vec<f32>,
    answers: Answers,
    rows: usize,
}

impl Gather {
    fn new(loader: &Loader) -> Self {
        Self { features: Vec::new(), answers: loader.shape.empty(loader.layout.targets()), rows: 0 }
    }

    fn push(&mut self, chunk: &Chunk, row: usize, width: usize) {
        self.features.extend_from_slice(&chunk.features[row * width..(row + 1) * width]);
        self.answers.push(&chunk.answers, row);
        self.rows += 1;
    }

    fn batch(self, width: usize, device: &Device) -> Result<Batch, Fault> {
        Ok(Batch::new(self.features, width, self.answers, device)?)
    }
}

impl Source for Streamed {
    fn has_classes(&self) -> bool {
        matches!(self.loader.shape.empty(1), Answers::Classes(_))
    }

    fn count(&self, part: SplitPart) -> u64 {
        self.loader.index.count(part)
    }

    fn batch(&self, epoch: u64, places: Range<u64>, device: &Device) -> Result<Batch, Fault> {
        let mut windows = self.windows.borrow_mut();
        let order = match windows.order.take() {
            Some(order) if order.epoch() == epoch => order,
            _ => Arc::new(self.order(epoch)),
        };
        windows.order = Some(Arc::clone(&order));
        let mut gather = Gather::new(&self.loader);
        let width = self.loader.layout.width();
        for place in places {
            let (number, at) = order.find(place);
            self.turn_to(&mut windows, &order, number)?;
            let window = windows.current.as_ref();
            let row = window
                .and_then(|window| window.rows.get(at).map(|(chunk, row)| (&window.chunks[*chunk as usize].1, *row)));
            let Some((chunk, row)) = row else {
                return Err(Fault::new(ExitClass::Crash, format!("there is no row at place {place}")));
            };
            gather.push(chunk, row as usize, width);
        }
        gather.batch(width, device)
    }

    fn walk(&self, part: SplitPart, rows: usize, device: &Device, take: Take<'_>) -> Result<(), Fault> {
        let width = self.loader.layout.width();
        let kept = Some(&self.kept).filter(|_| part == SplitPart::Validation);
        let held = kept.and_then(|kept| kept.borrow().clone());
        let keep = kept.filter(|_| held.is_none() && self.count(part) <= self.rows);
        let mut keeping = Vec::new();
        let mut gather = Gather::new(&self.loader);
        let groups = if held.is_some() { vec![Vec::new()] } else { self.parts(part) };
        for group in groups {
            let chunks = match &held {
                Some(held) => held.clone(),
                None => self.loader.many(&group, part)?,
            };
            for chunk in &chunks {
                for row in 0..chunk.rows {
                    gather.push(chunk, row, width);
                    if gather.rows == rows {
                        let full = std::mem::replace(&mut gather, Gather::new(&self.loader));
                        if take(full.batch(width, device)?)? == ControlFlow::Break(()) {
                            return Ok(());
                        }
                    }
                }
            }
            if keep.is_some() {
                keeping.extend(chunks);
            }
        }
        if let Some(kept) = keep {
            kept.replace(Some(keeping));
        }
        if gather.rows > 0 {
            let _ = take(gather.batch(width, device)?)?;
        }
        Ok(())
    }
}

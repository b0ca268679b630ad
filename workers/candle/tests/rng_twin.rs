//! The generator against its Python twin in `docs/rng.py`: every kind of stream, bit for bit, so that the specification cannot drift from the code.

use std::process::Command;

use mlctl_protocol::spec::{Split, SplitPart};
use mlworker::{
    data::{
        blocks::{Block, Divider},
        order::Order,
        randn::{self, Table},
        split::divide,
    },
    rng::{Rng, Stream},
};
use serde::Deserialize;

#[derive(Debug, PartialEq, Deserialize)]
struct Vectors {
    words: Vec<u32>,
    uniform: Vec<u32>,
    normal: Vec<u32>,
    permutation: Vec<u32>,
    below_3_000_000_000: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Twin {
    streams: Vec<Vectors>,
    /// A row of synthetic data.
    data: Vec<u32>,
    /// The parts of a split.
    parts: [Vec<u32>; 3],
    /// Those of a streamed source, row by row.
    streamed_parts: Vec<SplitPart>,
    /// Block and row of each place of an epoch.
    order: Vec<(u32, u32)>,
}

fn vectors(seed: u64, stream: Stream) -> Vectors {
    let draw = |fill: fn(&mut Rng, &mut [f32]), n| {
        let mut values = vec![0.0; n];
        fill(&mut Rng::new(seed, stream), &mut values);
        values.into_iter().map(f32::to_bits).collect()
    };
    let mut rng = Rng::new(seed, stream);
    Vectors {
        words: (0..9).map(|_| rng.next_u32()).collect(),
        uniform: draw(Rng::fill_uniform, 7),
        normal: draw(Rng::fill_normal, 501),
        permutation: Rng::new(seed, stream).permutation(257),
        below_3_000_000_000: (0..64).map(|_| rng.below(3_000_000_000)).collect(),
    }
}

#[test]
fn rust_and_python_draw_the_same_numbers() {
    let twin = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rng.py");
    let output = Command::new("python3").args([twin, "vectors"]).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let Twin { streams: theirs, data, parts, streamed_parts, order } = serde_json::from_slice(&output.stdout).unwrap();
    let ours = [
        vectors(0, Stream::Init { tensor: 0 }),
        vectors(42, Stream::Init { tensor: 3 }),
        vectors(u64::MAX, Stream::Shuffle { epoch: (1 << 48) + 5 }),
        vectors(7, Stream::Dropout { step: 123_456_789_012, layer: u32::MAX }),
        vectors(7, Stream::Split),
        vectors(1 << 40, Stream::Data { table: 1, block: 9 }),
        vectors(9, Stream::Blocks { epoch: 3 }),
        vectors(9, Stream::Rows { epoch: 3, window: 5 }),
        vectors(9, Stream::Parts),
        vectors(9, Stream::Bootstrap { row: (1 << 48) + 2 }),
    ];
    assert_eq!(theirs.len(), ours.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    let rows = randn::rows(3, Table::Targets, 12_344, 2, 7);
    assert_eq!(rows[7..].iter().map(|value| value.to_bits()).collect::<Vec<_>>(), data);
    let split = Split { validation: 0.15, test: 0.1, seed: 7 };
    let ours = divide(&split, 1797).unwrap();
    assert_eq!([ours.train, ours.validation, ours.test], parts);
    let mut divider = Divider::new(&split);
    assert_eq!((0..500).map(|row| divider.part(row)).collect::<Vec<_>>(), streamed_parts);
    let train = [7, 0, 12, 5, 30, 1, 9];
    let blocks: Vec<_> = train.map(|train| Block { train, ..Block::default() }).into();
    let ours = Order::new(9, 3, &blocks, 20);
    let places = (0..u64::from(train.iter().sum::<u32>())).map(|place| {
        let (window, at) = ours.find(place);
        let rows: Vec<_> =
            ours.blocks(window).iter().flat_map(|block| (0..train[*block as usize]).map(|row| (*block, row))).collect();
        rows[ours.rows(window)[at] as usize]
    });
    assert_eq!(places.collect::<Vec<_>>(), order);
}

#[test]
fn published_numbers_stay_as_they_are() {
    // From `docs/rng.md`. If this fails, every published model digest is out of date.
    let mut rng = Rng::new(42, Stream::Init { tensor: 3 });
    assert_eq!([rng.next_u32(), rng.next_u32(), rng.next_u32(), rng.next_u32()], KNOWN_WORDS);
    assert_eq!(Rng::new(7, Stream::Shuffle { epoch: 0 }).permutation(8), KNOWN_ORDER);
}

const KNOWN_WORDS: [u32; 4] = [0x95d5_18e1, 0xc97d_4138, 0x0adb_dd8a, 0xe311_d104];
const KNOWN_ORDER: [u32; 8] = [5, 6, 2, 0, 4, 7, 1, 3];

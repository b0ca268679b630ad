//! Causal attention with grouped queries (Vaswani et al. 2017; Ainslie et al. 2023) over packed rows of queries, keys and values, and its backward pass. Some
//! queries at a time see all keys up to their own place, so that no matrix of place by place is ever in memory; what they weighed is computed again in the
//! backward pass.
//!
//! A sequence's head of keys is one thread's work, cut into blocks by sizes alone, and sums go in the order of the blocks: the number of threads changes no bit.

use candle_core::{CpuStorage, Result};
use rayon::prelude::*;

use super::{
    blocks::{for_blocks, whole_rows},
    math::{dot, exp, largest, sum},
    matrix::{View, add_here, into_values, storage, values, values_mut},
    rope::Rope,
};

/// Queries that are worked on together.
const QUERIES: usize = 64;

/// The sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    /// Heads of queries, each for one of `kv_heads` heads of keys and values.
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Values of a head.
    pub(super) size: usize,
    /// Tokens of a sequence.
    pub(super) context: usize,
}

/// What is cut out of a row.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl Heads {
    /// Values of a row of queries, and of what comes out.
    pub(super) const fn width(self) -> usize {
        self.heads * self.size
    }

    /// Values of a packed row: queries, keys, values, each head by head.
    pub(super) const fn packed(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.size
    }

    /// Heads of queries that share a head of keys.
    const fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where a head of a packed row begins.
    const fn place(self, part: Part, head: usize) -> usize {
        let before = match part {
            Part::Query => 0,
            Part::Key => self.heads,
            Part::Value => self.heads + self.kv_heads,
        };
        (before + head) * self.size
    }

    fn scale(self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a head has some hundred values")]
        let size = self.size as f32;
        1.0 / size.sqrt()
    }

    /// A head of all places of a sequence: (context, size).
    fn cut(self, rows: &[f32], stride: usize, start: usize) -> Vec<f32> {
        let mut head = Vec::with_capacity(self.context * self.size);
        for row in rows.chunks_exact(stride) {
            head.extend_from_slice(&row[start..start + self.size]);
        }
        head
    }

    /// What came in, of a sequence's head of keys.
    fn given(self, packed: &[f32], kv_head: usize, rope: Option<&Rope>) -> Given {
        let mut key = self.cut(packed, self.packed(), self.place(Part::Key, kv_head));
        if let Some(rope) = rope {
            rope.turn(&mut key, false);
        }
        let value = self.cut(packed, self.packed(), self.place(Part::Value, kv_head));
        Given { key: storage(key), value: storage(value) }
    }

    /// The queries of a head, turned and scaled.
    fn queries(self, packed: &[f32], head: usize, rope: Option<&Rope>) -> CpuStorage {
        let mut query = self.cut(packed, self.packed(), self.place(Part::Query, head));
        if let Some(rope) = rope {
            rope.turn(&mut query, false);
        }
        let scale = self.scale();
        query.iter_mut().for_each(|value| *value *= scale);
        storage(query)
    }

    /// Blocks of queries: the first, and how many.
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.context).step_by(QUERIES).map(move |first| (first, QUERIES.min(self.context - first)))
    }

    /// What some queries give to each key up to the last of their own places: (queries, keys), 0 for keys behind them.
    fn weights(self, query: &CpuStorage, key: &CpuStorage, (first, count): (usize, usize)) -> Result<CpuStorage> {
        let keys = first + count;
        let queries = View::new(query, 0, self.context, self.size).rows(first, count);
        let mut weights = queries.times(View::new(key, 0, keys, self.size).t())?;
        for (number, row) in values_mut(&mut weights)?.chunks_exact_mut(keys).enumerate() {
            let (seen, behind) = row.split_at_mut(first + number + 1);
            let most = largest(seen);
            seen.iter_mut().for_each(|score| *score = exp(*score - most));
            let share = 1.0 / sum(seen);
            seen.iter_mut().for_each(|weight| *weight *= share);
            behind.fill(0.0);
        }
        Ok(weights)
    }

    /// Values (rows, width) of packed rows (rows, packed) of whole sequences.
    ///
    /// # Errors
    /// When sizes do not fit.
    pub(super) fn forward(self, packed: &[f32], rope: Option<&Rope>) -> Result<Vec<f32>> {
        let sequence = self.context * self.packed();
        let tasks = packed.len() / sequence * self.kv_heads;
        let of = |task: usize| {
            let rows = &packed[task / self.kv_heads * sequence..][..sequence];
            let kv_head = task % self.kv_heads;
            let given = self.given(rows, kv_head, rope);
            let mut out = Vec::with_capacity(self.group() * self.context * self.size);
            for head in kv_head * self.group()..(kv_head + 1) * self.group() {
                let query = self.queries(rows, head, rope);
                for block in self.blocks() {
                    let keys = block.0 + block.1;
                    let weights = self.weights(&query, &given.key, block)?;
                    let sums =
                        View::new(&weights, 0, block.1, keys).times(View::new(&given.value, 0, keys, self.size))?;
                    out.extend_from_slice(values(&sums)?);
                }
            }
            Ok(out)
        };
        let outs = (0..tasks).into_par_iter().map(of).collect::<Result<Vec<Vec<f32>>>>()?;
        let mut out = vec![0.0; packed.len() / self.packed() * self.width()];
        for_blocks(&mut out, whole_rows(self.width()), |start, block| {
            for (row, out) in (start / self.width()..).zip(block.chunks_exact_mut(self.width())) {
                for (head, out) in out.chunks_exact_mut(self.size).enumerate() {
                    out.copy_from_slice(self.found(&outs, Part::Query, head, row));
                }
            }
        });
        Ok(out)
    }

    /// The gradient of the packed rows, where `grad` is that of what came out.
    ///
    /// # Errors
    /// When sizes do not fit.
    pub(super) fn backward(self, packed: &[f32], grad: &[f32], rope: Option<&Rope>) -> Result<Vec<f32>> {
        let sequence = self.context * self.packed();
        let tasks = packed.len() / sequence * self.kv_heads;
        let of = |task: usize| {
            let number = task / self.kv_heads;
            let rows = &packed[number * sequence..][..sequence];
            let grad = &grad[number * self.context * self.width()..][..self.context * self.width()];
            self.backward_of(rows, grad, task % self.kv_heads, rope)
        };
        let found = (0..tasks).into_par_iter().map(of).collect::<Result<Vec<[Vec<f32>; 3]>>>()?;
        let [mut queries, mut keys, mut sums] = [Vec::new(), Vec::new(), Vec::new()];
        for [query, key, value] in found {
            queries.push(query);
            keys.push(key);
            sums.push(value);
        }
        let mut out = vec![0.0; packed.len()];
        for_blocks(&mut out, whole_rows(self.packed()), |start, block| {
            for (row, out) in (start / self.packed()..).zip(block.chunks_exact_mut(self.packed())) {
                let (to_queries, rest) = out.split_at_mut(self.width());
                let (to_keys, to_values) = rest.split_at_mut(self.kv_heads * self.size);
                for (part, found, to) in
                    [(Part::Query, &queries, to_queries), (Part::Key, &keys, to_keys), (Part::Value, &sums, to_values)]
                {
                    for (head, to) in to.chunks_exact_mut(self.size).enumerate() {
                        to.copy_from_slice(self.found(found, part, head, row));
                    }
                }
            }
        });
        Ok(out)
    }

    /// A head of a row, in what was found by sequences and heads of keys.
    fn found(self, found: &[Vec<f32>], part: Part, head: usize, row: usize) -> &[f32] {
        let (number, place) = (row / self.context, row % self.context);
        let (kv_head, within) = match part {
            Part::Query => (head / self.group(), head % self.group()),
            Part::Key | Part::Value => (head, 0),
        };
        &found[number * self.kv_heads + kv_head][(within * self.context + place) * self.size..][..self.size]
    }

    /// The gradients of a sequence's head of keys: of its queries (group, context, size), keys and values (context, size).
    fn backward_of(self, rows: &[f32], grad: &[f32], kv_head: usize, rope: Option<&Rope>) -> Result<[Vec<f32>; 3]> {
        let (size, given) = (self.size, self.given(rows, kv_head, rope));
        let mut to_queries = Vec::with_capacity(self.group() * self.context * size);
        let (mut to_key, mut to_value) = (vec![0.0; self.context * size], vec![0.0; self.context * size]);
        for head in kv_head * self.group()..(kv_head + 1) * self.group() {
            let query = self.queries(rows, head, rope);
            let grad = storage(self.cut(grad, self.width(), head * size));
            let begun = to_queries.len();
            for block @ (first, count) in self.blocks() {
                let keys = first + count;
                let [queries, grads] =
                    [&query, &grad].map(|all| View::new(all, 0, self.context, size).rows(first, count));
                let weights = self.weights(&query, &given.key, block)?;
                let weighed = View::new(&weights, 0, count, keys);
                add_here(&mut to_value, values(&weighed.t().times(grads)?)?);
                let mut slopes = grads.times(View::new(&given.value, 0, keys, size).t())?;
                let rows = values_mut(&mut slopes)?.chunks_exact_mut(keys).zip(values(&weights)?.chunks_exact(keys));
                for (slopes, weights) in rows {
                    let mean = dot(slopes, weights);
                    slopes.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = (*slope - mean) * weight);
                }
                let slopes = View::new(&slopes, 0, count, keys);
                to_queries.extend(into_values(slopes.times(View::new(&given.key, 0, keys, size))?)?);
                add_here(&mut to_key, values(&slopes.t().times(queries)?)?);
            }
            let (scale, to_query) = (self.scale(), &mut to_queries[begun..]);
            to_query.iter_mut().for_each(|value| *value *= scale);
            if let Some(rope) = rope {
                rope.turn(to_query, true);
            }
        }
        if let Some(rope) = rope {
            rope.turn(&mut to_key, true);
        }
        Ok([to_queries, to_key, to_value])
    }
}

/// Keys, turned, and values of a head: (context, size) each.
struct Given {
    key: CpuStorage,
    value: CpuStorage,
}

//! The stack machine of Python's pickles, cut down to what a `state_dict` needs: containers, plain values, tensors as views of storages. Values
//! refer to containers by number, so sharing costs nothing, cycles do no harm and nothing recurses.
//!
//! Opcodes are described in CPython's `Lib/pickletools.py`; PyTorch writes protocol 2.

use std::collections::HashMap;

use super::{
    kinds::{self, Global, Kind},
    zip::damaged,
};
use crate::fault::Fault;

/// The longest program.
pub(super) const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Opcodes at most: PyTorch needs about 40 a tensor. Each may take some 100 bytes of memory here.
const MAX_OPCODES: usize = 1_500_000;
/// Values on the stack at most: containers are filled a thousand at a time.
const MAX_STACK: usize = 65_536;
/// Open marks at most: one for each container being made inside another.
const MAX_MARKS: usize = 1000;
/// Longest text: a tensor's name.
const MAX_TEXT: usize = 4096;
/// Dimensions of a tensor at most.
const MAX_DIMENSIONS: usize = 16;

/// A value of the program; containers by their number in the [`Heap`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// A value without a use here: none, a float, a large integer.
    Plain,
    Int(i64),
    Text(&'a str),
    List(usize),
    Tuple(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// A storage the program refers to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The type of its elements.
    pub(super) kind: Kind,
    /// The name of its entry below `data/`.
    pub(super) key: &'a str,
    /// Its elements.
    pub(super) len: usize,
}

/// A tensor: a view of a storage that lies inside it.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// The storage's number.
    pub(super) storage: usize,
    /// The first element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Elements from one index to the next, by dimension.
    pub(super) strides: Vec<usize>,
}

/// All that a program made.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    sequences: Vec<Vec<Value<'a>>>,
    pub(super) dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<View>,
    /// What the program ended with.
    pub(super) result: Option<Value<'a>>,
}

/// Runs a program to its end.
///
/// # Errors
/// When it is not one that makes a `state_dict`, or goes beyond a limit.
pub(super) fn run(program: &[u8]) -> Result<Heap<'_>, Fault> {
    let mut machine =
        Machine { program, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap: Heap::default() };
    for _ in 0..MAX_OPCODES {
        machine.step()?;
        if machine.heap.result.is_some() {
            return Ok(machine.heap);
        }
        if machine.stack.len() > MAX_STACK || machine.marks.len() > MAX_MARKS {
            return Err(damaged("its pickle nests too deeply"));
        }
    }
    Err(damaged(&format!("its pickle has more than {MAX_OPCODES} steps")))
}

struct Machine<'a> {
    program: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack where containers begin.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    fn step(&mut self) -> Result<(), Fault> {
        let (at, opcode) = (self.at, self.take(1)?[0]);
        match opcode {
            // PROTO, FRAME: nothing depends on them.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => self.heap.result = Some(self.pop()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Plain),
            b'G' => self.plain(8)?,
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode)?,
            b'X' | 0x8c | 0x8d => self.text(opcode)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b']' => self.sequence(Vec::new(), Value::List),
            b')' => self.sequence(Vec::new(), Value::Tuple),
            b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b'}' => self.dict(),
            b'a' | b'e' => self.append(opcode)?,
            b's' | b'u' => self.set(opcode)?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            // BUILD: the attributes of an OrderedDict, which state_dict() puts versions into.
            b'b' => {
                self.pop()?;
                self.top_dict()?;
            }
            _ => return Err(damaged(&format!("its pickle has the unknown step {opcode:#04x} at byte {at}"))),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let bytes = self.at.checked_add(n).and_then(|end| self.program.get(self.at..end));
        let bytes = bytes.ok_or_else(|| damaged("its pickle is cut off"))?;
        self.at += n;
        Ok(bytes)
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, n: usize) -> Result<u64, Fault> {
        Ok(self.take(n)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| damaged("its pickle takes a value that is not there"))
    }

    /// The values since the last mark.
    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| damaged("its pickle closes what it did not open"))?;
        Ok(self.stack.split_off(mark))
    }

    fn plain(&mut self, n: usize) -> Result<(), Fault> {
        self.take(n)?;
        self.stack.push(Value::Plain);
        Ok(())
    }

    fn integer(&mut self, opcode: u8) -> Result<(), Fault> {
        let n = match opcode {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            _ => usize::from(self.take(1)?[0]),
        };
        // LONG1 of more than eight bytes: no size of anything.
        if n > 8 {
            return self.plain(n);
        }
        let number = self.number(n)?;
        // BININT and LONG1 are signed, the short forms are not.
        let signed = matches!(opcode, b'J' | 0x8a) && n > 0;
        let unused = if signed { 64 - 8 * u32::try_from(n).unwrap_or(8) } else { 0 };
        self.stack.push(Value::Int(((number << unused).cast_signed()) >> unused));
        Ok(())
    }

    fn text(&mut self, opcode: u8) -> Result<(), Fault> {
        let length = self.number(match opcode {
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        })?;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_TEXT);
        let length = length.ok_or_else(|| damaged(&format!("its pickle has a text of more than {MAX_TEXT} bytes")))?;
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| damaged("its pickle has a text that is none"))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn memo(&mut self, opcode: u8) -> Result<(), Fault> {
        let number = match opcode {
            0x94 => self.memo.len() as u64,
            b'q' | b'h' => self.number(1)?,
            _ => self.number(4)?,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = self.memo.get(&number).ok_or_else(|| damaged("its pickle repeats what it did not make"))?;
            self.stack.push(*value);
        } else {
            let value = *self.stack.last().ok_or_else(|| damaged("its pickle keeps a value that is not there"))?;
            self.memo.insert(number, value);
        }
        Ok(())
    }

    fn global(&mut self, opcode: u8) -> Result<(), Fault> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (module, name) {
                (Value::Text(module), Value::Text(name)) => (module, name),
                _ => return Err(damaged("its pickle names something by what is no name")),
            }
        };
        self.stack.push(Value::Global(kinds::find(module, name)?));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.program[self.at..];
        let end = rest.iter().take(MAX_TEXT).position(|byte| *byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let line = line.ok_or_else(|| damaged("its pickle has a name that does not end"))?;
        self.at += line.len() + 1;
        Ok(line)
    }

    fn sequence(&mut self, values: Vec<Value<'a>>, as_value: fn(usize) -> Value<'a>) {
        self.stack.push(as_value(self.heap.sequences.len()));
        self.heap.sequences.push(values);
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), Fault> {
        let values = if opcode == b't' {
            self.since_mark()?
        } else {
            let mut values = (0x85..=opcode).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
            values.reverse();
            values
        };
        self.sequence(values, Value::Tuple);
        Ok(())
    }

    fn dict(&mut self) {
        self.stack.push(Value::Dict(self.heap.dicts.len()));
        self.heap.dicts.push(Vec::new());
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>, Fault> {
        let Some(Value::Dict(number)) = self.stack.last() else {
            return Err(damaged("its pickle fills a dict that is none"));
        };
        Ok(&mut self.heap.dicts[*number])
    }

    fn append(&mut self, opcode: u8) -> Result<(), Fault> {
        let values = if opcode == b'a' { vec![self.pop()?] } else { self.since_mark()? };
        let Some(Value::List(number)) = self.stack.last() else {
            return Err(damaged("its pickle fills a list that is none"));
        };
        self.heap.sequences[*number].extend(values);
        Ok(())
    }

    fn set(&mut self, opcode: u8) -> Result<(), Fault> {
        let values = if opcode == b's' {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        } else {
            self.since_mark()?
        };
        let dict = self.top_dict()?;
        dict.extend(values.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    /// BINPERSID: PyTorch's way to refer to a storage, `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let (kind, key, len) = match self.heap.tuple(id) {
            Some(
                &[
                    Value::Text("storage"),
                    Value::Global(Global::Storage(kind)),
                    Value::Text(key),
                    Value::Text(_),
                    Value::Int(len),
                ],
            ) => (kind, key, len),
            _ => return Err(damaged("it refers to a storage in a way that PyTorch does not")),
        };
        let len = usize::try_from(len).ok().filter(|len| len.checked_mul(kind.size()).is_some());
        let len = len.ok_or_else(|| damaged(&format!("its storage {key:?} has an impossible size")))?;
        self.stack.push(Value::Storage(self.heap.storages.len()));
        self.heap.storages.push(Storage { kind, key, len });
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let arguments =
            self.heap.tuple(arguments).ok_or_else(|| damaged("its pickle calls something with no tuple"))?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.dict(),
            (Value::Global(Global::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => {
                let tensor = *tensor;
                self.stack.push(tensor);
            }
            (
                Value::Global(Global::RebuildTensor),
                [Value::Storage(storage), Value::Int(offset), shape, strides, ..],
            ) => {
                let view = self.heap.view(*storage, *offset, *shape, *strides)?;
                self.stack.push(Value::Tensor(self.heap.tensors.len()));
                self.heap.tensors.push(view);
            }
            _ => return Err(damaged("its pickle calls something in a way that PyTorch does not")),
        }
        Ok(())
    }
}

impl<'a> Heap<'a> {
    fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        let Value::Tuple(number) = value else { return None };
        self.sequences.get(number).map(Vec::as_slice)
    }

    /// Sizes out of a tuple of integers.
    fn sizes(&self, value: Value<'a>) -> Option<Vec<usize>> {
        let values = self.tuple(value).filter(|values| values.len() <= MAX_DIMENSIONS)?;
        let size = |value: &Value<'_>| match value {
            Value::Int(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        values.iter().map(size).collect()
    }

    /// A view, once it is found to lie inside its storage.
    fn view(&self, storage: usize, offset: i64, shape: Value<'a>, strides: Value<'a>) -> Result<View, Fault> {
        let Storage { key, len, .. } = self.storages[storage];
        let impossible = || damaged(&format!("a tensor is no possible view of its storage {key:?} of {len} elements"));
        let (shape, strides) = self.sizes(shape).zip(self.sizes(strides)).ok_or_else(impossible)?;
        let offset = usize::try_from(offset).map_err(|_| impossible())?;
        // Sizes must have a product even where one of them is 0.
        let product = shape.iter().try_fold(1_usize, |product, n| product.checked_mul(*n.max(&1)));
        let empty = product.map(|_| shape.contains(&0)).ok_or_else(impossible)?;
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |last, (n, stride)| last.checked_add(n.saturating_sub(1).checked_mul(*stride)?));
        let fits = last.is_some_and(|last| empty || last < len);
        if shape.len() != strides.len() || !fits {
            return Err(impossible());
        }
        Ok(View { storage, offset, shape, strides })
    }
}

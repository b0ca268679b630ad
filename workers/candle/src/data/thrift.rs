//! Looks through Thrift's compact form before a decoder takes memory by what it says: that every length lies within the bytes, that nothing nests too deep, and
//! that a schema is a tree of sane size. Called by the readers of Parquet; it makes nothing of the values.

/// How deep structures nest, and columns of a schema.
const MAX_DEPTH: usize = 48;

/// The most bytes of the paths of all columns together: every column has the names of all groups around it.
const MAX_PATHS: usize = 256 * 1024 * 1024;

/// The fields of a file's metadata, and of an element of its schema, that are looked at.
const SCHEMA: i64 = 2;
const NAME: i64 = 4;
const CHILDREN: i64 = 5;

/// Types of fields.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// An element of a schema: the length of its name, and how many elements are within it.
type Element = (usize, usize);

/// Bytes that are looked through.
struct Walk<'a> {
    rest: &'a [u8],
}

/// Whether a structure that these bytes begin with is sane.
pub(super) fn is_sane(bytes: &[u8]) -> bool {
    Walk { rest: bytes }.structure(0).is_some()
}

/// Whether the metadata of a file is sane, its schema too.
pub(super) fn is_sane_file(bytes: &[u8]) -> bool {
    Walk { rest: bytes }.file().is_some()
}

impl<'a> Walk<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..10 {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// The next field's number, by the last one's, and its type; `None` in the middle at the end of the structure.
    fn field(&mut self, last: i64) -> Option<Option<(i64, u8)>> {
        let header = self.byte()?;
        let number = match header >> 4 {
            _ if header == 0 => return Some(None),
            0 => self.zigzag()?,
            delta => last.checked_add(i64::from(delta))?,
        };
        Some(Some((number, header & 0x0f)))
    }

    /// The length and the type of what a list holds.
    fn list(&mut self) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let length = match header >> 4 {
            15 => self.varint()?,
            length => u64::from(length),
        };
        Some((length, header & 0x0f)).filter(|(length, _)| *length <= self.rest.len() as u64)
    }

    fn structure(&mut self, depth: usize) -> Option<()> {
        let mut last = 0;
        while let Some((number, kind)) = self.field(last)? {
            self.value(kind, false, depth)?;
            last = number;
        }
        Some(())
    }

    fn value(&mut self, kind: u8, in_list: bool, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            // What a field is of these types says itself.
            TRUE | FALSE if !in_list => {}
            TRUE | FALSE | BYTE => {
                self.byte()?;
            }
            4..=I64 => {
                self.varint()?;
            }
            DOUBLE => {
                self.take(8)?;
            }
            BINARY => {
                let length = self.varint()?;
                self.take(length)?;
            }
            LIST | SET => {
                let (length, kind) = self.list()?;
                for _ in 0..length {
                    self.value(kind, true, depth + 1)?;
                }
            }
            // Parquet has none.
            MAP => return None,
            STRUCT => self.structure(depth + 1)?,
            _ => return None,
        }
        Some(())
    }

    fn file(&mut self) -> Option<()> {
        let mut last = 0;
        while let Some((number, kind)) = self.field(last)? {
            if number == SCHEMA && kind == LIST {
                let (length, kind) = self.list()?;
                let mut elements = Vec::new();
                for _ in 0..length {
                    if kind != STRUCT {
                        return None;
                    }
                    elements.push(self.element()?);
                }
                is_tree(&elements).then_some(())?;
            } else {
                self.value(kind, false, 0)?;
            }
            last = number;
        }
        Some(())
    }

    fn element(&mut self) -> Option<Element> {
        let (mut last, mut name, mut children) = (0, 0, 0);
        while let Some((number, kind)) = self.field(last)? {
            match (number, kind) {
                (NAME, BINARY) => {
                    let length = self.varint()?;
                    name = self.take(length)?.len();
                }
                (CHILDREN, 4..=I64) => children = usize::try_from(self.zigzag()?).ok()?,
                _ => self.value(kind, false, 1)?,
            }
            last = number;
        }
        Some((name, children))
    }
}

/// Whether elements in the order of a schema are a tree that is not too deep, with paths that are not too long.
fn is_tree(elements: &[Element]) -> bool {
    // The groups that are open: elements left in each, and the length of its path.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut paths = 0_usize;
    for (at, (name, children)) in elements.iter().enumerate() {
        while open.pop_if(|(left, _)| *left == 0).is_some() {}
        let around = open.last_mut().map_or(0, |(left, path)| {
            *left -= 1;
            *path
        });
        let path = around + name + size_of::<String>();
        if *children == 0 {
            paths = paths.saturating_add(path);
        }
        if *children >= elements.len() - at || open.len() == MAX_DEPTH || paths > MAX_PATHS {
            return false;
        }
        open.push((*children, path));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's metadata with a schema of elements of these names and numbers of children.
    fn file(elements: &[(&str, u8)]) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        let length = u8::try_from(elements.len()).unwrap();
        assert!(length < 128);
        bytes.push(length);
        for (name, children) in elements {
            bytes.extend([0x48, u8::try_from(name.len()).unwrap()]);
            bytes.extend(name.as_bytes());
            bytes.extend([0x15, children * 2, 0]);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_schema_is_a_tree_of_sane_depth() {
        assert!(is_sane_file(&file(&[("root", 2), ("a", 0), ("g", 1), ("b", 0)])));
        assert!(!is_sane_file(&file(&[("root", 50)])), "more children than there are elements");
        let nested = |depth: usize| file(&[vec![("g", 1); depth], vec![("a", 0)]].concat());
        assert!(is_sane_file(&nested(40)) && !is_sane_file(&nested(60)));
        assert!(is_tree(&[(0, 2), (1 << 20, 0), (1, 0)]) && !is_tree(&[(0, usize::MAX)]));
        let long: Vec<_> = [(0, 1), (1 << 20, 1000)].into_iter().chain((0..1000).map(|_| (1, 0))).collect();
        assert!(!is_tree(&long), "a thousand paths of a MiB");
    }

    #[test]
    fn every_length_lies_within_the_bytes() {
        for (bytes, sane) in [
            (&[0x18, 1, b'x', 0][..], true),
            (&[0x18, 2, b'x', 0], false),
            (&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], false),
            (&[0x19, 0x25, 1, 1, 0], true),
            (&[0x19, 0xf5, 0xff, 0xff, 0x7f, 0], false),
            (&[0x1c, 0x15, 3, 0, 0], true),
            (&[0x1c, 0x15, 3, 0], false),
            (&[0x17, 0, 0, 0], false),
            (&[0x11, 0x12, 0], true),
            (&[0x1b, 0, 0], false),
            (&[], false),
        ] {
            assert_eq!(is_sane(bytes), sane, "{bytes:?}");
        }
        assert!(!is_sane(&[0x1c; 100_000]), "too deep, and no end of the stack");
    }
}

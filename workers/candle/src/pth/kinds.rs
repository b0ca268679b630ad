//! What a `state_dict`'s program may name: PyTorch's storage types and the few functions that put tensors together. All else is refused by name.

use crate::fault::Fault;

/// Something the program may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`: a view of a storage.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: a tensor with a wish for gradients.
    RebuildParameter,
    /// A storage's type.
    Storage(Kind),
}

/// The type of a storage's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Floating-point numbers, which weights are.
    Float(Float),
    /// Anything else that PyTorch keeps in a `state_dict`, by its name and size in bytes.
    Other(&'static str, usize),
}

/// A floating-point type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Float {
    F64,
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// PyTorch's name for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Float(Float::F64) => "float64",
            Self::Float(Float::F32) => "float32",
            Self::Float(Float::F16) => "float16",
            Self::Float(Float::Bf16) => "bfloat16",
            Self::Other(name, _) => name,
        }
    }

    /// Bytes an element.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Float(Float::F64) => 8,
            Self::Float(Float::F32) => 4,
            Self::Float(Float::F16 | Float::Bf16) => 2,
            Self::Other(_, size) => size,
        }
    }
}

/// What a name in the program stands for.
///
/// # Errors
/// When it is nothing a `state_dict` needs.
pub(super) fn find(module: &str, name: &str) -> Result<Global, Fault> {
    let kind = match (module, name) {
        ("collections", "OrderedDict") => return Ok(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => return Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => return Ok(Global::RebuildParameter),
        ("torch", "DoubleStorage") => Kind::Float(Float::F64),
        ("torch", "FloatStorage") => Kind::Float(Float::F32),
        ("torch", "HalfStorage") => Kind::Float(Float::F16),
        ("torch", "BFloat16Storage") => Kind::Float(Float::Bf16),
        ("torch", "LongStorage") => Kind::Other("int64", 8),
        ("torch", "IntStorage") => Kind::Other("int32", 4),
        ("torch", "ShortStorage") => Kind::Other("int16", 2),
        ("torch", "CharStorage") => Kind::Other("int8", 1),
        ("torch", "ByteStorage") => Kind::Other("uint8", 1),
        ("torch", "BoolStorage") => Kind::Other("bool", 1),
        _ => return Err(foreign(module, name)),
    };
    Ok(Global::Storage(kind))
}

fn foreign(module: &str, name: &str) -> Fault {
    let full = format!("{module}.{name}");
    if module == "torch" && name.ends_with("Storage") {
        return Fault::spec(
            format!("the PyTorch file holds tensors of a type that is not supported: {full:?}"),
            "convert the model to float32 before saving: torch.save(model.float().state_dict(), path)",
        );
    }
    if module == "__main__" || module.starts_with("torch.nn") {
        return Fault::spec(
            format!("the PyTorch file is a whole pickled module, made of {full:?}, not a state_dict"),
            "save the state_dict instead: torch.save(model.state_dict(), path)",
        );
    }
    Fault::spec(
        format!("the PyTorch file calls {full:?}, which no state_dict needs; it was not carried out"),
        "save the state_dict alone: torch.save(model.state_dict(), path); do not load the file elsewhere when you do not trust it",
    )
}

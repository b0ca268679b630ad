//! PyTorch's files: those that PyTorch wrote, and those made to harm.

#[cfg(test)]
mod files;
#[cfg(test)]
mod hostile;

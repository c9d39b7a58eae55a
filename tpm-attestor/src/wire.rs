//! Reading and writing TPM structures: big-endian numbers and length-prefixed byte strings (TPM 2.0 part 2, 4 and 10).

use crate::verify::BadStructure;

/// A bounded reader over peer-controlled bytes; it lends slices and allocates nothing.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which hold the structure `what` and at most `limit` bytes.
    ///
    /// # Errors
    /// More than `limit` bytes.
    pub fn new(what: &'static str, bytes: &'a [u8], limit: usize) -> Result<Self, BadStructure> {
        if bytes.len() > limit {
            return Err(BadStructure { what, reason: "too large" });
        }
        Ok(Self { what, rest: bytes })
    }

    /// An error about this structure.
    #[must_use]
    pub fn fault(&self, reason: &'static str) -> BadStructure {
        BadStructure { what: self.what, reason }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], BadStructure> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.fault("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadStructure> {
        let fault = self.fault("truncated");
        self.take(N)?.try_into().map_err(|_length_was_checked| fault)
    }

    /// One byte.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn u8(&mut self) -> Result<u8, BadStructure> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u16(&mut self) -> Result<u16, BadStructure> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u32(&mut self) -> Result<u32, BadStructure> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u64(&mut self) -> Result<u64, BadStructure> {
        self.array().map(u64::from_be_bytes)
    }

    /// A byte string with a length of two bytes before it (TPM2B), of at most `limit` bytes.
    ///
    /// # Errors
    /// Longer than `limit` or than what is left.
    pub fn sized(&mut self, limit: usize) -> Result<&'a [u8], BadStructure> {
        let n = usize::from(self.u16()?);
        if n > limit {
            return Err(self.fault("a length is out of range"));
        }
        self.take(n)
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// Bytes are left over.
    pub fn end(self) -> Result<(), BadStructure> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault("trailing bytes")) }
    }
}

/// Appends a byte string with its length of two bytes.
///
/// Callers pass strings they made or checked themselves; one that does not fit into 65535 bytes is cut, and whoever
/// reads the result refuses it.
pub fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&n.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(n)).unwrap_or(bytes));
}

//! NV memory: what the TPM's maker left there.

use tss_esapi::constants::PropertyTag;
use tss_esapi::handles::{NvIndexHandle, TpmHandle};
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;

use super::TpmError;
use super::chip::{Chip, NONE};

/// What every TPM reads in one go.
const NV_CHUNK: u32 = 512;

impl Chip {
    /// Reads an NV index whole; one larger than `limit` counts as empty.
    pub(super) fn nv_read(&mut self, index: TpmHandle, limit: usize) -> Result<Vec<u8>, TpmError> {
        const OP: &str = "read its NV memory";
        let object = self.run(OP, NONE, |tpm| tpm.tr_from_tpm_public(index))?;
        let handle = NvIndexHandle::from(object);
        let (public, _) = self.run(OP, NONE, |tpm| tpm.nv_read_public(handle))?;
        let size = public.data_size();
        let mut data = Vec::with_capacity(size.min(limit));
        if size > limit {
            tracing::warn!(size, limit, "an NV index is too large for what should be there");
            return Ok(data);
        }
        let chunk = self
            .run(OP, NONE, |tpm| tpm.get_tpm_property(PropertyTag::NvBufferMax))?
            .unwrap_or(NV_CHUNK)
            .clamp(1, 1024);
        while data.len() < size {
            let length = (size - data.len()).min(chunk as usize);
            let (length, offset) = match (u16::try_from(length), u16::try_from(data.len())) {
                (Ok(length), Ok(offset)) => (length, offset),
                _ => break,
            };
            // Certificates, templates and nonces are readable with the index's own, empty auth value (EK Credential Profile 2.2.1.4).
            let read = self.run(OP, (Some(AuthSession::Password), None, None), |tpm| {
                tpm.nv_read(NvAuth::NvIndex(handle), handle, length, offset)
            })?;
            if read.is_empty() {
                break;
            }
            data.extend_from_slice(&read);
        }
        let mut object = object;
        self.run(OP, NONE, |tpm| tpm.tr_close(&mut object))?;
        Ok(data)
    }
}

//! What a maker or an owner does to a TPM before we meet it: NV indices and auth values, by raw commands.

use crate::error::EmulatorError;
use crate::swtpm::Swtpm;

/// TPM_RH_PLATFORM: firmware's authority, which in an emulator nobody has taken away.
const PLATFORM: u32 = 0x4000_000c;
/// An empty password session as the authorisation area, with its size (part 1, 18.6).
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
const NV_UNDEFINE_SPACE: u32 = 0x122;
const NV_DEFINE_SPACE: u32 = 0x12a;
const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
const NV_WRITE: u32 = 0x137;
const CREATE_PRIMARY: u32 = 0x131;
/// PPWRITE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE: as makers define certificates (part 2, 13.4).
const READABLE_BY_ALL: u32 = 1 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 30;
/// What one TPM2_NV_Write takes on every TPM.
const CHUNK: usize = 512;

/// A hierarchy with an auth value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// TPM_RH_OWNER
    Owner,
    /// TPM_RH_ENDORSEMENT
    Endorsement,
}

impl Hierarchy {
    fn handle(self) -> u32 {
        match self {
            Self::Owner => 0x4000_0001,
            Self::Endorsement => 0x4000_000b,
        }
    }
}

impl Swtpm {
    /// Runs a command authorised by an empty password and gives what comes after its response code.
    fn authorised(
        &self,
        what: &'static str,
        code: u32,
        handles: &[u32],
        parameters: &[u8],
    ) -> Result<Vec<u8>, EmulatorError> {
        let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        let body = [&handles[..], &EMPTY_PASSWORD, parameters].concat();
        let size = u32::try_from(body.len() + 10).unwrap_or(0).to_be_bytes();
        let answer = self.command(&[&[0x80, 0x02][..], &size, &code.to_be_bytes(), &body].concat())?;
        match answer.split_at_checked(10) {
            Some((head, rest)) if head.get(6..) == Some(&[0; 4]) => Ok(rest.to_vec()),
            _ => Err(EmulatorError::Failed {
                program: "swtpm",
                reason: format!("{what} was refused: {answer:02x?}"),
                log: String::new(),
            }),
        }
    }

    /// Makes an NV index with this content, readable by everybody, as a maker does; one that is there is replaced.
    ///
    /// # Errors
    /// The TPM refuses or the connection fails.
    pub fn provision_nv(&self, index: u32, content: &[u8]) -> Result<(), EmulatorError> {
        // An error means that it was not there.
        drop(self.authorised("NV_UndefineSpace", NV_UNDEFINE_SPACE, &[PLATFORM, index], &[]));
        let size = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
        let public = [
            &[0, 0, 0, 14][..],
            &index.to_be_bytes(),
            &[0, 0x0b],
            &READABLE_BY_ALL.to_be_bytes(),
            &[0, 0],
            &size,
        ]
        .concat();
        self.authorised("NV_DefineSpace", NV_DEFINE_SPACE, &[PLATFORM], &public)?;
        let mut offset: u16 = 0;
        for chunk in content.chunks(CHUNK) {
            let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
            let data = [&length.to_be_bytes()[..], chunk, &offset.to_be_bytes()].concat();
            self.authorised("NV_Write", NV_WRITE, &[PLATFORM, index], &data)?;
            offset += length;
        }
        Ok(())
    }

    /// Sets the auth value of a hierarchy that has none yet.
    ///
    /// # Errors
    /// The TPM refuses or the connection fails.
    pub fn set_auth(&self, hierarchy: Hierarchy, value: &[u8]) -> Result<(), EmulatorError> {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        self.authorised(
            "HierarchyChangeAuth",
            HIERARCHY_CHANGE_AUTH,
            &[hierarchy.handle()],
            &[&length[..], value].concat(),
        )
        .map(|_nothing| ())
    }

    /// The public area (`TPMT_PUBLIC`) of the endorsement key that a template makes. The key is flushed again.
    ///
    /// # Errors
    /// The TPM refuses or the connection fails.
    pub fn endorsement_public(&self, template: &[u8]) -> Result<Vec<u8>, EmulatorError> {
        let length = u16::try_from(template.len()).unwrap_or(u16::MAX).to_be_bytes();
        // No auth value, no data; the template; no outside info; no PCRs.
        let parameters = [&[0, 4, 0, 0, 0, 0][..], &length, template, &[0; 2], &[0; 4]].concat();
        let endorsement = Hierarchy::Endorsement.handle();
        let answer = self.authorised("CreatePrimary", CREATE_PRIMARY, &[endorsement], &parameters)?;
        let malformed = || EmulatorError::Failed {
            program: "swtpm",
            reason: format!("CreatePrimary answered {answer:02x?}"),
            log: String::new(),
        };
        // Handle, size of the parameters, then the public area with its size.
        let [h0, h1, h2, h3, _, _, _, _, high, low, rest @ ..] = answer.as_slice() else {
            return Err(malformed());
        };
        let public =
            rest.get(..usize::from(u16::from_be_bytes([*high, *low]))).ok_or_else(malformed)?.to_vec();
        // TPM2_FlushContext
        self.command(&[0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65, *h0, *h1, *h2, *h3])?;
        Ok(public)
    }
}

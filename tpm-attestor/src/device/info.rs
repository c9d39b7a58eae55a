//! What a TPM says about itself.

use serde::Serialize;
use tss_esapi::constants::PropertyTag;

use super::chip::{Chip, NONE};
use super::queue::Urgency;
use super::{Tpm, TpmError};
use crate::verify::{firmware_text, vendor_text};

/// Properties of a TPM, unsigned: for people, not for decisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TpmProperties {
    /// The manufacturer's code, such as `IFX`.
    pub vendor: String,
    /// The manufacturer's text, often the model.
    pub vendor_string: String,
    /// The firmware version as four decimal numbers.
    pub firmware: String,
    /// Failed authorisations counted towards a lockout.
    pub lockout_counter: u32,
    /// How many lead to a lockout.
    pub max_auth_fail: u32,
    /// Seconds after which one failed authorisation is forgotten.
    pub lockout_interval: u32,
}

impl Tpm {
    /// Reads the properties.
    ///
    /// # Errors
    /// The TPM fails.
    pub async fn properties(&self) -> Result<TpmProperties, TpmError> {
        self.run("read its properties", Urgency::Normal, self.timeout, |chip| {
            let mut text = Vec::new();
            for tag in [
                PropertyTag::VendorString1,
                PropertyTag::VendorString2,
                PropertyTag::VendorString3,
                PropertyTag::VendorString4,
            ] {
                text.extend_from_slice(&chip.property(tag)?.to_be_bytes());
            }
            let firmware = u64::from(chip.property(PropertyTag::FirmwareVersion1)?) << 32
                | u64::from(chip.property(PropertyTag::FirmwareVersion2)?);
            Ok(TpmProperties {
                vendor: vendor_text(chip.property(PropertyTag::Manufacturer)?.to_be_bytes()),
                vendor_string: text
                    .into_iter()
                    .filter(|b| (0x20..0x7f).contains(b))
                    .map(char::from)
                    .collect::<String>()
                    .trim()
                    .to_owned(),
                firmware: firmware_text(firmware),
                lockout_counter: chip.property(PropertyTag::LockoutCounter)?,
                max_auth_fail: chip.property(PropertyTag::MaxAuthFail)?,
                lockout_interval: chip.property(PropertyTag::LockoutInterval)?,
            })
        })
        .await
    }
}

impl Chip {
    fn property(&mut self, tag: PropertyTag) -> Result<u32, TpmError> {
        Ok(self.run("read a property", NONE, |tpm| tpm.get_tpm_property(tag))?.unwrap_or(0))
    }
}

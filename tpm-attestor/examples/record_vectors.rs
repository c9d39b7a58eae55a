//! Records the test vectors of `testdata/swtpm` anew from an emulated TPM.
#![allow(clippy::print_stdout, reason = "a tool for developers")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hardroot_emulators::Swtpm;
use hardroot_tpm_attestor::device::{Config, EkKind, ProofRequest, Tpm};
use hardroot_tpm_attestor::verify::{HashAlg, PublicArea, make_credential};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/swtpm");
    fs::create_dir_all(&folder)?;
    let write = |name: String, bytes: &[u8]| {
        println!("{name}: {} bytes", bytes.len());
        fs::write(folder.join(name), bytes)
    };
    let chip = Swtpm::start()?;
    let tpm = Tpm::open(Config::new(chip.tcti().parse()?)).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    write("recorded-at".to_owned(), now.to_string().as_bytes())?;
    write("manufacturer.pem".to_owned(), chip.ca_pem()?.as_bytes())?;
    let key = tpm.create_signing_key().await?;
    write("key.pub".to_owned(), &key.public)?;
    for kind in [EkKind::Rsa2048, EkKind::EcP256, EkKind::EcP384] {
        let ek = tpm.endorsement_key(Some(kind)).await?;
        write(format!("ek-{kind}.pub"), &ek.public)?;
        if let Some(certificate) = &ek.certificate {
            write(format!("ek-{kind}.der"), certificate)?;
        }
        let ak = tpm.create_attestation_key(&ek).await?;
        write(format!("ak-{kind}.pub"), &ak.public)?;
        let name = PublicArea::parse(&ak.public)?.name();
        let credential = make_credential(&PublicArea::parse(&ek.public)?, &name, &[7; 32])?;
        let digest = HashAlg::Sha256.digest(&[b"hardroot test vector"]);
        let qualifying_data = digest.try_into().map_err(|_length| "a digest of another length")?;
        let proof = tpm
            .prove(ProofRequest {
                ek,
                ak,
                key: key.clone(),
                credential: credential.id_object,
                encrypted_seed: credential.encrypted_seed,
                qualifying_data,
                bank: HashAlg::Sha256,
                pcrs: (0..8).collect(),
            })
            .await?;
        write(format!("certify-{kind}.attest"), &proof.certification.attest)?;
        write(format!("certify-{kind}.sig"), &proof.certification.signature)?;
        write(format!("quote-{kind}.attest"), &proof.quote.attest)?;
        write(format!("quote-{kind}.sig"), &proof.quote.signature)?;
        write(format!("quote-{kind}.values"), &proof.quote.pcr_values.concat())?;
    }
    Ok(())
}

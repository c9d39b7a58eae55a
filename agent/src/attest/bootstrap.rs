//! The first trust bundle, from a file.

use std::path::{Path, PathBuf};

use hardroot_identity::{BadBundle, Bundle, MAX_BUNDLE_BYTES, TrustDomain};

use crate::config::BundleFormat;

/// Why the first bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("cannot read the trust bundle {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// It is larger than any bundle.
    #[error("the trust bundle {path} has more than {MAX_BUNDLE_BYTES} bytes; is it a bundle?", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not what `trust_bundle_format` says.
    #[error("the trust bundle {path} is not in the format {format}: {cause}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// `pem` or `spiffe`.
        format: &'static str,
        /// What is wrong.
        #[source]
        cause: Box<BadBundle>,
    },
    /// It holds no X.509 authority.
    #[error("the trust bundle {path} holds no X.509 authority, so no server can be recognised", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the bundle of `trust_domain` from a file.
///
/// # Errors
/// See [`BootstrapError`].
pub fn load_bundle(
    path: &Path,
    format: BundleFormat,
    trust_domain: &TrustDomain,
) -> Result<Bundle, BootstrapError> {
    use std::io::Read as _;

    let failed = |cause| BootstrapError::Read { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX);
    std::fs::File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(BootstrapError::TooLarge { path: path.to_owned() });
    }
    let (read, name) = match format {
        BundleFormat::Pem => (Bundle::from_pem(trust_domain.clone(), &bytes), "pem"),
        BundleFormat::Spiffe => (Bundle::from_jwks(trust_domain.clone(), &bytes), "spiffe"),
    };
    let bundle = read.map_err(|cause| BootstrapError::Format {
        path: path.to_owned(),
        format: name,
        cause: Box::new(cause),
    })?;
    if bundle.x509_authorities.is_empty() {
        return Err(BootstrapError::Empty { path: path.to_owned() });
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCa;

    #[test]
    fn both_formats_are_read_and_anything_else_is_refused() {
        let td = TrustDomain::new("example.org").unwrap();
        let bundle = TestCa::new(&td).bundle();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        let load = |bytes: &[u8], format| {
            std::fs::write(&path, bytes).unwrap();
            load_bundle(&path, format, &td)
        };
        let pem = bundle.x509_pem();
        let jwks = bundle.to_jwks();
        assert_eq!(
            load(pem.as_bytes(), BundleFormat::Pem).unwrap().x509_authorities,
            bundle.x509_authorities
        );
        assert_eq!(load(&jwks, BundleFormat::Spiffe).unwrap().x509_authorities, bundle.x509_authorities);
        assert!(matches!(load(pem.as_bytes(), BundleFormat::Spiffe), Err(BootstrapError::Format { .. })));
        assert!(load(&jwks, BundleFormat::Pem).is_err());
        assert!(matches!(load(b"{\"keys\":[]}", BundleFormat::Spiffe), Err(BootstrapError::Empty { .. })));
        assert!(load(b"", BundleFormat::Pem).is_err());
        assert!(load(&vec![b' '; MAX_BUNDLE_BYTES + 1], BundleFormat::Spiffe).is_err());
        let missing = load_bundle(&dir.path().join("none"), BundleFormat::Pem, &td);
        assert!(matches!(missing, Err(BootstrapError::Read { .. })));
    }
}

//! TLS of the connection to a collector: rustls with ring.
//!
//! Authorities: those of the `certificate` setting alone, else the machine's, else (an image without any) Mozilla's list
//! that is compiled in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::TlsFiles;

/// A file that cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read or holds no usable PEM.
    #[error("cannot read {what} from {path}: {source}; expected PEM")]
    File {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What came back.
        source: rustls::pki_types::pem::Error,
    },
    /// It holds none.
    #[error("{path} holds no certificate; expected PEM")]
    Empty {
        /// Where.
        path: PathBuf,
    },
    /// Certificates or key are not usable.
    #[error("the certificates or the key for TLS are not usable: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The settings of a connection.
pub(super) fn config(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(files.certificate.as_deref())?);
    match (&files.client_certificate, &files.client_key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
                what: "the client key",
                path: key.clone(),
                source,
            })?;
            Ok(builder
                .with_client_auth_cert(certificates("the client certificate", certificate)?, key)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        for certificate in certificates("the authorities", path)? {
            roots.add(certificate)?;
        }
        return Ok(roots);
    }
    // A machine's list may hold entries that are no authorities: take what is usable.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File {
            what,
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

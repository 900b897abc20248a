//! Certificates for TLS that both sides check.

use tonic::transport::Identity;

/// An authority of the test's own, and what it signed: a server at 127.0.0.1 and a client.
pub(super) struct Pki {
    folder: tempfile::TempDir,
    pub(super) authority: String,
    pub(super) server: Identity,
}

impl Pki {
    pub(super) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let sign = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (
                params.signed_by(&key, &issuer).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (server, client) = (sign("127.0.0.1"), sign("agent"));
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [("ca", &authority), ("cert", &client.0), ("key", &client.1)] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        Self {
            folder,
            authority,
            server: Identity::from_pem(server.0, server.1),
        }
    }

    pub(super) fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }
}

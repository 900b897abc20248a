//! The cluster's certificates, keys and tokens, made anew for each node.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::DnType::{CommonName, OrganizationName};

use super::hex;
use super::node::{API, NODE, NODE_IP, SERVICE_IP};

/// Files of a cluster.
#[derive(Debug)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Makes all of them.
    pub(crate) fn create(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let pki = Self { folder };
        pki.certificates().context("cannot make certificates")?;
        let service_accounts = rcgen::KeyPair::generate()?;
        fs::write(pki.path("sa.key"), service_accounts.serialize_pem())?;
        fs::write(pki.path("sa.pub"), service_accounts.public_key_pem())?;
        let (admin, node) = (secret()?, secret()?);
        fs::write(
            pki.path("tokens.csv"),
            format!("{admin},admin,1,system:masters\n{node},system:node:{NODE},2,system:nodes\n"),
        )?;
        pki.kubeconfig("admin.kubeconfig", &admin)?;
        pki.kubeconfig("node.kubeconfig", &node)?;
        Ok(pki)
    }

    /// A file by name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn certificates(&self) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(CommonName, "loopwarden-test-ca");
        fs::write(self.path("ca.crt"), params.self_signed(&key)?.pem())?;
        let issuer = rcgen::Issuer::new(params, key);
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
            "127.0.0.1",
            NODE_IP,
            SERVICE_IP,
        ];
        self.certificate("server", &names, &[(CommonName, "kube-apiserver")], &issuer)?;
        // As which the API server asks the kubelet: for the logs of a pod, or to run something in it.
        let client = [
            (CommonName, "kube-apiserver"),
            (OrganizationName, "system:masters"),
        ];
        self.certificate("client", &[], &client, &issuer)
    }

    fn certificate(
        &self,
        name: &str,
        hosts: &[&str],
        subject: &[(rcgen::DnType, &str)],
        issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
    ) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(hosts)?;
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.signed_by(&key, issuer)?;
        fs::write(self.path(&format!("{name}.crt")), certificate.pem())?;
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }

    fn kubeconfig(&self, name: &str, token: &str) -> Result<()> {
        let text = kubeconfig(&format!("https://{API}"), &self.path("ca.crt"), token);
        fs::write(self.path(name), text).with_context(|| format!("cannot write {name}"))
    }
}

/// A configuration for clients of the API.
pub(crate) fn kubeconfig(server: &str, ca: &Path, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: test, cluster: {{server: \"{server}\", certificate-authority: {}}}}}]\n\
         users: [{{name: test, user: {{token: {token}}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
         current-context: test\n",
        ca.display()
    )
}

fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(hex(&bytes))
}

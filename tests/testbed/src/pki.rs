//! The cluster's certificates and keys, and the kubeconfig files of those who
//! talk to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Where the API server listens.
pub(crate) const API_URL: &str = "https://127.0.0.1:6443";

/// The names that the API server goes by.
const API_NAMES: [&str; 4] = ["127.0.0.1", "10.0.0.1", "localhost", "kubernetes.default.svc"];

/// The folder with the certificates and keys.
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the authority, the API server's certificate, the administrator's,
    /// and the key pair that signs service account tokens.
    pub(crate) fn create(dir: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "testbed");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(dir.join("ca.crt"), authority.pem())?;

        let pki = Self { dir };
        let server = CertificateParams::new(API_NAMES.map(String::from))?;
        pki.sign("apiserver", server, "kube-apiserver", &authority)?;
        let mut admin = CertificateParams::new([])?;
        admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
        pki.sign("admin", admin, "admin", &authority)?;

        let tokens = KeyPair::generate()?;
        fs::write(pki.path("tokens.key"), tokens.serialize_pem())?;
        fs::write(pki.path("tokens.pub"), tokens.public_key_pem())?;
        Ok(pki)
    }

    fn sign(
        &self,
        file: &str,
        mut params: CertificateParams,
        common_name: &str,
        authority: &CertifiedIssuer<'_, KeyPair>,
    ) -> anyhow::Result<()> {
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        fs::write(self.path(&format!("{file}.crt")), certificate.pem())?;
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Where one of the files is.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Writes the kubeconfig of the administrator.
    pub(crate) fn admin_kubeconfig(&self, file: &Path) -> anyhow::Result<()> {
        let credentials = format!(
            "client-certificate: {}, client-key: {}",
            self.path("admin.crt").display(),
            self.path("admin.key").display()
        );
        self.kubeconfig(file, "admin", &credentials)
    }

    /// Writes the kubeconfig for a token.
    pub(crate) fn token_kubeconfig(&self, file: &Path, user: &str, token: &str) -> anyhow::Result<()> {
        self.kubeconfig(file, user, &format!("token: {token}"))
    }

    fn kubeconfig(&self, file: &Path, user: &str, credentials: &str) -> anyhow::Result<()> {
        let authority = self.path("ca.crt");
        let text = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: testbed
  cluster: {{server: \"{API_URL}\", certificate-authority: {}}}
users:
- name: \"{user}\"
  user: {{{credentials}}}
contexts:
- name: testbed
  context: {{cluster: testbed, user: \"{user}\"}}
current-context: testbed
",
            authority.display()
        );
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

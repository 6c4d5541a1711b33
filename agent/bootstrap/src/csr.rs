//! Requests of kubelets for serving certificates, judged by identity: a kubelet may serve under the name and address that the
//! cluster knows its node by, and no other (pure).

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// The signer of kubelets' serving certificates.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// The longest request that is read, bytes of PEM.
const PEM_BYTES: usize = 16 << 10;
/// What a serving certificate may be used for.
const USAGES: [&str; 3] = ["digital signature", "key encipherment", "server auth"];

/// Object identifiers, DER content: commonName, organizationName, extensionRequest, subjectAltName.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
const ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Why a request is not approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not from a kubelet, or for something else.
    #[error("it is not a kubelet's request for a serving certificate: {0}")]
    Kind(&'static str),
    /// Not the PEM of a PKCS#10 request that a kubelet makes.
    #[error("its request cannot be read: {0}")]
    Malformed(&'static str),
    /// A name or address that is not the node's.
    #[error("it asks for {0}, which is not its node's")]
    Foreign(String),
}

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    common_name: String,
    organizations: Vec<String>,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// Whether a CertificateSigningRequest object waits for this judgement.
pub fn is_pending(object: &Value) -> bool {
    let decided = object["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
    object["spec"]["signerName"] == SIGNER && !decided
}

/// Judges a request; `address` knows the members' addresses by name.
///
/// # Errors
/// [`Refused`].
pub fn judge(object: &Value, address: impl Fn(&str) -> Option<Ipv4Addr>) -> Result<(), Refused> {
    let spec = &object["spec"];
    let user = spec["username"].as_str().unwrap_or_default();
    let node = user.strip_prefix("system:node:").ok_or(Refused::Kind("its user is no node"))?;
    let words = |key: &str| -> Vec<&str> {
        spec[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    if !words("groups").contains(&"system:nodes") {
        return Err(Refused::Kind("its user is not of the group system:nodes"));
    }
    let usages = words("usages");
    if !usages.contains(&"server auth") || usages.iter().any(|usage| !USAGES.contains(usage)) {
        return Err(Refused::Kind("its usages are not those of a server"));
    }
    let encoded = spec["request"].as_str().unwrap_or_default();
    if encoded.len() > PEM_BYTES * 2 {
        return Err(Refused::Malformed("it is too long"));
    }
    let pem = BASE64.decode(encoded).map_err(|_| Refused::Malformed("no base64"))?;
    let request = parse(&pem)?;
    if request.common_name != user || request.organizations != ["system:nodes"] {
        return Err(Refused::Foreign(cairn_protocol::limits::clean_text(&request.common_name)));
    }
    if request.dns.is_empty() && request.addresses.is_empty() {
        return Err(Refused::Malformed("it names nothing"));
    }
    if let Some(dns) = request.dns.iter().find(|dns| *dns != node) {
        return Err(Refused::Foreign(cairn_protocol::limits::clean_text(dns)));
    }
    let own = address(node).map(IpAddr::V4);
    match request.addresses.iter().find(|found| Some(**found) != own) {
        Some(found) => Err(Refused::Foreign(found.to_string())),
        None => Ok(()),
    }
}

/// Reads a PKCS#10 request (RFC 2986), PEM. The API server has checked its signature. Fuzz entry point.
fn parse(pem: &[u8]) -> Result<Request, Refused> {
    use rustls::pki_types::CertificateSigningRequestDer;
    use rustls::pki_types::pem::PemObject as _;
    if pem.len() > PEM_BYTES {
        return Err(Refused::Malformed("it is too long"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| Refused::Malformed("no PEM"))?;
    read(der.as_ref()).ok_or(Refused::Malformed("no PKCS#10 as kubelets make it"))
}

/// See [`parse`].
pub fn fuzz(data: &[u8]) {
    let _ = parse(data);
    let _ = read(data);
}

fn read(der: &[u8]) -> Option<Request> {
    let mut request = Request::default();
    let mut info = Der(Der(Der(der).take(0x30)?).take(0x30)?);
    info.take(0x02)?;
    let mut subject = Der(info.take(0x30)?);
    while !subject.0.is_empty() {
        let mut set = Der(subject.take(0x31)?);
        while !set.0.is_empty() {
            let mut pair = Der(set.take(0x30)?);
            let kind = pair.take(0x06)?;
            let (_, text) = pair.any()?;
            let text = String::from_utf8(text.to_vec()).ok()?;
            match kind {
                COMMON_NAME if request.common_name.is_empty() => request.common_name = text,
                ORGANIZATION => request.organizations.push(text),
                _ => return None,
            }
        }
    }
    info.take(0x30)?;
    let mut attributes = Der(info.take(0xa0)?);
    while !attributes.0.is_empty() {
        let mut attribute = Der(attributes.take(0x30)?);
        if attribute.take(0x06)? != EXTENSION_REQUEST {
            return None;
        }
        let mut extensions = Der(Der(attribute.take(0x31)?).take(0x30)?);
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.take(0x30)?);
            if extension.take(0x06)? != ALT_NAME {
                return None;
            }
            let value = match extension.any()? {
                (0x01, _) => extension.take(0x04)?,
                (0x04, value) => value,
                _ => return None,
            };
            alt_names(&mut request, value)?;
        }
    }
    Some(request)
}

/// GeneralNames (RFC 5280 4.2.1.6): names and addresses; another kind of name is nothing that a kubelet asks for.
fn alt_names(request: &mut Request, value: &[u8]) -> Option<()> {
    let mut names = Der(Der(value).take(0x30)?);
    while !names.0.is_empty() {
        match names.any()? {
            (0x82, name) => request.dns.push(String::from_utf8(name.to_vec()).ok()?),
            (0x87, bytes) => {
                let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
                request.addresses.push(v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?);
            }
            _ => return None,
        }
    }
    Some(())
}

/// A reader of DER (X.690), as far as it goes here: tags of one byte, definite lengths.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), rest.get(2..)?),
            _ => return None,
        };
        let content = rest.get(..length)?;
        self.0 = rest.get(length..)?;
        Some((tag, content))
    }

    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.any().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use serde_json::json;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 12);

    fn object(name: &str, group: &str, sans: Vec<SanType>) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = sans;
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({ "spec": {
            "signerName": SIGNER,
            "username": "system:node:w1",
            "groups": ["system:nodes", "system:authenticated"],
            "usages": ["digital signature", "server auth"],
            "request": BASE64.encode(pem),
        } })
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn judge_it(object: &Value) -> Result<(), Refused> {
        judge(object, |name| (name == "w1").then_some(OWN))
    }

    #[test]
    fn a_kubelet_gets_its_own_name_and_address() {
        let good = object("system:node:w1", "system:nodes", vec![dns("w1"), SanType::IpAddress(OWN.into())]);
        assert_eq!(judge_it(&good), Ok(()));
        assert!(is_pending(&good));
        let mut decided = good.clone();
        decided["status"] = json!({ "conditions": [{ "type": "Denied" }] });
        assert!(!is_pending(&decided));
    }

    #[test]
    fn nobody_gets_another_s() {
        let other = Ipv4Addr::new(10, 77, 0, 13);
        for (object, expect) in [
            (object("system:node:w1", "system:nodes", vec![dns("cp1")]), "asks for cp1"),
            (
                object("system:node:w1", "system:nodes", vec![SanType::IpAddress(other.into())]),
                "asks for 10.77.0.13",
            ),
            (object("system:node:w2", "system:nodes", vec![dns("w1")]), "asks for system:node:w2"),
            (object("system:node:w1", "system:masters", vec![dns("w1")]), "asks for system:node:w1"),
            (object("system:node:w1", "system:nodes", vec![]), "cannot be read"),
            (
                object(
                    "system:node:w1",
                    "system:nodes",
                    vec![SanType::URI("spiffe://x".try_into().unwrap())],
                ),
                "cannot be read",
            ),
        ] {
            let error = judge_it(&object).unwrap_err().to_string();
            assert!(error.contains(expect), "{expect}: {error}");
        }
        let good = object("system:node:w1", "system:nodes", vec![dns("w1")]);
        for (key, value) in [
            ("username", json!("admin")),
            ("groups", json!(["system:authenticated"])),
            ("usages", json!(["client auth"])),
            ("usages", json!(["server auth", "client auth"])),
            ("request", json!("x".repeat(PEM_BYTES * 3))),
            ("request", json!("!")),
        ] {
            let mut bad = good.clone();
            bad["spec"][key] = value;
            assert!(judge_it(&bad).is_err(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
        }
    }
}

//! The document: a compact JWS (RFC 7515 §7.1) signed with EdDSA (RFC 8037 §3.1), whose `kid` names the issuer.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::config::Licensing;
use crate::licence::{Licence, Rejection};

/// A pasted text is no longer than this, in octets.
const TEXT_MAX: usize = 256 * 1024;
/// Two licences in one paste.
const SEVERAL: &str = "there is more than one in it: install them one after the other";
/// Places looked at for the beginning of a licence.
const STARTS_MAX: usize = 64;
/// The characters of a signature of 64 octets.
const SIGNATURE_LEN: usize = 86;
/// PKCS#8 of an Ed25519 seed (RFC 8410 §7), all but the seed.
const PKCS8_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SEED_LEN: usize = 32;

/// A private key, as it is kept in a file: PKCS#8 in PEM, which other tools read too.
pub struct KeyFile([u8; PKCS8_HEAD.len() + SEED_LEN]);

impl KeyFile {
    /// A new key.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut der = [0; PKCS8_HEAD.len() + SEED_LEN];
        der[..PKCS8_HEAD.len()].copy_from_slice(&PKCS8_HEAD);
        getrandom::fill(&mut der[PKCS8_HEAD.len()..])?;
        Ok(Self(der))
    }

    /// Reads a key file; `None` when it is none.
    pub fn from_pem(text: &str) -> Option<Self> {
        let base64: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
        let der = <[u8; PKCS8_HEAD.len() + SEED_LEN]>::try_from(STANDARD.decode(base64).ok()?).ok()?;
        let key = Self(der);
        (der[..PKCS8_HEAD.len()] == PKCS8_HEAD).then_some(key)
    }

    /// The text of the file.
    pub fn to_pem(&self) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(self.0))
    }

    fn public(&self) -> Vec<u8> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&self.0[PKCS8_HEAD.len()..]);
        pair.expect("any 32 octets are a seed").public_key().as_ref().to_vec()
    }

    /// The public key, as the configuration names it.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.public())
    }

    /// What a licence binds itself to: 80 bits of a hash of the public key, in letters one can read out.
    pub fn token(&self) -> String {
        // Crockford's base 32: no I, L, O and U.
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.public());
        let bits = digest.as_ref()[..10].iter().fold(0u128, |bits, octet| bits << 8 | u128::from(*octet));
        let letter = |at: u32| char::from(LETTERS[(bits >> (75 - 5 * at) & 31) as usize]);
        let groups: Vec<String> = (0..4).map(|group| (0..4).map(|at| letter(group * 4 + at)).collect()).collect();
        format!("SW-{}", groups.join("-"))
    }
}

/// Signs a licence. Its issuer becomes the `kid`.
pub fn sign(licence: &Licence, key: &KeyFile) -> Result<String, jsonwebtoken::errors::Error> {
    let header = Header { kid: Some(licence.issuer.clone()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, licence, &EncodingKey::from_ed_der(&key.0))
}

/// Reads a pasted document and checks signature and claims. Returns the licence, and the document without what pasting
/// added.
pub fn decode(pasted: &str, licensing: &Licensing) -> Result<(Licence, String), Rejection> {
    let text = clean(pasted)?;
    let header = jsonwebtoken::decode_header(&text).map_err(|_| Rejection::NotALicence("its first part is damaged"))?;
    if header.alg != Algorithm::EdDSA {
        return Err(Rejection::NotALicence("it is signed in another way (only EdDSA is accepted)"));
    }
    let issuer = header.kid.ok_or(Rejection::NotALicence("it names no issuer (kid)"))?;
    let known = licensing.issuers.iter().find(|known| *known.name == *issuer);
    let Some(known) = known else {
        return Err(Rejection::UnknownIssuer { issuer, known: licensing.issuer_names() });
    };
    let bad = || Rejection::BadSignature(issuer.clone());
    let key = DecodingKey::from_ed_components(&known.key).map_err(|_| bad())?;
    // Terms are judged by `licence`, at the time that counts; here only the signature is.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let claims = jsonwebtoken::decode::<serde_json::Value>(&text, &key, &validation).map_err(|_| bad())?.claims;
    let licence: Licence = serde_json::from_value(claims).map_err(|error| Rejection::Claims(error.to_string()))?;
    licence.check()?;
    if licence.issuer != issuer {
        return Err(Rejection::Claims(format!("signed as {issuer:?}, and issued by {:?}", licence.issuer)));
    }
    Ok((licence, text))
}

/// What a pasted document says, its signature not looked at. For people; nothing may depend on it.
pub fn peek(pasted: &str) -> Result<Licence, Rejection> {
    let text = clean(pasted)?;
    let claims = text.split('.').nth(1).unwrap_or_default();
    let damaged = Rejection::NotALicence("its second part is damaged");
    let json = URL_SAFE_NO_PAD.decode(claims).map_err(|_| damaged)?;
    let licence: Licence = serde_json::from_slice(&json).map_err(|error| Rejection::Claims(error.to_string()))?;
    // Control characters among the rest: what is shown must not drive a terminal.
    licence.check()?;
    Ok(licence)
}

/// Whether a pasted document is signed by a known issuer and makes sense.
pub fn verify(pasted: &str, licensing: &Licensing) -> Result<(), Rejection> {
    decode(pasted, licensing).map(|_| ())
}

/// The document within what was pasted: blanks, line breaks, quotation marks, the `>` of a quoted mail and the `=` of its
/// wrapping are not part of it, nor is what stands before and behind.
fn clean(pasted: &str) -> Result<String, Rejection> {
    if pasted.len() > TEXT_MAX {
        return Err(Rejection::NotALicence("it is too long"));
    }
    let mut first = None;
    // Prose may hold the same three letters.
    for (start, _) in pasted.match_indices("eyJ").take(STARTS_MAX) {
        match clean_from(&pasted[start..]) {
            Ok(text) if jsonwebtoken::decode_header(&text).is_ok() => return Ok(text),
            Ok(_) => first = first.or(Some("its first part is damaged")),
            Err(SEVERAL) => return Err(Rejection::NotALicence(SEVERAL)),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(Rejection::NotALicence(first.unwrap_or("no licence is in it")))
}

fn clean_from(pasted: &str) -> Result<String, &'static str> {
    let is_ours = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut text: String = pasted.chars().filter(is_ours).collect();
    let dots: Vec<usize> = text.match_indices('.').map(|(at, _)| at).take(2).collect();
    let [_, second] = dots[..] else { return Err("its end is missing") };
    let end = second + 1 + SIGNATURE_LEN;
    if text.len() < end {
        return Err("its end is missing");
    }
    if text[end..].contains("eyJ") && text[end..].matches('.').count() >= 2 {
        return Err(SEVERAL);
    }
    text.truncate(end);
    Ok(text)
}

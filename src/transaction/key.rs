//! How a message finds its transaction.
//!
//! Requests: by branch, sent-by and method (RFC 3261 §17.2.3), or by what RFC 2543 compared when the branch is not
//! ours to trust. Responses: our own branch names the client transaction outright ([`Branch`]), so no header is
//! hashed and nothing is searched.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

use crate::sip::via::MAGIC_COOKIE;
use crate::sip::{Message, Method, message::Essentials};
use crate::store::Key;

/// The secret every keyed hash of a process is made with: peers choose Call-IDs and branches, so they must not be
/// able to choose what collides, nor to forge a [`Cookie`].
#[derive(Clone, Copy)]
pub struct Secret([u8; 16]);

/// 128 bits that stand for a transaction or a dialog: the first half is looked up, the second compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Fingerprint {
    /// Under which it is stored.
    pub hash: u64,
    /// What else must be equal.
    pub check: u64,
}

impl Secret {
    /// A secret from random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// 64 keyed bits of `value`.
    pub fn hash(&self, value: &impl Hash) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        value.hash(&mut hasher);
        hasher.finish()
    }

    fn fingerprint(&self, value: &impl Hash) -> Fingerprint {
        let mut hasher = SipHasher128::new_with_key(&self.0);
        value.hash(&mut hasher);
        let both = hasher.finish128();
        Fingerprint { hash: both.h1, check: both.h2 }
    }

    /// The fingerprint of a server transaction. ACK and CANCEL have that of the INVITE they belong to when `method` is
    /// [`Method::Invite`].
    pub fn transaction(&self, message: &Message<'_>, found: &Essentials<'_>, method: Method) -> Fingerprint {
        let class = if method == Method::Ack { Method::Invite } else { method } as u8;
        // RFC 3261 §17.2.3: the branch counts only when it starts with the magic cookie and says something.
        match found.via.branch() {
            Some(branch) if branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE) => {
                match found.via.host {
                    crate::sip::Host::Ip(ip) => self.fingerprint(&(0u8, class, branch, ip, found.via.port)),
                    crate::sip::Host::Name(name) => self.fingerprint(&(1u8, class, branch, name, found.via.port)),
                }
            }
            // Request-URI, From tag, Call-ID, CSeq and top Via; the To tag is left out, since an ACK has one
            // where its INVITE had none.
            branch => self.fingerprint(&(
                2u8,
                class,
                message.request_uri(),
                found.from_tag,
                found.call_id,
                found.cseq.number,
                branch,
                found.via.port,
            )),
        }
    }

    /// The fingerprint of a call: Call-ID and the caller's tag.
    pub fn call(&self, call_id: &[u8]) -> Fingerprint {
        self.fingerprint(&(3u8, call_id))
    }

    /// A tag, shortened to what two dialogs of one Call-ID need to be told apart.
    pub fn tag(&self, tag: &[u8]) -> u32 {
        (self.hash(&(4u8, tag)) as u32).max(1)
    }

    /// What must be equal for a request seen before to be a loop and not a spiral (RFC 3261 §16.6 step 8, RFC 5393
    /// §4.2): everything that decides where it goes.
    pub fn loop_hash(&self, message: &Message<'_>, found: &Essentials<'_>) -> u32 {
        let route = message.value(crate::sip::HeaderName::Route);
        self.hash(&(5u8, message.request_uri(), route, found.call_id, found.from_tag, found.to_tag, found.cseq.number))
            as u32
    }

    fn mac(&self, domain: u8, key: Key, extra: u32) -> u64 {
        self.hash(&(domain, key, extra))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn put_hex(text: &mut [u8], mut number: u64) {
    for octet in text.iter_mut().rev() {
        *octet = HEX[(number & 15) as usize];
        number >>= 4;
    }
}

fn take_hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |number, octet| {
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            b'A'..=b'F' => octet - b'A' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}

/// Octets of a [`Cookie`].
pub const COOKIE_LEN: usize = 32;
/// Octets of a [`Branch`].
pub const BRANCH_LEN: usize = MAGIC_COOKIE.len() + 40;

/// The name of a call in our Record-Route URI: where it is kept, and a MAC so that nobody can make one up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie([u8; COOKIE_LEN]);

impl Cookie {
    /// Signs `call`.
    pub fn new(secret: &Secret, call: Key) -> Self {
        let mut text = [0; COOKIE_LEN];
        put_hex(&mut text[..8], u64::from(call.index));
        put_hex(&mut text[8..16], u64::from(call.generation));
        put_hex(&mut text[16..], secret.mac(6, call, 0));
        Self(text)
    }

    /// The call a cookie names, when we signed it.
    pub fn verify(secret: &Secret, text: &[u8]) -> Option<Key> {
        if text.len() != COOKIE_LEN {
            return None;
        }
        let call = Key { index: take_hex(&text[..8])? as u32, generation: take_hex(&text[8..16])? as u32 };
        (take_hex(&text[16..])? == secret.mac(6, call, 0)).then_some(call)
    }

    /// As it is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The branch of a request we forwarded: the client transaction's key, the loop hash, and a MAC over both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The client transaction.
    pub client: Key,
    /// See [`Secret::loop_hash`].
    pub loop_hash: u32,
}

impl Branch {
    /// As it is written, magic cookie included.
    pub fn write(&self, secret: &Secret) -> [u8; BRANCH_LEN] {
        let mut text = [0; BRANCH_LEN];
        let start = MAGIC_COOKIE.len();
        text[..start].copy_from_slice(MAGIC_COOKIE);
        put_hex(&mut text[start..start + 8], u64::from(self.client.index));
        put_hex(&mut text[start + 8..start + 16], u64::from(self.client.generation));
        put_hex(&mut text[start + 16..start + 24], u64::from(self.loop_hash));
        put_hex(&mut text[start + 24..], secret.mac(7, self.client, self.loop_hash));
        text
    }

    /// Reads a branch; `None` when we did not write it.
    pub fn verify(secret: &Secret, text: &[u8]) -> Option<Self> {
        let start = MAGIC_COOKIE.len();
        if text.len() != BRANCH_LEN || !text[..start].eq_ignore_ascii_case(MAGIC_COOKIE) {
            return None;
        }
        let client = Key {
            index: take_hex(&text[start..start + 8])? as u32,
            generation: take_hex(&text[start + 8..start + 16])? as u32,
        };
        let loop_hash = take_hex(&text[start + 16..start + 24])? as u32;
        (take_hex(&text[start + 24..])? == secret.mac(7, client, loop_hash)).then_some(Self { client, loop_hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_signed_is_read() {
        let (ours, theirs) = (Secret::new([1; 16]), Secret::new([2; 16]));
        let key = Key { index: 77, generation: 3 };
        let cookie = Cookie::new(&ours, key);
        assert_eq!(Cookie::verify(&ours, cookie.as_bytes()), Some(key));
        assert_eq!(Cookie::verify(&theirs, cookie.as_bytes()), None);
        let branch = Branch { client: key, loop_hash: 9 };
        let mut text = branch.write(&ours);
        assert_eq!(Branch::verify(&ours, &text), Some(branch));
        assert_eq!(Branch::verify(&theirs, &text), None);
        for at in 0..text.len() {
            let was = text[at];
            text[at] = if was == b'1' { b'2' } else { b'1' };
            assert_eq!(Branch::verify(&ours, &text), None, "octet {at}");
            text[at] = was;
        }
        assert_eq!(Branch::verify(&ours, b"z9hG4bK"), None);
    }
}

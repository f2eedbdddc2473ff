//! How a message finds its transaction.
//!
//! Requests: by branch, sent-by and method (RFC 3261 §17.2.3), or by what RFC 2543 compared when the branch is not
//! ours to trust. Responses: our own branch names the client transaction outright ([`Branch`]), so no header is
//! hashed and nothing is searched.

use std::hash::Hasher;
use std::net::IpAddr;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use siphasher::sip::SipHasher13;

use crate::sip::via::MAGIC_COOKIE;
use crate::sip::{Message, Method, message::Essentials};
use crate::store::Key;

/// The secret every keyed hash of a process is made with: peers choose Call-IDs and branches, so they must not be
/// able to choose what collides, nor to forge a [`Cookie`].
///
/// Two kinds of hash. What leaves the process is made with SipHash, from which nobody can learn the key. What only finds
/// things in tables is made with a hash five times cheaper, seeded from the secret.
#[derive(Clone)]
pub struct Secret {
    mac: SipHasher13,
    shared: SharedSeed,
    /// For the two halves of a [`Fingerprint`].
    seeds: [u64; 2],
    /// For [`Secret::loop_hash`], which leaves the process, although nothing depends on its being secret.
    loop_shared: SharedSeed,
}

/// 128 bits that stand for a transaction or a dialog: the first half is looked up, the second compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Fingerprint {
    /// Under which it is stored.
    pub hash: u64,
    /// What else must be equal.
    pub check: u64,
}

/// What is hashed: the same octets never give the same hash for two purposes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Domain {
    /// A transaction by branch and the address in sent-by.
    Transaction,
    /// A transaction by branch and the name in sent-by.
    TransactionOfName,
    /// A transaction of a peer that writes no branch of RFC 3261.
    Transaction2543,
    /// A Call-ID.
    Call,
    /// A tag.
    Tag,
    /// What decides where a request goes.
    Loop,
    /// A [`Cookie`]'s MAC.
    Cookie,
    /// A [`Branch`]'s MAC.
    Branch,
    /// What an answer must repeat of its request.
    Identity,
    /// The branch of an ACK that belongs to no transaction.
    Ack,
    /// The To tag of answers made here.
    LocalTag,
}

impl Secret {
    /// A secret from random bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        let mac = SipHasher13::new_with_key(&bytes);
        // Longer than anything a MAC is made of, and so apart from all of them.
        let seed = |number: u8| mac.hash(&[number; 64]);
        Self {
            shared: SharedSeed::from_u64(seed(0)),
            seeds: [seed(1), seed(2)],
            loop_shared: SharedSeed::from_u64(seed(3)),
            mac,
        }
    }

    /// 64 keyed bits of `parts` that may leave the process. `domain` tells hashes of different things apart.
    pub fn sign(&self, domain: Domain, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.mac;
        hasher.write_u32(domain as u32);
        for part in parts {
            hasher.write_u32(part.len() as u32);
            hasher.write(part);
        }
        hasher.finish()
    }

    /// 64 keyed bits of `parts` that stay here.
    pub fn hash(&self, domain: Domain, number: u32, parts: &[&[u8]]) -> u64 {
        fold(&self.shared, self.seeds[0], domain, 0, u64::from(number), parts)
    }

    fn digest(&self, domain: Domain, class: u8, number: u64, parts: &[&[u8]]) -> Fingerprint {
        let half = |seed| fold(&self.shared, seed, domain, class, number, parts);
        Fingerprint { hash: half(self.seeds[0]), check: half(self.seeds[1]) }
    }

    /// The fingerprint of a server transaction. ACK and CANCEL have that of the INVITE they belong to when `method` is
    /// [`Method::Invite`].
    pub fn transaction(&self, message: &Message<'_>, found: &Essentials<'_>, method: Method) -> Fingerprint {
        let class = if method == Method::Ack { Method::Invite } else { method } as u8;
        // RFC 3261 §17.2.3: the branch counts only when it starts with the magic cookie and says something.
        let port = u64::from(found.via.port.unwrap_or_default());
        match found.via.branch() {
            Some(branch) if branch.len() > MAGIC_COOKIE.len() && branch.starts_with(MAGIC_COOKIE) => {
                match found.via.host {
                    crate::sip::Host::Ip(IpAddr::V4(ip)) => {
                        self.digest(Domain::Transaction, class, port, &[branch, &ip.octets()])
                    }
                    crate::sip::Host::Ip(IpAddr::V6(ip)) => {
                        self.digest(Domain::Transaction, class, port, &[branch, &ip.octets()])
                    }
                    crate::sip::Host::Name(name) => {
                        self.digest(Domain::TransactionOfName, class, port, &[branch, name])
                    }
                }
            }
            // Request-URI, From tag, Call-ID, CSeq and top Via; the To tag is left out, since an ACK has one
            // where its INVITE had none.
            branch => self.digest(
                Domain::Transaction2543,
                class,
                port << 32 | u64::from(found.cseq.number),
                &[message.request_uri(), found.from_tag.unwrap_or_default(), found.call_id, branch.unwrap_or_default()],
            ),
        }
    }

    /// The fingerprint of a call: its Call-ID.
    pub fn call(&self, call_id: &[u8]) -> Fingerprint {
        self.digest(Domain::Call, 0, 0, &[call_id])
    }

    /// A tag, shortened to what two dialogs of one Call-ID need to be told apart.
    pub fn tag(&self, tag: &[u8]) -> u32 {
        (self.hash(Domain::Tag, 0, &[tag]) as u32).max(1)
    }

    /// What must be equal for a request seen before to be a loop and not a spiral (RFC 3261 §16.6 step 8, RFC 5393
    /// §4.2): everything that decides where it goes.
    pub fn loop_hash(&self, message: &Message<'_>, found: &Essentials<'_>) -> u32 {
        let parts = [
            message.request_uri(),
            message.value(crate::sip::HeaderName::Route).unwrap_or_default(),
            found.call_id,
            found.from_tag.unwrap_or_default(),
            found.to_tag.unwrap_or_default(),
        ];
        let seed = self.seeds[0];
        fold(&self.loop_shared, seed, Domain::Loop, 0, u64::from(found.cseq.number), &parts) as u32
    }

    fn mac(&self, domain: Domain, key: Key, extra: u32) -> u64 {
        let mut text = [0; 16];
        let words = [domain as u32, key.index, key.generation, extra];
        for (place, word) in text.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.mac.hash(&text)
    }
}

/// The one place where tables' hashes are made. Not inlined: what a call executes should fit into the processor's
/// instruction cache.
#[inline(never)]
fn fold(shared: &SharedSeed, seed: u64, domain: Domain, class: u8, number: u64, parts: &[&[u8]]) -> u64 {
    debug_assert!(parts.len() <= 6, "the head has room for six lengths");
    let mut hasher = FoldHasher::with_seed(seed, shared);
    // Lengths first, so that no octet can move from one part to the next.
    let start = u128::from(domain as u8) << 8 | u128::from(class);
    hasher.write_u128(parts.iter().fold(start, |head, part| head << 16 | part.len() as u128));
    for part in parts {
        hasher.write(part);
    }
    hasher.write_u64(number);
    hasher.finish()
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
        put_hex(&mut text[16..], secret.mac(Domain::Cookie, call, 0));
        Self(text)
    }

    /// The call a cookie names, when we signed it.
    pub fn verify(secret: &Secret, text: &[u8]) -> Option<Key> {
        if text.len() != COOKIE_LEN {
            return None;
        }
        let call = Key { index: take_hex(&text[..8])? as u32, generation: take_hex(&text[8..16])? as u32 };
        (take_hex(&text[16..])? == secret.mac(Domain::Cookie, call, 0)).then_some(call)
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
        put_hex(&mut text[start + 24..], secret.mac(Domain::Branch, self.client, self.loop_hash));
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
        (take_hex(&text[start + 24..])? == secret.mac(Domain::Branch, client, loop_hash))
            .then_some(Self { client, loop_hash })
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

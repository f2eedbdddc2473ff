//! What loads: only what was signed, however it was pasted.

use proptest::prelude::*;
use sipweir::config::{Config, Issuer, Licensing};
use sipweir::licence::claims::Consumed;
use sipweir::licence::{Entitlement, EntitlementKind, Kind, Rejection};
use sipweir::vault::{KeyFile, decode, sign};

use super::*;

/// The key of RFC 8037 appendix A.
pub(crate) const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
pub(crate) const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

pub(crate) fn key() -> KeyFile {
    KeyFile::from_pem(PEM).expect("a key")
}

pub(crate) fn licensing() -> Licensing {
    Licensing { issuers: vec![Issuer { name: "vendor".into(), key: PUBLIC.into() }], ..Licensing::default() }
}

pub(crate) fn signed(licence: &Licence) -> String {
    sign(licence, &key()).expect("signed")
}

fn rejected(text: &str) -> &'static str {
    decode(text, &licensing()).map(|_| "loaded").unwrap_or_else(|rejection| rejection.label())
}

#[test]
fn the_key_is_the_one_of_rfc_8037() {
    assert_eq!(key().public_key(), PUBLIC);
    assert_eq!(KeyFile::from_pem(&key().to_pem()).expect("a key").public_key(), PUBLIC);
    assert_eq!(key().token(), key().token());
    let token = key().token();
    assert!(token.starts_with("SW-") && token.len() == 22, "{token}");
    assert_ne!(token, KeyFile::generate().expect("randomness").token());
}

#[test]
fn what_was_signed_is_what_is_read() {
    let suite = Entitlement {
        includes: vec![channels(10), feature("ivr")],
        ..Entitlement::new(EntitlementKind::Suite, "contact-centre", Some(2))
    };
    let licence = Licence {
        server: Some("SW-HERE".into()),
        replaces: vec!["OLD".into()],
        revokes: vec!["GONE".into()],
        ..between(0, 365, licence("TESTLIC0002", vec![suite, Entitlement { redundancy: true, ..channels(3) }]))
    };
    assert_eq!(decode(&signed(&licence), &licensing()).map(|(read, _)| read), Ok(licence));
}

#[test]
fn a_pasted_licence_loads_whatever_the_mail_program_did_to_it() {
    let text = signed(&licence("A", vec![channels(20)]));
    let wrapped = |width: usize, end: &str, start: &str| {
        let lines: Vec<String> = text
            .as_bytes()
            .chunks(width)
            .map(|line| format!("{start}{}{end}", std::str::from_utf8(line).expect("ASCII")))
            .collect();
        lines.join("\n")
    };
    for pasted in [
        format!("  {text}  \n"),
        format!("\u{feff}\"{text}\"\r\n"),
        format!("Dear customer,\n\nyour licence:\n\n{text}\n\n-- \nThe vendor's sales team"),
        wrapped(76, "=", ""),
        wrapped(60, "\r", "> "),
        wrapped(40, " ", "\t\u{200b}"),
        format!("<{text}>"),
        format!("it begins with eyJ and is here:\n{text}"),
    ] {
        assert_eq!(decode(&pasted, &licensing()).map(|(_, clean)| clean), Ok(text.clone()), "{pasted}");
    }
}

#[test]
fn every_reason_is_its_own() {
    let good = licence("A", vec![channels(20)]);
    let text = signed(&good);
    let stranger = signed(&Licence { issuer: "stranger".into(), ..good.clone() });
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(rejected(&text), "loaded");
    assert_eq!(rejected(""), "not_a_licence");
    assert_eq!(rejected("hello"), "not_a_licence");
    assert_eq!(rejected(&text[..text.len() - 3]), "not_a_licence");
    assert_eq!(rejected(&"eyJ".repeat(100_000)), "not_a_licence");
    assert_eq!(rejected(&format!("{text}\n{text}")), "not_a_licence", "two at once");
    assert_eq!(rejected(&stranger), "unknown_issuer");
    let other = sign(&good, &KeyFile::generate().expect("randomness")).expect("signed");
    assert_eq!(rejected(&other), "bad_signature");
    // RFC 8725 §2.1: neither "none" nor a MAC made with the public key.
    let none = "eyJhbGciOiJub25lIn0";
    let hs256 = "eyJhbGciOiJIUzI1NiIsImtpZCI6InZlbmRvciJ9";
    for header in [none, hs256] {
        assert_eq!(rejected(&format!("{header}.{}.{}", parts[1], parts[2])), "not_a_licence");
    }
    for bad in [
        Licence { kind: Kind::Permanent, expires: Some(day(9)), ..good.clone() },
        Licence { kind: Kind::Subscription, expires: None, ..good.clone() },
        Licence { kind: Kind::Trial, expires: Some(day(60)), ..good.clone() },
        between(9, 9, good.clone()),
        Licence { entitlements: Vec::new(), ..good.clone() },
        Licence { entitlements: vec![channels(0)], ..good.clone() },
        Licence { entitlements: vec![channels(1), channels(2)], ..good.clone() },
        Licence { entitlements: vec![Entitlement { quantity: Some(1), ..feature("ivr") }], ..good.clone() },
        Licence { entitlements: vec![Entitlement::new(EntitlementKind::Suite, "s", None)], ..good.clone() },
        Licence { entitlements: vec![Entitlement { includes: vec![channels(1)], ..channels(2) }], ..good.clone() },
        Licence {
            entitlements: vec![Entitlement { consumed: Some(Consumed::Configured), ..channels(1) }],
            ..good.clone()
        },
        Licence { entitlements: vec![channels(1); 300], ..good.clone() },
        Licence { replaces: vec!["A".into()], ..good.clone() },
        Licence { code: String::new(), ..good.clone() },
        Licence { customer: "a\nb".into(), ..good },
    ] {
        assert_eq!(rejected(&signed(&bad)), "claims", "{bad:?}");
    }
}

#[test]
fn a_licence_with_one_flipped_bit_never_loads() {
    let text = signed(&licence("A", vec![channels(20)]));
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let flipped = String::from_utf8(bytes).expect("ASCII");
            assert!(decode(&flipped, &licensing()).is_err(), "octet {at}, bit {bit}");
        }
    }
}

#[test]
fn an_error_says_what_helps() {
    let bound = Rejection::WrongServer { theirs: "SW-THERE".into(), ours: "SW-HERE".into() };
    assert_eq!(
        bound.to_string(),
        "it is bound to server SW-THERE, and this is SW-HERE; ask the issuer to bind it to SW-HERE"
    );
}

#[test]
fn the_configuration_says_what_licences_need() {
    let text = |node: &str, pool: &str, issuer: &str| {
        format!(
            "{node}\n[[listen]]\nuri = \"udp:192.0.2.1:5060\"\n[[trunk]]\nname = \"a\"\nfrom = [\"198.51.100.0/24\"]\n\
             [[target]]\nname = \"pbx\"\nuri = [\"sip:10.0.0.10\"]\n[[pool]]\nname = \"p\"\n{pool}\n{issuer}\n\
             [[service]]\nname = \"menu\"\nkind = \"ivr\"\nnumbers = [\"100\"]\npool = \"p\"\ntarget = \"pbx\"\n"
        )
    };
    let node = "[node]\ndata_dir = \"/var/lib/sipweir\"";
    let issuer = format!("[[licence.issuer]]\nname = \"vendor\"\nkey = \"{PUBLIC}\"");
    let config = Config::parse(&text(node, "licence = \"q\"", &issuer)).expect("valid");
    assert_eq!(config.services[0].feature.as_deref(), Some("ivr"), "an IVR service on a licensed pool");
    let problems = |text: &str| -> Vec<String> {
        Config::parse(text).expect_err("has problems").into_iter().map(|problem| problem.key).collect()
    };
    assert_eq!(problems(&text("", "licence = \"q\"", "")), ["node.data_dir", "licence.issuer"]);
    assert_eq!(problems(&text(node, "licence = \"q\"\nchannels = 3", &issuer)), ["pool[0].channels"]);
    assert_eq!(problems(&text(node, "", &issuer)), ["pool[0].channels"]);
    assert_eq!(problems(&text(node, "channels = 3\ntrial_channels = 1", &issuer)), ["pool[0].trial_channels"]);
    let twice = "licence = \"q\"\n[[pool]]\nname = \"o\"\nlicence = \"q\"";
    assert_eq!(problems(&text(node, twice, &issuer)), ["pool \"o\""], "channels of one product are one pool");
    assert_eq!(problems(&text("[node]\ndata_dir = \"x\"", "licence = \"q\"", &issuer)), ["node.data_dir"]);
    let short = issuer.replace(PUBLIC, "short");
    assert_eq!(problems(&text(node, "licence = \"q\"", &short)), ["licence.issuer[0].key"]);
}

proptest! {
    /// Whatever stands between its characters, it is the same licence; and no text makes the loader fail otherwise.
    #[test]
    fn noise_between_the_characters_is_no_part_of_it(noise in proptest::collection::vec((0..10_000usize, "[ \t\r\n>\"'=*]{1,4}"), 0..40)) {
        let text = signed(&licence("A", vec![channels(20)]));
        let mut pasted = text.clone();
        for (at, noise) in noise {
            // Not into its first three, by which it is found.
            pasted.insert_str(3 + at % (pasted.len() - 3), &noise);
        }
        prop_assert_eq!(decode(&pasted, &licensing()).map(|(_, clean)| clean), Ok(text));
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in "(eyJ)?[a-zA-Z0-9._\u{0}\u{e9} -]{0,300}") {
        prop_assert!(decode(&text, &licensing()).is_err());
    }
}
